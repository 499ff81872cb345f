import bz2
import gzip
import importlib.resources
import json
import lzma
import math
from collections import Counter

import numpy as np
import pytest

from lucidlm.errors import DataError
from lucidlm.measure.baselines import (
    Baseline,
    Baselines,
    byte_order,
    measure_baselines,
    token_order,
)
from lucidlm.measure.ngrams import KneserNey
from lucidlm.text.tokenizer import Tokenizer

STORY = (importlib.resources.files("lucidlm.text") / "assets" / "story.txt").read_text(encoding="utf-8")
TRAIN, HELDOUT = [STORY[:12_000], STORY[12_000:20_000]], [STORY[20_000:22_000], STORY[22_000:23_000]]
FOREIGN = "Größe, 猫と犬, «naïve» 🙂: ça va\nвполне\t— 終. " * 4
BYTES = Tokenizer.bytes()
COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9),
}


@pytest.fixture(scope="module")
def words():
    return Tokenizer.train(TRAIN, 500)


def ids_of(tokenizer, texts):
    return [np.array(tokenizer.encode(text), tokenizer.dtype) for text in texts]


def measured(tokenizer, training=TRAIN, heldout=HELDOUT, **options):
    options = {"prefix_id": tokenizer.end_of_text} | options
    return measure_baselines(tokenizer, ids_of(tokenizer, training), ids_of(tokenizer, heldout), **options)


@pytest.fixture(scope="module")
def of_words(words):
    return measured(words)


def names(baselines):
    return {row.name for row in baselines.rows}


def test_uniform_over_bytes_is_exactly_8(of_words):
    assert of_words["uniform over bytes"].bits_per_byte == 8


def test_uniform_over_the_vocabulary_is_its_logarithm_a_token(words, of_words):
    tokens = sum(map(len, ids_of(words, HELDOUT)))
    expected = tokens * math.log2(500) / 3000
    assert of_words["uniform over the vocabulary"].bits_per_byte == pytest.approx(expected, rel=1e-12)
    assert of_words["uniform over the vocabulary"].note == "500 tokens"


def test_it_says_what_it_was_measured_on(of_words):
    assert of_words.heldout_bytes == 3000
    assert of_words.training_bytes == 20_000


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("training", [TRAIN, [FOREIGN], []])
def test_a_compressor_is_charged_for_what_the_heldout_text_adds(name, training):
    baselines = measured(BYTES, training, [*HELDOUT, FOREIGN])
    before, heldout = ("".join(texts).encode() for texts in (training, [*HELDOUT, FOREIGN]))
    size = len(COMPRESSORS[name](before + heldout)) - len(COMPRESSORS[name](before))
    assert baselines[name].bits_per_byte == 8 * size / len(heldout)


