import json

import numpy as np
import pytest

from lucidlm.measure import memorization
from lucidlm.measure.memorization import Memorization, Share, measure_memorization
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.windows import TokenFile, write_tokens

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


@pytest.mark.parametrize("chunk", [1, 7, 1 << 21])
@pytest.mark.parametrize("seed", range(12))
def test_shares_and_the_longest_run_are_those_of_brute_force(monkeypatch, chunk, seed):
    monkeypatch.setattr(memorization, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    vocab_size = int(rng.integers(2, 12))
    training = rng.integers(0, vocab_size, int(rng.integers(1, 120))).tolist()
    for place in rng.integers(0, len(training), 3):
        training[place] = END
    generated, heldout = (random_texts(rng, training, vocab_size) for _ in range(2))
    found = measure_memorization(
        BYTES, arrays(generated), arrays(heldout), np.array(training, np.uint16), sizes=SIZES
    )
    for row, n in zip(found.rows, SIZES, strict=True):
        assert row.n == n
        for share, texts in ((row.generated, generated), (row.heldout, heldout)):
            assert share == pytest.approx(brute_share(texts, training, n), abs=1e-12)
    assert found.longest == brute_longest(generated, training)
    text = BYTES.encode(found.longest_text)
    assert len(text) == found.longest
    assert not text or tuple(text) in slices(training, len(text))
    assert any(tuple(text) in slices(each, len(text)) for each in generated) or not text
    assert found.generated_tokens == sum(map(len, generated))
    assert found.heldout_tokens == sum(map(len, heldout))


def test_copied_text_shows_and_new_text_does_not():
    training = ids_of("the clock struck nine and every window in the street went dark at once")
    found = measure_memorization(BYTES, [ids_of("No! every window in the street no")], [], training)
    assert found.longest_text == " every window in the street "
    assert found.longest == 28
    found = measure_memorization(BYTES, [ids_of("XYZXYZ")], [ids_of("clock struck nine")], training)
    assert (found.longest, found.longest_text) == (0, "")
    assert found.rows == (Share(4, 0.0, 1.0), Share(8, None, 1.0), Share(16, None, 1.0))


def test_a_run_may_be_longer_than_many_chunks(monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 64)
    training = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint16)
    generated = np.concatenate([[1, 2, 3], training[100:105], [9], training[201:2000], [4], training[5:70]])
    found = measure_memorization(BYTES, [generated], [], training)
    assert found.longest == 2000 - 201 + int(training[200] == 9) + int(training[2000] == 4)


def test_two_texts_are_not_joined():
    training = ids_of("abcdefgh")
    found = measure_memorization(BYTES, [ids_of("abcd"), ids_of("efgh")], [], training, sizes=(4, 5))
    assert found.longest == 4
    assert found.rows == (Share(4, 1.0, None), Share(5, None, None))


def test_end_of_text_parts_what_stands_around_it():
    training = np.concatenate([[END], ids_of("abcd"), [END], ids_of("efgh")])
    generated = np.concatenate([ids_of("abcd"), [END], ids_of("efgh")])
    found = measure_memorization(BYTES, [generated], [], training, sizes=(2, 4, 8))
    assert found.longest == 4
    assert found.rows == (Share(2, 1.0, None), Share(4, 1.0, None), Share(8, None, None))


def test_a_collision_of_hashes_is_never_reported_as_a_run(monkeypatch):
    monkeypatch.setattr(
        memorization, "ngram_keys", lambda ids, n: np.zeros(max(0, len(ids) - n + 1), np.uint64)
    )
    found = measure_memorization(BYTES, [ids_of("xyxyxyxy")], [], ids_of("abababababab"))
    assert (found.longest, found.longest_text) == (0, "")


def test_a_token_file_is_read_as_an_array_is(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 50)
    rng = np.random.default_rng(3)
    training = rng.integers(0, 3, 500).astype(np.uint16)
    write_tokens(tmp_path / "train.npy", [training], 257)
    texts = [rng.integers(0, 3, 100)], [rng.integers(0, 3, 200)]
    from_file = measure_memorization(BYTES, *texts, TokenFile(tmp_path / "train.npy", 257))
    assert from_file == measure_memorization(BYTES, *texts, training)
    assert from_file.longest > 4


@pytest.mark.parametrize("training", [[], [END], [5]])
def test_of_a_tiny_training_text_nothing_stands_anywhere(training):
    found = measure_memorization(BYTES, [np.arange(20)[6:]], [], np.array(training, np.uint16))
    assert found.longest == 0
    assert [row.generated for row in found.rows] == [0.0, 0.0, None]


def test_nothing_generated_has_no_shares():
    found = measure_memorization(BYTES, [], [ids_of("abcd")], ids_of("abcdefgh"))
    assert [row.generated for row in found.rows] == [None] * 3
    assert found.rows[0].heldout == 1
    assert (found.longest, found.generated_tokens, found.heldout_tokens) == (0, 0, 4)


def test_progress_counts_the_training_tokens(monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 4)
    seen = []
    measure_memorization(
        BYTES, [ids_of("ab")], [], ids_of("abcdefghi"), progress=lambda *done: seen.append(done)
    )
    assert seen == [("compare", 4, 9), ("compare", 8, 9), ("compare", 9, 9)]


def test_the_table_has_a_row_a_size_and_the_longest_run():
    found = Memorization((Share(4, 0.5, 0.25), Share(8, None, 0.0)), 12, "the old\nman ", 1000, 20_000)
    assert str(found).splitlines() == [
        "tokens in a row  generated  held-out",
        "              4      50.0%     25.0%",
        "              8          -      0.0%",
        "share that stands verbatim in the training text, of 1,000 generated and 20,000 held-out tokens",
        r"longest verbatim run: 12 tokens: 'the old\nman '",
    ]


def test_it_comes_back_from_json():
    found = Memorization((Share(4, 0.5, 0.25), Share(8, None, 0.0)), 12, "the old\nman 猫", 1000, 20_000)
    assert Memorization.from_dict(json.loads(json.dumps(found.to_dict()))) == found
