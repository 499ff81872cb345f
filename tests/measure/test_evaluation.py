import contextlib
import dataclasses
import json
import math
import re
import unicodedata

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import log_sum_exp
from recorded import Recorded
from torch.utils.data import DataLoader, Dataset

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.measure.windows import scored_windows
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import cross_entropy
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.reading import Reading
from lucidlm.text.tokenizer import Tokenizer

T = 16
"""Context of the models here: three contexts and a bit are few tokens."""
LONGEST = 3 * T + 7
LENGTHS = range(1, LONGEST + 1)
STRIDES = (1, 7, T // 2, T)
END_OF_TEXT = 256

BYTES = Tokenizer.bytes()
WORDS = (
    "The old clock-maker wound each of his clocks at dusk; one night, none of them would stop. Who knew why?"
)
FOREIGN = "Größe, 猫と犬, «naïve» 🙂: ça va\nвполне\t— 終"

SHAPE = {"vocab_size": 257, "context_length": T, "emb_dim": 32, "n_layers": 2, "n_heads": 2}
CONFIGS = {
    "gpt2": GPTConfig(**SHAPE, qkv_bias=True, tied_head=True),
    "modern": GPTConfig(**SHAPE, family="modern", n_kv_heads=1),
}


def lively(config: GPTConfig, *, prefix_id: int | None = END_OF_TEXT) -> GPT:
    """A model in eval mode whose weights are large enough that place and order show in every logit."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.mul_(1 if gain else 6).add_(0.1 * torch.randn_like(parameter))
    model.config = model.config.changed(document_prefix_id=prefix_id)
    return model


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


@pytest.fixture
def model(family):
    return lively(CONFIGS[family])


@pytest.fixture
def gpt():
    """For facts that have nothing to do with the model's family."""
    return lively(CONFIGS["gpt2"])


def brute_force(model, ids, *, stride, prefix_id, context_length=T):
    """-ln p of each token that can be scored, in float64, one forward pass a token: no batch, no padding.

    Input number j predicts token j + 1 of the sequence. The first window on the grid of the stride that
    reaches it scores it, and it sees everything from that window's start to itself.
    """
    exact = GPT(model.config).double().eval()
    exact.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    sequence = [*([] if prefix_id is None else [prefix_id]), *ids]
    nats = []
    for place in range(len(sequence) - 1):
        start = 0
        while place >= start + context_length:
            start += stride
        with torch.no_grad():
            logits = exact(torch.tensor([sequence[start : place + 1]]))[0, -1].numpy()
        nats.append(log_sum_exp(logits) - float(logits[sequence[place + 1]]))
    return np.array(nats)


def nats_of_each_token(model, document, *, stride, prefix="auto", batch_size=8):
    """{place in the document: nats}; a token that is scored twice is an error."""
    found = {}
    protocol = Protocol(stride=stride, prefix=prefix, batch_size=batch_size)
    ids = document.ids if isinstance(document, Excerpt) else np.asarray(document)
    for piece in Scorer(model, BYTES, protocol).pieces([document if isinstance(document, Excerpt) else ids]):
        torch.testing.assert_close(piece.nats, cross_entropy(piece.logits, piece.targets), rtol=0, atol=0)
        scored = zip(piece.nats.tolist(), piece.targets.tolist(), strict=True)
        for place, (loss, target) in enumerate(scored, start=piece.start):
            assert place not in found
            assert ids[place] == target
            found[place] = loss
    return found


# Against one token at a time.


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_in_float64_it_equals_one_token_at_a_time_for_every_length(model, stride, prefix):
    # The windows do not depend on where a text ends, so the longest text's tokens serve for all lengths.
    text, prefix_id = WORDS[:LONGEST], END_OF_TEXT if prefix == "auto" else None
    expected = brute_force(model, BYTES.encode(text), stride=stride, prefix_id=prefix_id)
    double = model.double()
    for length in (
        LENGTHS if stride == 7 else (2, 3, T - 1, T, T + 1, T + 2, 2 * T, 2 * T + 1, 3 * T, LONGEST)
    ):
        n_scored = length if prefix == "auto" else length - 1
        if n_scored == 0:
            continue
        result = evaluate(double, BYTES, text[:length], protocol=Protocol(stride=stride, prefix=prefix))
        assert result.tokens_scored == n_scored
        assert result.nats == pytest.approx(expected[:n_scored].sum(), abs=1e-6)
    nats = nats_of_each_token(double, BYTES.encode(text), stride=stride, prefix=prefix)
    first = 0 if prefix == "auto" else 1
    assert sorted(nats) == list(range(first, LONGEST))
    np.testing.assert_allclose([nats[place] for place in sorted(nats)], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("n_before", [1, 2, T // 2, T - 1, T, T + 1, 3 * T])
def test_a_piece_is_scored_after_what_stands_before_it_one_token_at_a_time(model, stride, n_before):
    ids = np.array(BYTES.encode((WORDS * 2)[: n_before + LONGEST]))
    excerpt = Excerpt(ids[n_before:], ids[:n_before])
    context = min(n_before, T - stride + 1)
    # The piece's first window begins with its context, and no prefix stands before that.
    expected = brute_force(model, ids[n_before - context :], stride=stride, prefix_id=None)[context - 1 :]
    model.double()
    found = nats_of_each_token(model, excerpt, stride=stride)
    assert sorted(found) == list(range(LONGEST))
    np.testing.assert_allclose([found[place] for place in range(LONGEST)], expected, rtol=0, atol=1e-6)
    result = evaluate_documents(model, BYTES, [excerpt], protocol=Protocol(stride=stride))
    assert (result.tokens_scored, result.tokens_total, result.bytes_total) == (LONGEST, LONGEST, LONGEST)
    assert result.nats == pytest.approx(expected.sum(), abs=1e-6)


def test_in_the_middle_of_a_long_text_a_piece_costs_what_it_costs_there(model):
    # Cut on the grid of the stride, its windows are those of the whole text.
    ids = np.array(BYTES.encode(WORDS[:LONGEST]))
    whole = nats_of_each_token(model.double(), ids, stride=T // 2)
    for start in (T, T + T // 2, 2 * T):
        excerpt = Excerpt(ids[start:], ids[:start])
        result = evaluate_documents(model, BYTES, [excerpt], protocol=Protocol(stride=T // 2))
        assert result.nats == pytest.approx(sum(whole[place] for place in range(start, LONGEST)), abs=1e-9)


def test_the_batch_size_cannot_change_what_pieces_cost(gpt):
    ids = np.array(BYTES.encode(WORDS * 3))
    pieces = [Excerpt(ids[start : start + 21], ids[:start]) for start in range(0, 200, 30)]
    for design in ("strata", None):
        results = [
            evaluate_documents(gpt, BYTES, pieces, protocol=Protocol(batch_size=size), design=design)
            for size in (1, 3, 8, None)
        ]
        for result in results:
            assert result.design == (design or "documents")
            assert result.nats == pytest.approx(results[0].nats, rel=1e-6)
            assert result.units.shape == (len(pieces), 3)
            np.testing.assert_allclose(result.units.sum(0), [result.nats, 147, 147], rtol=1e-9)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_in_float32_it_is_within_1e_6_in_the_mean_and_1e_4_a_token(model, stride, prefix):
    text, prefix_id = WORDS[:LONGEST], END_OF_TEXT if prefix == "auto" else None
    expected = brute_force(model, BYTES.encode(text), stride=stride, prefix_id=prefix_id)
    result = evaluate(model, BYTES, text, protocol=Protocol(stride=stride, prefix=prefix))
    assert result.loss_nats == pytest.approx(expected.mean(), abs=1e-6)
    nats = nats_of_each_token(model, BYTES.encode(text), stride=stride, prefix=prefix)
    np.testing.assert_allclose([nats[place] for place in sorted(nats)], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("context_length", [1, 2, 5, T - 1])
def test_a_context_shorter_than_the_models_is_what_each_token_sees(gpt, context_length):
    text, stride = WORDS[:40], max(1, context_length // 2)
    result = evaluate(gpt.double(), BYTES, text, protocol=Protocol(context_length=context_length))
    assert (result.protocol.context_length, result.protocol.stride) == (context_length, stride)
    expected = brute_force(
        gpt, BYTES.encode(text), stride=stride, prefix_id=END_OF_TEXT, context_length=context_length
    )
    assert result.nats == pytest.approx(expected.sum(), abs=1e-6)


def test_the_stride_changes_the_number():
    # Otherwise the tests above could pass with a stride that nobody reads.
    gpt = lively(CONFIGS["gpt2"])
    losses = {evaluate(gpt, BYTES, WORDS, protocol=Protocol(stride=stride)).loss_nats for stride in STRIDES}
    assert len({round(loss, 3) for loss in losses}) == len(STRIDES)


def test_the_default_is_the_models_context_and_half_of_it(gpt):
    assert evaluate(gpt, BYTES, WORDS) == evaluate(
        gpt, BYTES, WORDS, protocol=Protocol(context_length=T, stride=T // 2)
    )


# Windows.


@pytest.mark.parametrize(
    ("context_length", "stride"), [(1, 1), (2, 1), (5, 2), (8, 8), (9, 4), (16, 7), (16, 15)]
)
def test_windows_score_each_place_once_and_give_it_t_minus_s_places_before(context_length, stride):
    for n_inputs in range(3 * context_length + 8):
        windows = list(scored_windows(n_inputs, context_length, stride))
        scored = [place for _, first, end in windows for place in range(first, end)]
        assert scored == list(range(n_inputs))
        for number, (start, first, end) in enumerate(windows):
            assert start == number * stride
            assert start <= first < end <= start + context_length
            assert first == 0 or first - start >= context_length - stride
            assert end == min(start + context_length, n_inputs)


# What does not change the number.


def documents_of(texts):
    return [np.asarray(BYTES.encode(text)) for text in texts]


MIXED = [WORDS, "a", FOREIGN, WORDS[:T], "", WORDS[: T + 1], "bc", WORDS[3:40], WORDS * 2]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 9, 1000])
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_the_batch_size_does_not_change_the_number(model, prefix, batch_size):
    one = evaluate_documents(
        model, BYTES, documents_of(MIXED), protocol=Protocol(prefix=prefix, batch_size=8)
    )
    other = evaluate_documents(
        model, BYTES, documents_of(MIXED), protocol=Protocol(prefix=prefix, batch_size=batch_size)
    )
    assert other.loss_nats == pytest.approx(one.loss_nats, abs=1e-6)
    assert (other.tokens_scored, other.bytes_scored) == (one.tokens_scored, one.bytes_scored)


def test_the_order_of_the_documents_does_not_change_the_number(model):
    one = evaluate_documents(model, BYTES, documents_of(MIXED))
    for order in ([*reversed(MIXED)], [*MIXED[4:], *MIXED[:4]]):
        other = evaluate_documents(model, BYTES, documents_of(order))
        assert other.loss_nats == pytest.approx(one.loss_nats, abs=1e-6)
        assert other.tokens_total == one.tokens_total


@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_each_document_is_scored_alone(model, prefix):
    together = evaluate_documents(model, BYTES, documents_of(MIXED), protocol=Protocol(prefix=prefix))
    alone = [
        evaluate(model, BYTES, text, protocol=Protocol(prefix=prefix))
        for text in MIXED
        if len(text.encode()) > (prefix == "none")
    ]
    assert together.documents == len(MIXED)
    assert together.nats == pytest.approx(
        math.fsum(one.nats for one in alone), abs=1e-6 * together.tokens_scored
    )
    assert together.tokens_scored == sum(one.tokens_scored for one in alone)
    assert together.bytes_scored == sum(one.bytes_scored for one in alone)


def test_logits_made_in_pieces_give_the_same_number(gpt, monkeypatch):
    whole = evaluate(gpt, BYTES, WORDS)
    monkeypatch.setattr("lucidlm.measure.scoring.LOGITS_BYTES", 3 * 4 * gpt.config.vocab_size)
    assert evaluate(gpt, BYTES, WORDS).loss_nats == pytest.approx(whole.loss_nats, abs=1e-6)
    assert evaluate(gpt, BYTES, WORDS).tokens_scored == whole.tokens_scored


# Counting.


@pytest.mark.parametrize("text", [WORDS, FOREIGN, "ab", "é", "\n\n", "猫"])
@pytest.mark.parametrize("prefix", ["auto", "none"])
@pytest.mark.parametrize("stride", [1, T])
def test_scored_and_left_out_are_the_total_in_tokens_and_bytes(gpt, text, prefix, stride):
    result = evaluate(gpt, BYTES, text, protocol=Protocol(prefix=prefix, stride=stride))
    left_out = 0 if prefix == "auto" else 1
    size = len(text.encode("utf-8"))
    assert (result.tokens_total, result.bytes_total) == (size, size)
    assert (result.tokens_scored, result.bytes_scored) == (size - left_out, size - left_out)
    assert result.protocol.prefix == ("end-of-text" if prefix == "auto" else "none")


@pytest.fixture(scope="module")
def pairs():
    """A vocabulary with tokens of several bytes, and a model for it."""
    tokenizer = Tokenizer.train([WORDS * 3, FOREIGN * 3], 300)
    config = CONFIGS["gpt2"].changed(vocab_size=tokenizer.vocab_size)
    return lively(config, prefix_id=tokenizer.end_of_text), tokenizer


@pytest.mark.parametrize("text", [WORDS, FOREIGN, WORDS + FOREIGN])
def test_bytes_are_those_of_the_text_where_a_token_has_several(pairs, text):
    model, tokenizer = pairs
    ids = tokenizer.encode(text)
    assert len(ids) < len(text.encode())
    result = evaluate(model, tokenizer, text)
    assert (result.tokens_total, result.tokens_scored) == (len(ids), len(ids))
    assert (result.bytes_total, result.bytes_scored) == (len(text.encode()), len(text.encode()))
    without = evaluate(model, tokenizer, text, protocol=Protocol(prefix="none"))
    assert without.tokens_scored == len(ids) - 1
    assert without.bytes_scored == len(text.encode()) - len(tokenizer.token_bytes(ids[0]))


@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_a_tokenizer_that_changes_the_text_is_measured_by_the_texts_own_bytes(pairs, tmp_path, prefix):
    model, tokenizer = pairs
    composed = "é" * 100  # two bytes each, and three of them in the text
    text = unicodedata.normalize("NFD", composed)
    document = tokenizer.document() | {"normalizer": {"type": "NFC"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    changing = Tokenizer.load(tmp_path)
    result = evaluate(model, changing, text, protocol=Protocol(prefix=prefix))
    plain = evaluate(model, tokenizer, composed, protocol=Protocol(prefix=prefix))
    assert (result.nats, result.tokens_scored) == (plain.nats, plain.tokens_scored)
    assert (result.bytes_total, result.bytes_spelled, plain.bytes_total) == (300, 200, 200)
    assert result.bytes_scored == round(1.5 * plain.bytes_scored)
    assert result.bits_per_byte == pytest.approx(plain.bits_per_byte / 1.5, rel=3e-3)  # bytes are whole
    assert "its tokens spell 200 bytes, the text has 300" in str(result)
    assert "changed" not in str(evaluate(model, changing, composed, protocol=Protocol(prefix=prefix)))


@pytest.mark.parametrize("text", ["  one two\n\nthree\tfour ", "one", " ", FOREIGN])
def test_words_are_counted_as_the_harness_counts_them(gpt, text):
    assert evaluate(gpt, BYTES, text).words == len(re.split(r"\s+", text))


def test_all_its_numbers_come_from_the_same_sum_of_nats(pairs):
    model, tokenizer = pairs
    result = evaluate(model, tokenizer, WORDS + FOREIGN)
    totals = [
        result.loss_nats * result.tokens_scored,
        math.log(result.perplexity) * result.tokens_scored,
        result.bits_per_byte * math.log(2) * result.bytes_scored,
        math.log(result.word_perplexity) * result.words,
        math.log(result.byte_perplexity) * result.bytes_scored,
    ]
    assert totals == pytest.approx([result.nats] * 5, rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_nats_are_float32_losses_added_in_float64(model, batch_size):
    ids = BYTES.encode(WORDS * 2)
    settings = {"stride": T // 2, "batch_size": batch_size}
    losses = nats_of_each_token(model, ids, **settings)
    result = evaluate_documents(model, BYTES, [np.asarray(ids)], protocol=Protocol(**settings))
    # A sum of 16 losses in float32 would be off by 1e-7 already.
    assert result.nats == pytest.approx(math.fsum(losses.values()), rel=1e-12)


@pytest.mark.parametrize("text", [WORDS, FOREIGN])
def test_a_uniform_model_over_256_bytes_pays_8_bits_a_byte(text):
    model = GPT(GPTConfig(vocab_size=256, context_length=T, emb_dim=8, n_layers=1, n_heads=1))
    torch.nn.init.zeros_(model.head.weight)
    result = evaluate(model, BYTES, text)
    assert result.bits_per_byte == pytest.approx(8, abs=1e-7)
    assert result.perplexity == pytest.approx(256, abs=1e-5)
    assert result.byte_perplexity == pytest.approx(256, abs=1e-5)
    assert result.bytes_scored == result.bytes_total - 1


def test_without_a_prefix_of_its_own_a_model_leaves_the_first_token_out(gpt):
    gpt.config = gpt.config.changed(document_prefix_id=None)
    own = evaluate(gpt, BYTES, WORDS)
    assert own.protocol.prefix == "none"
    assert own == evaluate(gpt, BYTES, WORDS, protocol=Protocol(prefix="none"))


# Where the text comes from.


@pytest.mark.parametrize("text", [WORDS, FOREIGN])
def test_a_path_and_its_text_give_the_same_result(gpt, tmp_path, text):
    (tmp_path / "text.txt").write_bytes(text.encode("utf-8"))
    assert evaluate(gpt, BYTES, path=str(tmp_path / "text.txt")) == evaluate(gpt, BYTES, text)


@pytest.mark.parametrize("prefix", ["auto", "none"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_scored_and_left_out_bytes_are_those_of_the_file(gpt, tmp_path, name, prefix):
    text = "\ufeff" + "sixteen letters.\r\n" * 24
    data = text if name == "a.txt" else json.dumps({"id": 1, "text": text[1:]}) + "\r\n"
    (tmp_path / name).write_bytes(data.encode("utf-8"))
    result = evaluate(gpt, BYTES, path=str(tmp_path / name), protocol=Protocol(prefix=prefix))
    values = result.to_dict()
    assert values["bytes_of_files"] == len(data.encode("utf-8")) == values["bytes_as_utf8"]
    assert result.bytes_scored + sum(values["bytes_left_out"].values()) == values["bytes_of_files"]
    assert values["bytes_left_out"]["carriage_returns"] == 24 + (name == "a.jsonl")
    assert values["bytes_left_out"].get("not_scored", 0) == (prefix == "none")
    assert "carriage returns of line ends" in str(result)


def test_a_text_and_its_path_agree_whatever_its_line_ends(gpt, tmp_path):
    text = "\ufeffone\r\ntwo\rthree\u2028four\r\n"
    (tmp_path / "a.txt").write_bytes(text.encode("utf-8"))
    given, read = evaluate(gpt, BYTES, text), evaluate(gpt, BYTES, path=str(tmp_path / "a.txt"))
    assert given == read
    assert given.bytes_left_out == read.bytes_left_out == {"byte_order_marks": 3, "carriage_returns": 2}
    assert given.bytes_scored + 5 == len(text.encode("utf-8")) == given.to_dict()["bytes_as_utf8"]


def test_a_path_is_read_in_its_encoding(gpt, tmp_path):
    (tmp_path / "text.txt").write_bytes("Größe über alles".encode("latin-1"))
    result = evaluate(gpt, BYTES, path=str(tmp_path / "text.txt"), reading=Reading(encoding="latin-1"))
    assert result == evaluate(gpt, BYTES, "Größe über alles")


def test_each_file_of_a_folder_is_a_document(gpt, tmp_path):
    texts = [WORDS, FOREIGN, "a short one"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode("utf-8"))
    folder = evaluate(gpt, BYTES, path=str(tmp_path))
    assert folder.documents == 3
    alone = math.fsum(evaluate(gpt, BYTES, text).nats for text in texts)
    assert folder.nats == pytest.approx(alone, abs=1e-6 * folder.tokens_scored)


def test_each_line_of_a_jsonl_is_a_document(gpt, tmp_path):
    texts = [WORDS, FOREIGN, "a short one"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(lines, encoding="utf-8")
    assert evaluate(gpt, BYTES, path=str(tmp_path / "texts.jsonl")).documents == 3


# The result.


def test_its_dictionary_is_json_with_stable_keys(gpt):
    result = evaluate(gpt, BYTES, FOREIGN)
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    promised = {"loss_nats", "perplexity", "bits_per_byte", "nats", "tokens_scored", "tokens_total"}
    promised |= {"bytes_scored", "bytes_total", "protocol"}
    assert promised <= values.keys()
    assert values["loss_nats"] == result.loss_nats
    assert values["protocol"] == {
        "name": "lucid",
        "context_length": T,
        "stride": T // 2,
        "prefix": "end-of-text",
        "dtype": "float32",
        "device": "cpu",
        "in_pieces": False,
        "difference": "",
    }


def test_as_a_string_it_says_the_numbers_and_how_they_were_counted(gpt):
    shown = str(evaluate(gpt, BYTES, WORDS))
    result = evaluate(gpt, BYTES, WORDS)
    for part in (
        f"{result.loss_nats:.4f} nats per token",
        f"{result.perplexity:,.2f}",
        f"{result.bits_per_byte:.4f}",
        f"{len(WORDS)} of {len(WORDS)} tokens, {len(WORDS)} of {len(WORDS)} bytes, 1 document",
        "protocol lucid: context 16, stride 8, the first token of a document is predicted from the "
        "end-of-text token, float32 on cpu",
    ):
        assert part in shown
    assert "the first token of a document is not scored" in str(
        evaluate(gpt, BYTES, WORDS, protocol=Protocol(prefix="none"))
    )


def test_a_notebook_shows_each_number_and_why_there_is_no_interval(gpt):
    result = evaluate(gpt, BYTES, WORDS)
    shown = result._repr_html_()
    assert result.no_interval
    for part in (f"{result.loss_nats:.4f} nats", f"{result.bits_per_byte:.4f}", str(result.no_interval)):
        assert part in shown


def test_pieces_are_counted_as_pieces(gpt):
    ids = np.array(BYTES.encode(WORDS))
    pieces = [Excerpt(ids[start : start + 20], ids[:start]) for start in (10, 40, 70)]
    shown = str(evaluate_documents(gpt, BYTES, pieces, design="strata"))
    assert "60 of 60 bytes, 3 pieces" in shown
    assert "each piece is scored with the text before it as context" in shown


def test_few_tokens_are_said_beside_each_number_and_a_sample_with_its_size(gpt):
    few = evaluate(gpt, BYTES, WORDS)
    assert few.caution == f"only {len(WORDS)} tokens"
    enough = evaluate(gpt, BYTES, WORDS * 11)
    assert enough.tokens_scored > 1000
    assert enough.caution == ""
    sample = dataclasses.replace(enough, sample_of=5000)
    assert sample.caution == f"sample: {enough.tokens_scored:,} of 5,000 tokens"
    assert sample.to_dict()["sample_of"] == 5000
    for result in (few, sample):
        rows = {name: value for name, value, _ in result.rows()}
        for name in ("loss", "perplexity", "bits per byte", "accuracy", "calibration"):
            assert rows[name].endswith(f"({result.caution})")
    assert "(" not in dict(row[:2] for row in enough.rows())["loss"]


def test_progress_tells_the_tokens_scored_so_far(gpt):
    told = Recorded()
    result = evaluate(gpt, BYTES, WORDS, progress=told, protocol=Protocol(batch_size=2))
    assert told.stages == [["scoring tokens", result.tokens_scored, None]]
    assert told.steps > 1


def test_bfloat16_is_said_and_close(gpt):
    exact, short = (
        evaluate(gpt, BYTES, WORDS),
        evaluate(gpt, BYTES, WORDS, protocol=Protocol(dtype="bfloat16")),
    )
    assert short.protocol.dtype == "bfloat16"
    # 8 bits of mantissa over two layers: some hundredths of a nat.
    assert short.loss_nats == pytest.approx(exact.loss_nats, abs=0.1)
    assert short.loss_nats != exact.loss_nats


# Errors.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, r"--stride 0: .*1 to the context length 16"),
        ({"stride": -3}, r"--stride -3: .*1 to the context length 16"),
        ({"stride": T + 1}, r"--stride 17: .*1 to the context length 16"),
        ({"stride": 5, "context_length": 4}, r"--stride 5: .*1 to the context length 4"),
        ({"context_length": 0}, r"--context-length 0: .*1 to 16"),
        ({"context_length": T + 1}, r"--context-length 17: .*1 to 16"),
        ({"context_length": -1, "name": "batch-mean"}, r"--context-length -1: .*1 to 16"),
        ({"context_length": T + 1, "name": "batch-mean"}, r"--context-length 17: .*1 to 16"),
        ({"prefix": "bos"}, r"--prefix bos: .*auto and none"),
        ({"name": "harness"}, r"--protocol harness: .*lucid, lm-eval, hf-guide, batch-mean"),
        ({"name": "lm-eval", "stride": 4}, r"--stride 4: lm-eval sets its windows side by side"),
        ({"name": "lm-eval", "prefix": "none"}, r"--protocol lm-eval: .*leave --prefix none out"),
        ({"dtype": "float16"}, r"--dtype float16: .*float32 or bfloat16"),
        ({"batch_size": -1}, r"-1"),
        ({"batch_size": -1, "name": "batch-mean"}, r"-1"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_that_names_value_and_limit(gpt, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate(gpt, BYTES, WORDS, protocol=Protocol(**settings))
    assert "\n" not in str(caught.value)


def test_a_stride_with_batch_mean_is_refused_rather_than_ignored(gpt):
    with pytest.raises(ConfigError, match="stride"):
        evaluate(gpt, BYTES, WORDS, protocol=Protocol("batch-mean", stride=3))


def test_neither_text_nor_path_is_an_error_and_both_are(gpt):
    with pytest.raises(ConfigError, match=r"either text=\.\.\. or path="):
        evaluate(gpt, BYTES, WORDS, path="also.txt")
    with pytest.raises(ConfigError, match=r"either text=\.\.\. or path="):
        evaluate(gpt, BYTES)


@pytest.mark.parametrize(
    ("text", "prefix", "message"),
    [
        ("", "auto", "0 tokens in 1 document and the text is empty"),
        ("", "none", "0 tokens"),
        ("a", "none", "1 token in 1 document and the prefix is none"),
    ],
)
def test_a_text_without_a_token_to_score_is_an_error(gpt, text, prefix, message):
    with pytest.raises(DataError, match=message) as caught:
        evaluate(gpt, BYTES, text, protocol=Protocol(prefix=prefix))
    assert "longer text" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_token_after_the_prefix_can_be_scored(gpt):
    with torch.no_grad():
        expected = -F.log_softmax(gpt(torch.tensor([[END_OF_TEXT]]))[0, 0], -1)[ord("a")].item()
    assert evaluate(gpt, BYTES, "a").nats == pytest.approx(expected, abs=1e-6)


def test_an_empty_file_is_a_data_error(gpt, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(DataError):
        evaluate(gpt, BYTES, path=str(tmp_path / "empty.txt"))


def test_a_text_shorter_than_one_batch_of_windows_is_an_error_with_batch_mean(gpt):
    with pytest.raises(DataError, match=r"no token can be scored.*shorter context"):
        evaluate(gpt, BYTES, WORDS[: 2 * T], protocol=Protocol("batch-mean"))


@pytest.mark.parametrize("protocol", ["lucid", "batch-mean"])
@pytest.mark.parametrize("where", ["token_embedding.weight", "final_norm.weight"])
def test_weights_that_hold_nan_are_an_error_that_names_it(gpt, protocol, where):
    with torch.no_grad():
        gpt.get_parameter(where)[..., 3] = math.nan
    with pytest.raises(NumbersError, match=rf"logits at token \d of document 1 .*NaN.*weight {where}"):
        evaluate(gpt, BYTES, WORDS, protocol=Protocol(protocol))


def test_a_single_token_whose_embedding_is_nan_is_found_in_a_long_text(gpt):
    with torch.no_grad():
        gpt.token_embedding.weight[ord("?")] = math.nan
    gpt.head.weight = torch.nn.Parameter(torch.zeros_like(gpt.head.weight))
    with pytest.raises(WeightsError, match="NaN"):
        evaluate(gpt, BYTES, WORDS * 3)


# What evaluating leaves as it was.


@pytest.mark.parametrize("protocol", ["lucid", "batch-mean"])
@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_weights_and_random_numbers_are_left_as_they_were(family, protocol, training):
    model = lively(CONFIGS[family].changed(drop_rate=0.5)).train(training)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    evaluate(model, BYTES, WORDS, protocol=Protocol(protocol))
    assert all(module.training == training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in model.named_parameters())
    assert torch.is_grad_enabled()
    model(torch.tensor([[1, 2, 3]])).sum().backward()


def test_dropout_is_off(family):
    model = lively(CONFIGS[family].changed(drop_rate=0.5))
    assert evaluate(model.train(), BYTES, WORDS) == evaluate(model.eval(), BYTES, WORDS)


def test_training_is_the_same_with_evaluations_in_between(family):
    def trained(evaluations: int) -> dict[str, torch.Tensor]:
        model = lively(CONFIGS[family].changed(drop_rate=0.2)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(1)
        ids = torch.tensor([BYTES.encode(WORDS[: T + 1])])
        for _ in range(3):
            for _ in range(evaluations):
                evaluate(model, BYTES, WORDS)
            cross_entropy(model(ids[:, :-1]), ids[:, 1:]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    without, between = trained(0), trained(2)
    assert all(torch.equal(between[name], weight) for name, weight in without.items())


def test_the_mode_comes_back_after_an_error_in_the_middle(gpt):
    class Broken(torch.nn.Module):
        def forward(self, hidden):
            raise ArithmeticError

    gpt.train().head = Broken()
    with contextlib.suppress(ArithmeticError):
        evaluate(gpt, BYTES, WORDS)
    assert gpt.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# The course's first way.


class Windows(Dataset):
    """The course's data set: inputs, and targets one later, from a sliding window."""

    def __init__(self, ids, context_length):
        self.inputs, self.targets = [], []
        for start in range(0, len(ids) - context_length, context_length):
            self.inputs.append(torch.tensor(ids[start : start + context_length]))
            self.targets.append(torch.tensor(ids[start + 1 : start + context_length + 1]))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, place):
        return self.inputs[place], self.targets[place]


def mean_of_batch_means(model, ids, *, context_length, batch_size):
    loader = DataLoader(Windows(ids, context_length), batch_size=batch_size, shuffle=False, drop_last=True)
    total = 0.0
    with torch.no_grad():
        for inputs, targets in loader:
            total += F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    return total / len(loader), len(loader) * batch_size * context_length


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
@pytest.mark.parametrize("context_length", [None, 4, T])
@pytest.mark.parametrize("text", [WORDS, WORDS[: 6 * T], WORDS[: 6 * T + 1], FOREIGN])
def test_batch_mean_equals_the_courses_loop(model, text, context_length, batch_size):
    if text == FOREIGN and batch_size == 3:
        text = FOREIGN * 2
    result = evaluate(
        model,
        BYTES,
        text,
        protocol=Protocol("batch-mean", context_length=context_length, batch_size=batch_size),
    )
    expected, tokens = mean_of_batch_means(
        model, BYTES.encode(text), context_length=context_length or T, batch_size=batch_size or 2
    )
    assert result.loss_nats == pytest.approx(expected, abs=1e-6)
    assert result.tokens_scored == tokens
    assert result.tokens_total == result.bytes_total == len(text.encode())
    assert result.protocol.name == "batch-mean"
    assert result.protocol.stride == (context_length or T)
