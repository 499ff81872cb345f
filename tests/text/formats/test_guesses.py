import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_samples import SAMPLES

from lucidlm.text.formats.guesses import likely_encodings

WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
CASES = [(language, encoding) for language, (_, others) in SAMPLES.items() for encoding in (*others, *WIDE)]


@pytest.mark.parametrize(("language", "encoding"), CASES, ids=map(" ".join, CASES))
@pytest.mark.parametrize("length", [25, 200])
def test_what_is_named_gives_the_text_that_was_written(language, encoding, length):
    text = SAMPLES[language][0][:length]
    data = text.encode(encoding)
    named = [data.decode(name) for name in likely_encodings(data)]
    assert text in named
    if length > 100 and encoding != "iso2022_jp":
        assert named[0] == text


def test_plain_english_in_wide_characters_and_in_ebcdic_is_found():
    for encoding in (*WIDE, "cp037"):
        assert likely_encodings(("A plain line of text.\n" * 20).encode(encoding))[0] == encoding


def test_bytes_that_are_no_text_have_no_likely_encoding():
    noise = bytes((i * i * 7 + i * 31 + (i >> 3)) % 251 for i in range(4000))
    assert likely_encodings(noise) == []
    assert likely_encodings(b"\0" * 100) == []


def test_what_is_named_decodes_all_that_follows_too():
    first = "Käse und Würste, sagte der Bäcker.\n".encode("cp1252")
    assert likely_encodings(first)[0] == "cp1252"
    later = b"ASCII for a while\n" * 3000 + b"\x81\n"  # which cp1252 does not have
    assert "cp1252" not in likely_encodings(first, [later])
    assert "latin-1" in likely_encodings(first, [later])


@settings(max_examples=40)
@given(st.binary(max_size=200), st.sampled_from(["", "utf-8", "cp1252"]))
def test_every_encoding_that_is_named_decodes(data, without):
    for name in likely_encodings(data, without=without):
        assert name != without
        assert isinstance(codecs.decode(data, name), str)
