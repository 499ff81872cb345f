import bz2
import gzip
import importlib.resources
import json
import lzma
import math
from collections import Counter

import numpy as np
import pyppmd
import pytest
from models import KneserNey
from recorded import Recorded

from lucidlm.errors import DataError
from lucidlm.measure import compressors
from lucidlm.measure.baseline import ADAPTS, NAMES, STATIC, Baseline, Baselines
from lucidlm.measure.baselines import BYTE_ORDERS, LONG_BYTE_ORDERS, TOKEN_ORDERS, measure_baselines
from lucidlm.measure.ngram_order import choose_order
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.tokenizer import Tokenizer

STORY = (importlib.resources.files("lucidlm.text") / "assets" / "story.txt").read_text(encoding="utf-8")
TRAIN, HELDOUT = [STORY[:12_000], STORY[12_000:20_000]], [STORY[20_000:22_000], STORY[22_000:23_000]]
FOREIGN = "Größe, 猫と犬, «naïve» 🙂: ça va\nвполне\t— 終. " * 4
BYTES = Tokenizer.bytes()
COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, 9, mtime=0),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9),
    "ppmd": lambda data: pyppmd.compress(data, max_order=6, mem_size=64 << 20, variant="I"),
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


def codes(baselines):
    return {row.code for row in baselines.rows}


def test_uniform_over_bytes_is_exactly_8(of_words):
    assert of_words["uniform_bytes"].bits_per_byte == 8


def test_uniform_over_the_vocabulary_is_its_logarithm_a_token(words, of_words):
    tokens = sum(map(len, ids_of(words, HELDOUT)))
    expected = tokens * math.log2(500) / 3000
    assert of_words["uniform_vocabulary"].bits_per_byte == pytest.approx(expected, rel=1e-12)
    assert of_words["uniform_vocabulary"].note == "500 tokens"


def test_it_says_what_it_was_measured_on(of_words):
    assert of_words.heldout_bytes == 3000
    assert of_words.training_bytes == 20_000


@pytest.mark.parametrize("code", COMPRESSORS)
@pytest.mark.parametrize("training", [TRAIN, [FOREIGN], []])
def test_a_compressor_is_charged_for_what_the_heldout_text_adds(code, training):
    baselines = measured(BYTES, training, [*HELDOUT, FOREIGN])
    before, heldout = ("".join(texts).encode() for texts in (training, [*HELDOUT, FOREIGN]))
    size = len(COMPRESSORS[code](before + heldout)) - len(COMPRESSORS[code](before))
    assert baselines[code].bits_per_byte == pytest.approx(8 * size / len(heldout), rel=1e-6)
    assert baselines[code].kind == "adapts while reading"


@pytest.mark.parametrize(
    ("code", "bits"),
    [
        ("unigram_tokens", 4.3369),
        ("gzip", 2.7282),
        ("xz", 2.3498),
        ("bzip2", 1.9225),
        ("ngram_bytes", 1.7988),
        ("ppmd", 1.7876),
    ],
)
def test_on_the_last_tenth_of_the_bundled_story_all_rows_have_the_figures_of_an_independent_check(
    of_story, code, bits
):
    assert of_story[code].bits_per_byte == pytest.approx(bits, abs=5e-5)


@pytest.fixture(scope="module")
def of_story():
    data = STORY.encode()
    return measure_baselines(
        BYTES,
        [np.frombuffer(data[:85_424], np.uint8)],
        [np.frombuffer(data[85_424:], np.uint8)],
        prefix_id=256,
    )


def test_each_kind_has_its_own_best(of_story):
    best = {row.kind: row.code for row in of_story.rows}  # the last of each kind: the worst come first
    assert best == {STATIC: "ngram_bytes", ADAPTS: "ppmd"}
    assert {row.code for row in of_story.rows if row.kind == ADAPTS} == {*COMPRESSORS}


