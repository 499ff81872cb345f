import unicodedata

import pytest

from lucidlm.runtime.wording import duration, fixed, one_line, plural, printable, whole_words


@pytest.mark.parametrize(("count", "noun", "says"), [
    (0, "step", "0 steps"), (1, "head", "1 head"), (2000, "document", "2,000 documents"),
    (1.0, "byte", "1 byte"), (1.5, "byte", "1.5 bytes"), (1, "piece of it", "1 piece of it"),
    (2, "piece of it", "2 pieces of it"),
])  # fmt: skip
def test_a_noun_has_its_s_unless_the_count_is_one(count, noun, says):
    assert plural(count, noun) == says


@pytest.mark.parametrize(("seconds", "says"), [
    (0.0, "under 1 second"), (1.2, "1 second"), (59.4, "59 seconds"), (59.6, "1.0 minutes"),
    (156, "2.6 minutes"),
])  # fmt: skip
def test_a_short_time_is_never_called_no_minutes(seconds, says):
    assert duration(seconds) == says


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[2J", "\\x1b[2J"), ("a\rb", "a\\rb"), ("bell\x07", "bell\\x07"), ("\x9b31m", "\\x9b31m"),
    ("evil\u202egnp.exe", "evil\\u202egnp.exe"), ("caf\udce9", "caf\\udce9"), ("\x7f", "\\x7f"),
    ("two\nlines\tand a tab", "two\nlines\tand a tab"), ("C:\\new", "C:\\new"),
    ("Größe \u05d0 😀", "Größe \u05d0 😀"),
])  # fmt: skip
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_of_all_characters_no_control_is_left_and_all_others_stay():
    text = "".join(map(chr, [*range(0x3000), *range(0xD700, 0xE100)]))
    shown = printable(text)
    assert {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs")} == {"\n", "\t"}
    assert set(shown) == {
        letter
        for letter in text
        if unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp")
        and unicodedata.bidirectional(letter)
        not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    } | {"\n", "\t"}
    shown.encode("utf-8")


def test_a_name_with_newlines_stays_in_its_line():
    assert one_line("two\nlines\t\x1b") == "two\\nlines\\t\\x1b"


@pytest.mark.parametrize(("value", "shown"), [
    (1234.5, "1,234.50"), (0.0, "0.00"), (999999999.0, "999,999,999.00"),
    (1e9, "1.00e+09"), (3.2e300, "3.20e+300"), (-1e12, "-1.00e+12"),
    (float("inf"), "inf"), (float("nan"), "nan"),
])  # fmt: skip
def test_a_number_of_too_many_digits_is_a_power_of_ten(value, shown):
    assert fixed(value, 2) == shown


@pytest.mark.parametrize(
    ("text", "limit", "says"),
    [("one two three", 9, "one two"), ("one two three", 7, "one two"), ("one", 9, "one"),
     ("東京の夜", 2, "東京"), ("one two", 2, "on")],
)  # fmt: skip
def test_a_text_is_cut_between_words_where_it_has_any(text, limit, says):
    assert whole_words(text, limit) == says