def test_the_unigram_is_discounted_and_shared_out_evenly(words, of_words):
    stream = [id for ids in ids_of(words, TRAIN) for id in (words.end_of_text, *ids.tolist())]
    counts = Counter(stream)
    n1, n2, n3, n4 = (sum(count == k for count in counts.values()) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    assert min(discounts[1:]) > 0
    left = sum(discounts[min(3, count)] for count in counts.values())
    bits = -sum(
        math.log2((counts[id] - discounts[min(3, counts[id])] + left / 500) / len(stream))
        for ids in ids_of(words, HELDOUT)
        for id in ids.tolist()
    )
    assert of_words["unigram of tokens"].bits_per_byte == pytest.approx(bits / 3000, rel=1e-9)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_n_grams_are_kneser_neys_given_the_training_text(words, prefix):
    baselines = measured(words, prefix_id=words.end_of_text if prefix else None)
    of_tokens = [ids_of(words, texts) for texts in (TRAIN, HELDOUT)]
    of_bytes = [[np.frombuffer(text.encode(), np.uint8) for text in texts] for texts in (TRAIN, HELDOUT)]
    firsts = [0 if prefix else len(words.token_bytes(int(ids[0]))) for ids in of_tokens[1]]
    size = 3000 - sum(firsts)
    assert baselines.heldout_bytes == size
    for name, (training, heldout), order, vocab_size, start in (
        ("n-gram of tokens", of_tokens, 3, 500, words.end_of_text),
        ("n-gram of bytes", of_bytes, 6, 257, 256),
    ):
        stream = np.array([id for ids in training for id in (start, *ids.tolist())])
        model = KneserNey.fit(stream, order, vocab_size, start_id=start)
        nats = [model.nats(ids, start if prefix else None) for ids in heldout]
        skipped = firsts if name == "n-gram of bytes" else [int(not prefix)] * 2
        total = sum(each[skip:].sum() for each, skip in zip(nats, skipped))
        assert baselines[name].bits_per_byte == pytest.approx(total / math.log(2) / size, rel=1e-12)
        assert baselines[name].note == f"order {order}"


def test_without_a_prefix_no_row_is_charged_for_the_first_tokens():
    heldout = ["aaaa", "x", "", "bbb"]  # "x" and "" have no token behind their first
    baselines = measured(BYTES, heldout=heldout, prefix_id=None)
    assert baselines.heldout_bytes == 5
    assert baselines["uniform over bytes"].bits_per_byte == 8
    assert baselines["uniform over the vocabulary"].bits_per_byte == pytest.approx(math.log2(257))
    before = "".join(TRAIN).encode()
    size = len(gzip.compress(before + b"aaabb", 9, mtime=0)) - len(gzip.compress(before, 9, mtime=0))
    assert baselines["gzip"].bits_per_byte == 8 * size / 5


def test_documents_of_one_token_are_scored_where_there_is_a_prefix():
    baselines = measured(BYTES, heldout=["x", "y", ""])
    assert baselines.heldout_bytes == 2
    assert baselines["uniform over bytes"].bits_per_byte == 8


@pytest.mark.parametrize(
    ("heldout", "prefix_id"), [([], 256), ([""], 256), (["x", "y", ""], None), ([], None)]
)
def test_a_heldout_text_without_a_byte_to_score_is_an_error(heldout, prefix_id):
    with pytest.raises(DataError, match=rf"^{len(heldout)} held-out documents hold no byte to score.*; give"):
        measured(BYTES, heldout=heldout, prefix_id=prefix_id)


def test_on_english_more_context_is_better(of_words):
    order = ["uniform over bytes", "uniform over the vocabulary", "unigram of tokens", "n-gram of tokens"]
    bits = [of_words[name].bits_per_byte for name in order]
    assert bits == sorted(bits, reverse=True)
    assert of_words["n-gram of bytes"].bits_per_byte < of_words["gzip"].bits_per_byte
    assert 2 < of_words["n-gram of tokens"].bits_per_byte < 3


def test_of_bytes_there_is_one_n_gram():
    assert names(measured(BYTES)) == {
        *("uniform over bytes", "uniform over the vocabulary", "unigram of tokens", "n-gram of bytes"),
        *COMPRESSORS,
    }


def test_without_training_text_there_are_the_uniform_rows_and_the_compressors(words):
    expected = {"uniform over bytes", "uniform over the vocabulary", *COMPRESSORS}
    for training in ([], [""]):
        baselines = measured(words, training)
        assert names(baselines) == expected
        assert baselines.training_bytes == 0
        assert "given" not in str(baselines)


def test_a_text_that_was_the_training_text_costs_xz_nearly_nothing():
    baselines = measured(BYTES, TRAIN, TRAIN)
    assert baselines["xz"].bits_per_byte < 0.1
    assert baselines["n-gram of bytes"].bits_per_byte < 1.2


def test_where_the_limit_cuts_only_the_first_bytes_are_used_and_the_notes_say_so(words):
    def documents():
        yield from ids_of(words, TRAIN)
        raise AssertionError("read on behind the limit")

    heldout = ids_of(words, HELDOUT)
    cut = measure_baselines(words, documents(), heldout, prefix_id=words.end_of_text, limit_bytes=15_000)
    assert 14_980 < cut.training_bytes <= 15_000
    kept = words.decode(ids_of(words, TRAIN)[1])[: cut.training_bytes - 12_000]
    whole = measured(words, [TRAIN[0], kept])
    for row in cut.rows:
        if row.name in ("gzip", "bzip2", "xz", "n-gram of bytes"):
            assert row.bits_per_byte == pytest.approx(whole[row.name].bits_per_byte, rel=1e-12)
        if not row.name.startswith("uniform"):
            assert row.note.endswith(f"first {cut.training_bytes:,} bytes of the training text")
    assert not any("first" in row.note for row in whole.rows)


def test_a_limit_as_long_as_the_text_cuts_nothing(words):
    baselines = measured(words, limit_bytes=20_000)
    assert baselines.training_bytes == 20_000
    assert not any("first" in row.note for row in baselines.rows)


def test_a_tokenizer_without_end_of_text_has_all_rows_too(words):
    bare = Tokenizer(
        "bare",
        [words.token_bytes(id) for id in range(499)],
        None,
        encode_text=words.encode_piece,
        document=dict,
    )
    with_it, without = measured(words, prefix_id=None), measured(bare, prefix_id=None)
    assert names(with_it) == names(without)
    assert without["xz"] == with_it["xz"]
    assert math.isfinite(without["n-gram of tokens"].bits_per_byte)


def test_any_unicode_can_be_measured(words):
    baselines = measured(words, [FOREIGN], [FOREIGN[:30], "🙂"])
    assert baselines.heldout_bytes == len((FOREIGN[:30] + "🙂").encode())
    assert all(math.isfinite(row.bits_per_byte) for row in baselines.rows)


def test_orders_grow_with_the_text():
    assert [token_order(n) for n in (1, 99_999, 100_000, 10**9)] == [3, 3, 5, 5]
    assert [byte_order(n) for n in (1, 99_999, 100_000, 10**7, 10**9)] == [6, 6, 7, 8, 8]


def test_progress_names_each_stage_and_ends_with_all_done(words):
    seen = {}
    measured(words, progress=lambda stage, done, total: seen.update({stage: (done, total)}))
    assert seen == {
        "read": (20_000, None),
        "unigram of tokens": (1, 1),
        "n-gram of tokens": (3, 3),
        "n-gram of bytes": (6, 6),
        "compress": (6, 6),
    }


def test_an_interrupt_comes_through():
    def interrupt(stage, done, total):
        if stage == "compress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(BYTES, progress=interrupt)


def test_the_table_goes_from_the_worst_to_the_best(of_words):
    bits = [row.bits_per_byte for row in of_words.rows]
    assert bits == sorted(bits, reverse=True)
    lines = str(of_words).splitlines()
    assert lines[0] == "baseline                     bits/byte"
    assert lines[1] == "uniform over bytes              8.0000"
    assert lines[-1] == "on 3,000 held-out bytes, given 20,000 bytes of training text"
    assert [line.split("  ")[0] for line in lines[1:-1]] == [row.name for row in of_words.rows]


def test_baselines_come_back_from_json(of_words):
    assert Baselines.from_dict(json.loads(json.dumps(of_words.to_dict()))) == of_words


def test_a_row_is_found_by_its_name():
    row = Baseline("gzip", 3.0)
    assert Baselines((row,), 1, 0)["gzip"] is row
    with pytest.raises(KeyError, match="zip"):
        Baselines((row,), 1, 0)["zip"]