def test_the_cost_of_each_byte_adds_up_to_the_row(of_words, of_story):
    for baselines in (of_words, of_story):
        for row in baselines.rows:
            assert (row.bits is None) == (row.code in ("gzip", "bzip2", "xz"))
            if row.bits is not None:
                assert row.bits.shape == (baselines.heldout_bytes,)
                assert row.bits.sum(dtype=float) / len(row.bits) == pytest.approx(row.bits_per_byte, rel=1e-6)


def test_the_cost_of_a_stretch_to_ppmd_is_that_of_compressed_prefixes_to_three_bytes(of_story):
    data = STORY.encode()
    alone = len(COMPRESSORS["ppmd"](data[:85_424]))
    so_far = np.cumsum(of_story["ppmd"].bits, dtype=float) / 8
    for end in range(100, 9_492, 400):
        exact = len(COMPRESSORS["ppmd"](data[: 85_424 + end])) - alone
        assert so_far[end - 1] == pytest.approx(exact, abs=3)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_token_costs_its_first_byte(words, prefix):
    heldout = ids_of(words, HELDOUT)
    baselines = measured(words, prefix_id=words.end_of_text if prefix else None)
    lengths = [len(words.token_bytes(id)) for ids in heldout for id in ids[int(not prefix) :].tolist()]
    bits = baselines["uniform_vocabulary"].bits
    assert np.flatnonzero(bits).tolist() == np.cumsum([0, *lengths[:-1]]).tolist()
    assert bits[bits > 0] == pytest.approx(math.log2(500), rel=1e-6)


def n_blocks(data):
    """Blocks of bzip2 in what level 1 makes of it: each begins with the digits of pi, at any bit."""
    bits = bin(int.from_bytes(bz2.compress(data, 1), "big"))
    return bits.count(f"{0x314159265359:048b}")


DRAW = np.random.default_rng(0)
NOISE = DRAW.integers(97, 123, 300_000, np.uint8).tobytes()


@pytest.mark.parametrize("filler", [NOISE, b"abcdeeee" * 30_000, NOISE[:50_000] + b"ab" + b" " * 200_000])
def test_bzip2_can_have_as_much_training_text_as_shares_a_block_with_the_held_out_text(monkeypatch, filler):
    monkeypatch.setattr(compressors, "BZIP2_LEVEL", 1)
    training, heldout = NOISE[:100_000] + filler, b"xyzzzz" * 3_000
    tail = compressors.one_block(training, heldout)
    assert training.endswith(tail)
    assert n_blocks(tail + heldout) == 1
    assert n_blocks(training[-len(tail) - 200 :] + heldout) == 2


def test_bzip2_has_nothing_of_it_where_the_held_out_text_fills_a_block_and_all_where_all_fits(monkeypatch):
    monkeypatch.setattr(compressors, "BZIP2_LEVEL", 1)
    assert compressors.one_block(NOISE, NOISE[:100_000]) is None
    assert compressors.one_block(NOISE[:60_000], NOISE[60_000:99_000]) is None
    assert compressors.one_block(b"", b"a") is None


