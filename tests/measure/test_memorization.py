import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from memorizations import NOTHING
from recorded import Recorded
from scipy.stats import fisher_exact

from lucidlm.measure import copies, memorization
from lucidlm.measure.continuation import Continuation
from lucidlm.measure.memorization import measure_memorization
from lucidlm.measure.memorized import LongestRun, Memorization, NearShare, Repeated, Share, more
from lucidlm.text.token_file import TokenFile, write_tokens
from lucidlm.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
END = BYTES.end_of_text
SIZES = (1, 2, 4, 8, 16)

# Brute force: slices of lists.


def slices(ids, n):
    found = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return [each for each in found if END not in each]


def brute_share(texts, training, n):
    known = set(slices(training, n))
    grams = [gram for text in texts for gram in slices(text, n)]
    return sum(gram in known for gram in grams) / len(grams) if grams else None


def brute_longest(texts, training):
    longest = 0
    for n in range(1, max(map(len, texts), default=0) + 1):
        if brute_share(texts, training, n):
            longest = n
    return longest


def arrays(texts):
    return [np.array(ids, np.int64) for ids in texts]


def ids_of(text):
    return np.array(BYTES.encode(text), np.uint16)


def random_texts(rng, training, vocab_size):
    """Texts that are partly copied, with end-of-text in some."""
    texts = []
    for _ in range(int(rng.integers(0, 5))):
        text = []
        for _ in range(int(rng.integers(0, 4))):
            start = int(rng.integers(0, len(training)))
            text += training[start : start + int(rng.integers(1, 40))]
            text += rng.integers(0, vocab_size, rng.integers(0, 10)).tolist()
        texts.append(text)
    return texts


@pytest.fixture
def short_runs(monkeypatch):
    """Runs of two bytes are looked for, so that brute force can keep up."""
    monkeypatch.setattr(copies, "ANCHOR", 2)
    monkeypatch.setattr(memorization, "ANCHOR", 2)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
@pytest.mark.parametrize("seed", range(12))
def test_shares_and_the_longest_run_are_those_of_brute_force(monkeypatch, short_runs, chunk, seed):
    monkeypatch.setattr(memorization, "CHUNK", chunk)
    monkeypatch.setattr(memorization, "SPAN", 6)
    rng = np.random.default_rng(seed)
    vocab_size = int(rng.integers(2, 12))
    training = rng.integers(0, vocab_size, int(rng.integers(1, 120))).tolist()
    for place in rng.integers(0, len(training), 3):
        training[place] = END
    generated, heldout = (random_texts(rng, training, vocab_size) for _ in range(2))
    found = measure_memorization(
        BYTES, arrays(generated), arrays(heldout), np.array(training, np.uint16), sizes=SIZES
    )
    for row, n in zip((*found.rows, found.spans), (*SIZES, 6), strict=True):
        assert row.n == n
        for share, texts in ((row.generated, generated), (row.heldout, heldout)):
            assert share == pytest.approx(brute_share(texts, training, n), abs=1e-12)
    longest = brute_longest(generated, training)
    assert found.longest.bytes == (longest if longest >= 2 else 0)
    heldout_longest = brute_longest(heldout, training)
    assert found.longest.heldout_bytes == (heldout_longest if heldout_longest >= 2 else 0)
    text = BYTES.encode(found.longest.text)
    assert len(text) == found.longest.bytes
    assert any(tuple(text) in slices(each, len(text)) for each in generated) or not text
    if text:
        assert found.longest.times == slices(training, len(text)).count(tuple(text))
        assert not found.longest.at_least
    assert found.generated_tokens == sum(map(len, generated))
    assert found.heldout_tokens == sum(map(len, heldout))
    assert found.generated_bytes == sum(id != END for text in generated for id in text)


@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_bytes_are_those_that_the_tokens_spell(monkeypatch, short_runs, chunk):
    monkeypatch.setattr(memorization, "CHUNK", chunk)
    monkeypatch.setattr(memorization, "SPAN", 5)
    tokenizer = Tokenizer.train(["the old clock of the old clock-maker, the clock"] * 3, 290)
    draw = random.Random(1)
    text = " ".join(draw.choice(["the", "old", "clock", "maker", "of"]) for _ in range(60))
    written = "xx" + text[101:130] + "yy" + text[40:52]  # cut inside of tokens
    by_tokens, by_bytes = (
        measure_memorization(
            made, [np.array(made.encode(written))], [], np.array([*made.encode(text), made.end_of_text])
        )
        for made in (tokenizer, BYTES)
    )
    assert len(tokenizer.encode(text)) < len(text) / 2
    assert by_tokens.spans == by_bytes.spans
    assert by_tokens.longest == by_bytes.longest
    assert by_tokens.near == by_bytes.near
    assert by_tokens.repeated == by_bytes.repeated