def test_bzip2_gets_the_amount_of_training_text_that_is_best_for_it(monkeypatch):
    monkeypatch.setattr(compressors, "BZIP2_LEVEL", 1)
    vocabulary = DRAW.integers(97, 123, (300, 7), np.uint8)
    vocabulary[:, -1] = 32
    for size, best_is_tail in ((110_000, True), (195_000, False)):
        text = vocabulary[DRAW.integers(0, 300, size // 7)].tobytes()
        training, heldout = text[:-20_000], text[-20_000:]
        costs = [
            len(bz2.compress(part + heldout, 1)) - len(bz2.compress(part, 1))
            for part in (training, compressors.one_block(training, heldout))
        ]
        row = measured_bytes(training, heldout)["bzip2"]
        assert row.bits_per_byte == 8 * min(costs) / 20_000
        assert (costs[1] < costs[0]) == best_is_tail
        assert ("one block with this text" in row.sees) == best_is_tail


def measured_bytes(training, heldout):
    of = [[np.frombuffer(data, np.uint8)] for data in (training, heldout)]
    return measure_baselines(BYTES, *of, prefix_id=256)


def test_each_row_says_what_it_sees_of_the_training_text(of_story, words):
    assert {row.code: row.sees for row in of_story.rows} == {
        "uniform_bytes": "nothing",
        "uniform_vocabulary": "nothing",
        "unigram_tokens": "all",
        "ngram_bytes": "all",
        "gzip": "the last 32 KB",
        "bzip2": "all",
        "xz": "all",
        "ppmd": "all",
    }


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
    assert of_words["unigram_tokens"].bits_per_byte == pytest.approx(bits / 3000, rel=1e-9)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_n_grams_are_kneser_neys_given_the_training_text(words, prefix):
    baselines = measured(words, prefix_id=words.end_of_text if prefix else None)
    of_tokens = [ids_of(words, texts) for texts in (TRAIN, HELDOUT)]
    of_bytes = [[np.frombuffer(text.encode(), np.uint8) for text in texts] for texts in (TRAIN, HELDOUT)]
    firsts = [0 if prefix else len(words.token_bytes(int(ids[0]))) for ids in of_tokens[1]]
    size = 3000 - sum(firsts)
    assert baselines.heldout_bytes == size
    for code, (training, heldout), order, vocab_size, start in (
        ("ngram_tokens", of_tokens, TOKEN_ORDERS, 500, words.end_of_text),
        ("ngram_bytes", of_bytes, BYTE_ORDERS, 257, 256),
    ):
        stream = np.array([id for ids in training for id in (start, *ids.tolist())])
        order = choose_order(stream, order, vocab_size, start_id=start).order
        model = KneserNey.fit(stream, order, vocab_size, start_id=start)
        nats = [model.nats(ids, start if prefix else None) for ids in heldout]
        skipped = firsts if code == "ngram_bytes" else [int(not prefix)] * 2
        total = sum(each[skip:].sum() for each, skip in zip(nats, skipped))
        assert baselines[code].bits_per_byte == pytest.approx(total / math.log(2) / size, rel=1e-6)
        assert baselines[code].note == f"order {order}, chosen on the training text"


def test_of_a_piece_the_n_grams_read_what_stands_before_it_and_are_not_charged_for_it(words):
    ids = ids_of(words, TRAIN)[0]
    before, piece = ids[:900], ids[900:1500]
    for prefix_id in (words.end_of_text, None):
        options = {"prefix_id": prefix_id}
        row = measure_baselines(words, ids_of(words, [TRAIN[1]]), [Excerpt(piece, before)], **options)
        assert row.heldout_bytes == len(words.decode_bytes(piece))
        for code, of, start, vocab_size in (
            ("ngram_tokens", lambda ids: ids, words.end_of_text, 500),
            ("ngram_bytes", lambda ids: np.frombuffer(words.decode_bytes(ids), np.uint8), 256, 257),
        ):
            stream = np.concatenate(([start], of(ids_of(words, [TRAIN[1]])[0])))
            order = int(row[code].note.split(",")[0].split()[1])
            model = KneserNey.fit(stream, order, vocab_size, start_id=start)
            nats = model.nats(of(ids), start)[len(of(before)) : len(of(before)) + len(of(piece))]
            assert row[code].bits_per_byte * row.heldout_bytes == pytest.approx(
                nats.sum() / math.log(2), rel=1e-6
            )
        alone = measure_baselines(words, ids_of(words, [TRAIN[1]]), [piece], **options)
        if prefix_id is not None:  # these read the training text and the piece, nothing between
            assert row["xz"] == alone["xz"]


def test_ppmd_reads_the_bytes_before_each_piece_and_is_charged_for_the_piece_alone(words):
    training, *pieces = ids_of(
        words, [TRAIN[0], *(TRAIN[1][start : start + 300] for start in (0, 900, 4000))]
    )
    before = ids_of(words, [TRAIN[1][start - 40 : start] for start in (40, 900, 4000)])[1:]
    excerpts = [Excerpt(pieces[0]), *map(Excerpt, pieces[1:], before)]
    row = measure_baselines(words, [training], excerpts, prefix_id=words.end_of_text)["ppmd"]
    fed, expected = words.decode_bytes(training), 0
    for piece, context in zip(pieces, [b"", *(words.decode_bytes(ids)[-8:] for ids in before)]):
        data = words.decode_bytes(piece)
        sizes = [len(COMPRESSORS["ppmd"](fed + context + more)) for more in (b"", data)]
        expected += sizes[1] - sizes[0]
        fed += context + data
    assert row.bits.sum() / 8 == pytest.approx(expected, abs=6)
    free = measure_baselines(words, [training], pieces, prefix_id=words.end_of_text)["ppmd"]
    assert row.bits_per_byte < free.bits_per_byte


def test_an_end_of_text_before_a_piece_is_the_separator_of_the_n_gram_of_bytes(words):
    (piece,) = ids_of(words, [HELDOUT[0]])
    start = np.array([words.end_of_text])
    begun = measure_baselines(words, ids_of(words, TRAIN), [Excerpt(piece, start)], prefix_id=None)
    whole = measure_baselines(words, ids_of(words, TRAIN), [piece], prefix_id=words.end_of_text)
    for code in codes(whole):
        assert begun[code] == whole[code]


def test_a_text_that_repeats_long_lines_is_counted_in_long_sequences():
    draw = np.random.default_rng(0)
    lines = [f"{level} worker: request {path} served\n" for level in ("INFO", "WARNING")
             for path in ("/index.html", "/static/logo.png", "/api/items")]  # fmt: skip
    log = "".join(lines[draw.integers(6)] for _ in range(1500))
    row = measured(BYTES, [log[:40_000]], [log[40_000:42_000]])["ngram_bytes"]
    order = int(row.note.split(",")[0].removeprefix("order "))
    assert order in LONG_BYTE_ORDERS
    assert order > BYTE_ORDERS[-1]


def test_what_the_n_gram_needs_inside_the_training_text_is_a_measure_of_its_own_kind(of_story):
    assert 1.7 < of_story.inside_bits_per_byte < 2.0
    assert measured(BYTES, []).inside_bits_per_byte is None


def test_without_a_prefix_no_row_is_charged_for_the_first_tokens():
    heldout = ["aaaa", "x", "", "bbb"]  # "x" and "" have no token behind their first
    baselines = measured(BYTES, heldout=heldout, prefix_id=None)
    assert baselines.heldout_bytes == 5
    assert baselines["uniform_bytes"].bits_per_byte == 8
    assert baselines["uniform_vocabulary"].bits_per_byte == pytest.approx(math.log2(257))
    before = "".join(TRAIN).encode()
    size = len(gzip.compress(before + b"aaabb", 9, mtime=0)) - len(gzip.compress(before, 9, mtime=0))
    assert baselines["gzip"].bits_per_byte == 8 * size / 5


def test_documents_of_one_token_are_scored_where_there_is_a_prefix():
    baselines = measured(BYTES, heldout=["x", "y", ""])
    assert baselines.heldout_bytes == 2
    assert baselines["uniform_bytes"].bits_per_byte == 8


@pytest.mark.parametrize(
    ("heldout", "prefix_id"), [([], 256), ([""], 256), (["x", "y", ""], None), ([], None)]
)
def test_a_heldout_text_without_a_byte_to_score_is_an_error(heldout, prefix_id):
    with pytest.raises(DataError, match=rf"^{len(heldout)} held-out documents hold no byte to score.*; give"):
        measured(BYTES, heldout=heldout, prefix_id=prefix_id)


def test_on_english_more_context_is_better(of_words):
    order = ["uniform_bytes", "uniform_vocabulary", "unigram_tokens", "ngram_tokens"]
    bits = [of_words[code].bits_per_byte for code in order]
    assert bits == sorted(bits, reverse=True)
    assert of_words["ngram_bytes"].bits_per_byte < of_words["gzip"].bits_per_byte
    assert 2 < of_words["ngram_tokens"].bits_per_byte < 3


def test_of_bytes_there_is_one_n_gram():
    assert codes(measured(BYTES)) == {
        *("uniform_bytes", "uniform_vocabulary", "unigram_tokens", "ngram_bytes"),
        *COMPRESSORS,
    }


def test_without_training_text_there_are_the_uniform_rows_and_the_compressors(words):
    expected = {"uniform_bytes", "uniform_vocabulary", *COMPRESSORS}
    for training in ([], [""]):
        baselines = measured(words, training)
        assert codes(baselines) == expected
        assert baselines.training_bytes == 0
        assert "given" not in str(baselines)


def test_a_text_that_was_the_training_text_costs_xz_nearly_nothing():
    baselines = measured(BYTES, TRAIN, TRAIN)
    assert baselines["xz"].bits_per_byte < 0.1
    assert baselines["ngram_bytes"].bits_per_byte < 1.2


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
        if row.code in (*COMPRESSORS, "ngram_bytes"):
            assert row.bits_per_byte == pytest.approx(whole[row.code].bits_per_byte, rel=1e-12)
        if not row.code.startswith("uniform"):
            assert row.sees == f"its first {cut.training_bytes:,} bytes"
    assert not any("first" in row.sees for row in whole.rows)


def test_a_limit_as_long_as_the_text_cuts_nothing(words):
    baselines = measured(words, limit_bytes=20_000)
    assert baselines.training_bytes == 20_000
    assert not any("first" in row.sees for row in baselines.rows)


def test_a_tokenizer_without_end_of_text_has_all_rows_too(words):
    bare = Tokenizer(
        "bare",
        [words.token_bytes(id) for id in range(499)],
        None,
        encode_text=words.encode_piece,
        document=dict,
    )
    with_it, without = measured(words, prefix_id=None), measured(bare, prefix_id=None)
    assert codes(with_it) == codes(without)
    assert without["xz"] == with_it["xz"]
    assert math.isfinite(without["ngram_tokens"].bits_per_byte)


def test_any_unicode_can_be_measured(words):
    baselines = measured(words, [FOREIGN], [FOREIGN[:30], "🙂"])
    assert baselines.heldout_bytes == len((FOREIGN[:30] + "🙂").encode())
    assert all(math.isfinite(row.bits_per_byte) for row in baselines.rows)


def test_progress_names_each_stage_and_ends_with_all_done(words):
    seen = Recorded()
    measured(words, progress=seen)
    (_, read, total), *others = seen.stages
    assert (read, total) == (20_000, None)
    assert all(done == total for _, done, total in others)
    assert others[-1] == ["compressing", 7, 7]


def test_an_interrupt_comes_through():
    def interrupt(stage):
        if stage == "compressing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(BYTES, progress=Recorded(at=interrupt))


def test_the_rows_go_from_the_worst_to_the_best(of_words):
    bits = [row.bits_per_byte for row in of_words.rows]
    assert bits == sorted(bits, reverse=True)


def test_their_dictionary_is_json_with_the_code_and_the_name_of_each_row(of_words):
    values = json.loads(json.dumps(of_words.to_dict(), allow_nan=False))
    assert {row["code"]: row["name"] for row in values["rows"]} == NAMES
    assert [row["bits_per_byte"] for row in values["rows"]] == [row.bits_per_byte for row in of_words.rows]


def test_a_row_is_found_by_its_code():
    row = Baseline("gzip", 3.0, ADAPTS, "all")
    assert Baselines((row,), 1, 0)["gzip"] is row
    with pytest.raises(KeyError, match="xz"):
        Baselines((row,), 1, 0)["xz"]