def test_a_run_may_be_longer_than_many_chunks(monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 64)
    training = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint16)
    generated = np.concatenate([[1, 2, 3], training[100:150], [9], training[201:2000], [4], training[5:70]])
    found = measure_memorization(BYTES, [generated], [generated[:50]], training)
    assert found.longest.bytes == 2000 - 201 + int(training[200] == 9) + int(training[2000] == 4)
    assert (found.longest.times, found.longest.heldout_bytes) == (1, 47)


def test_two_texts_are_not_joined(short_runs):
    training = ids_of("abcdefgh")
    found = measure_memorization(BYTES, [ids_of("abcd"), ids_of("efgh")], [], training, sizes=(4, 5))
    assert found.longest.bytes == 4
    assert found.rows == (Share(4, 1.0, None), Share(5, None, None))


def test_end_of_text_parts_what_stands_around_it(short_runs):
    training = np.concatenate([[END], ids_of("abcd"), [END], ids_of("efgh")])
    generated = np.concatenate([ids_of("abcd"), [END], ids_of("efgh")])
    found = measure_memorization(BYTES, [generated], [], training, sizes=(2, 4, 8))
    assert found.longest.bytes == 4
    assert found.rows == (Share(2, 1.0, None), Share(4, 1.0, None), Share(8, None, None))


def test_a_collision_of_hashes_is_never_reported_as_a_run(monkeypatch):
    monkeypatch.setattr(copies, "_weights", lambda: np.zeros(257, np.uint64))
    found = measure_memorization(BYTES, [ids_of("xy" * 20)], [], ids_of("ab" * 30))
    assert (found.longest.bytes, found.longest.text) == (0, "")


def test_a_token_file_is_read_as_an_array_is(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 50)
    rng = np.random.default_rng(3)
    training = rng.integers(0, 3, 500).astype(np.uint16)
    write_tokens(tmp_path / "train.npy", [training], 257)
    texts = [np.concatenate((training[70:110], rng.integers(0, 3, 100)))], [rng.integers(0, 3, 200)]
    from_file = measure_memorization(BYTES, *texts, TokenFile(tmp_path / "train.npy", 257))
    assert from_file == measure_memorization(BYTES, *texts, training)
    assert from_file.longest.bytes >= 40


@pytest.mark.parametrize("training", [[], [END], [5]])
def test_of_a_tiny_training_text_nothing_stands_anywhere(training):
    found = measure_memorization(BYTES, [np.arange(20)[6:]], [], np.array(training, np.uint16))
    assert found.longest == LongestRun(0, "", 0, False, 0)
    assert [row.generated for row in found.rows] == [0.0, 0.0, None]


def test_nothing_generated_has_no_shares():
    found = measure_memorization(BYTES, [], [ids_of("abcd")], ids_of("abcdefgh"))
    assert [row.generated for row in (*found.rows, found.spans)] == [None] * 4
    assert found.rows[0].heldout == 1
    assert (found.longest.bytes, found.generated_tokens, found.heldout_tokens) == (0, 0, 4)
    assert found.code == "too_little"


def test_progress_counts_the_training_tokens(monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 4)
    seen = Recorded()
    measure_memorization(BYTES, [ids_of("ab")], [], ids_of("abcdefghi"), progress=seen)
    assert seen.stages == [["searching for copies", 9, 9]]
    assert seen.steps == 3


def test_a_sequence_is_counted_where_it_overlaps_and_across_chunks(monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 100)
    sequence = "the number is 4929-1187 "
    training = ids_of("".join(f"{place:4d} {sequence}" for place in range(40)))
    found = measure_memorization(BYTES, [ids_of(f"!!{sequence}!!")], [ids_of(sequence * 3)], training)
    assert found.repeated == Repeated(sequence, len(sequence), 40, False, 3)
    overlapping = measure_memorization(BYTES, [ids_of("a" * 30)], [], ids_of("a" * 60))
    assert overlapping.repeated.times == 31


def test_a_count_beyond_the_places_that_are_kept_says_at_least(monkeypatch):
    monkeypatch.setattr(copies, "MOST_PLACES", 30)
    monkeypatch.setattr(memorization, "CHUNK", 500)
    training = ids_of("one and the same line again\n" * 100)
    found = measure_memorization(BYTES, [ids_of("one and the same line")], [], training)
    assert found.longest.at_least
    assert 30 <= found.longest.times < 100


# Planted copies: each gets a true sentence.


def prose(length: int, seed: int, words: int = 900) -> str:
    draw = random.Random(seed)
    known = [
        "".join(draw.choice("etaoinshrdlucm") for _ in range(draw.randrange(2, 10))) for _ in range(words)
    ]
    draw = random.Random(seed + 1000)
    return " ".join(draw.choice(known) for _ in range(length // 4))[:length]


def changed(text: str, every: int) -> str:
    return "".join("#" if place % every == every - 1 else letter for place, letter in enumerate(text))


BOOK = prose(60_000, 1)
FRESH = [prose(256, seed) for seed in range(20, 24)]
PLACES = (1_000, 17_000, 33_333, 51_000)
COPIES = [BOOK[place : place + 256] for place in PLACES]
HELDOUT = [prose(6_000, 2)]
SECRET = "the key of the safe is under the third stone by the garden gate"[:60]
NUMBER = " 4929-1187-3306-5521 and "


def measured(written, heldout=HELDOUT, book=BOOK, **more) -> Memorization:
    return measure_memorization(
        BYTES, [ids_of(each) for each in written], [ids_of(each) for each in heldout], ids_of(book), **more
    )


@pytest.mark.parametrize(
    ("written", "code"),
    [
        (FRESH, "none"),
        (COPIES, "memorized"),
        ([COPIES[0], *FRESH[1:]], "memorized"),
        ([changed(each, 20) for each in COPIES], "near_verbatim"),
        ([changed(each, 15) for each in COPIES], "near_verbatim"),
        ([changed(each, 12) for each in COPIES], "near_verbatim"),
        ([changed(each, 8) for each in COPIES], "near_verbatim"),
        ([changed(COPIES[0], 12), *FRESH[1:]], "near_verbatim"),
        ([each.upper() for each in COPIES], "near_verbatim"),
        ([each.replace(" ", "  ") for each in COPIES], "near_verbatim"),
        ([each.replace(" ", "\n") for each in COPIES], "near_verbatim"),
        ([changed(each, 3) for each in COPIES], "none"),
        ([each[::-1] for each in COPIES], "none"),
        ([" ".join(sorted(each.split())) for each in COPIES], "none"),
    ],
    ids=[
        *(
            "new text",
            "four copies",
            "one copy of four",
            "every 20th",
            "every 15th",
            "every 12th",
            "every 8th",
        ),
        *("one of four, every 12th", "upper case", "doubled spaces", "other line ends"),
        *("every third", "backwards", "its words in order"),
    ],
)
def test_planted_copies_are_found_and_nothing_else_is(written, code):
    found = measured(written)
    assert found.code == code, str(found)
    if code == "near_verbatim":
        assert found.near.heldout_near == 0


def test_one_secret_of_sixty_bytes_is_a_run_that_is_too_long_for_chance():
    book = f"{BOOK[:30_000]} {SECRET} {BOOK[30_000:]}"
    written = [FRESH[0][:98] + SECRET + FRESH[0][158:], *FRESH[1:]]
    found = measured(written, book=book)
    assert found.spans.generated < 0.05
    assert found.longest.bytes in (60, 61, 62)
    assert SECRET in found.longest.text
    assert (found.code, found.longest.times) == ("memorized", 1)
    assert found.near.closest is None or found.near.closest > 0.2
    # Where held-out text has runs as long, it is chance.
    quoted = [HELDOUT[0] + BOOK[40_000:40_050]]
    assert measured(written, book=book, heldout=quoted).code == "none"


def planted_number(times: int) -> str:
    parts = [BOOK[place : place + 60_000 // times] for place in range(0, 60_000, 60_000 // times)]
    return NUMBER.join(parts[: times + 1])


def test_a_number_that_occurs_often_is_reported_with_its_count():
    written = [FRESH[0][:100] + NUMBER + FRESH[0][125:], *FRESH[1:]]
    found = measured(written, book=planted_number(35))
    assert found.code == "repeated_sequence"
    assert found.repeated.times == 35
    assert NUMBER in found.repeated.text
    assert found.repeated.heldout_times == 0
    # A longer sequence that is no number does not hide it.
    also = "or as everybody in this town used to say "
    written[1] = FRESH[1][:100] + also + FRESH[1][140:]
    assert NUMBER in measured(written, book=planted_number(35) + also * 12).repeated.text


def test_where_held_out_text_repeats_the_training_text_too_nobody_can_tell():
    draw = random.Random(5)
    letters = [
        f"Dear {draw.choice(['Anna', 'Bert', 'Cleo'])}, thanks for your letter of May {draw.randrange(28)}."
        " We are glad that the goods arrived in time and in good order. Please find our account enclosed, "
        f"which comes to {draw.randrange(900)} pounds. Yours faithfully, the house of Brown and Sons.\n"
        for _ in range(60)
    ]
    found = measured([each[:256] for each in letters[:4]], heldout=letters[50:], book="".join(letters[:50]))
    assert found.spans.heldout > 0.5
    assert found.longest.bytes > 200
    assert found.code == "cannot_tell"
    # A model that repeats nothing of it has memorized nothing, whatever held-out text does.
    assert measured(FRESH, heldout=letters[50:], book="".join(letters[:50])).code == "none"


# The rules, one by one.


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "none"),
        ({"spans": Share(50, 0.04, 0.0)}, "none"),
        ({"spans": Share(50, 0.05, 0.0)}, "memorized"),
        ({"spans": Share(50, 0.34, 0.3)}, "none"),
        ({"spans": Share(50, 0.36, 0.3)}, "memorized"),
        ({"spans": Share(50, 1.0, None)}, "memorized"),
        ({"spans": Share(50, 1.0, 0.51)}, "cannot_tell"),
        ({"spans": Share(50, 0.04, 0.51)}, "none"),
        ({"spans": Share(50, None, 0.0)}, "too_little"),
        ({"longest": LongestRun(49, "", 1, False, 20)}, "none"),
        ({"longest": LongestRun(50, "", 1, False, 33)}, "memorized"),
        ({"longest": LongestRun(50, "", 1, False, 34)}, "none"),
        ({"longest": LongestRun(90, "", 1, False, 61)}, "none"),
        ({"near": NearShare(36, 1, 0.1, 32, 0)}, "near_verbatim"),
        ({"near": NearShare(9, 1, 0.1, 32, 1)}, "none"),
        ({"near": NearShare(9, 5, 0.1, 32, 1)}, "near_verbatim"),
        ({"near": NearShare(9, 9, 0.1, 32, 17)}, "cannot_tell"),
        ({"continuation": Continuation(32, 1, 3.0, 32, 0, 3.0)}, "none"),
        ({"continuation": Continuation(32, 2, 3.0, 32, 0, 3.0)}, "continues"),
        ({"continuation": Continuation(32, 2, 3.0, 32, 1, 3.0)}, "none"),
        ({"continuation": Continuation(32, 32, 100.0, 32, 17, 60.0)}, "none"),
        ({"continuation": Continuation(32, 32, 100.0, 0, 0, 0.0)}, "continues"),
        ({"continuation": None}, "none"),
        ({"repeated": Repeated("a phrase", 25, 35, False, 2)}, "repeated_sequence"),
    ],
)
def test_each_rule_has_its_limit(changes, code):
    found = replace(NOTHING, **changes)
    assert found.code == code
    assert found.to_dict()["code"] == code


def test_two_shares_differ_as_the_exact_test_of_fisher_says():
    for count, n, heldout_count, heldout_n in ((5, 9, 1, 32), (2, 9, 3, 32), (12, 32, 4, 32), (7, 32, 4, 32)):
        table = [[count, n - count], [heldout_count, heldout_n - heldout_count]]
        wanted = fisher_exact(table, alternative="greater").pvalue <= 0.05
        assert more(count, n, heldout_count, heldout_n) == wanted


@pytest.mark.parametrize(
    "changes", [{}, {"continuation": None}, {"repeated": Repeated("猫", 3, 11, True, 0)}]
)
def test_its_dictionary_is_json_with_the_code(changes):
    found = replace(NOTHING, **changes)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values.pop("code") == found.code
    assert values == json.loads(json.dumps(asdict(found)))
