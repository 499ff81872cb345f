import json
import math
import re
import unicodedata

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import BYTES, END_OF_TEXT, FOREIGN, STORY, TWO_LAYERS, sharp
from recorded import Recorded
from torch.utils.data import DataLoader, Dataset

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.reading import Reading
from lucidlm.text.tokenizer import Tokenizer

T = 16
"""Context of the models here."""


# What does not change the number.


def documents_of(texts):
    return [np.asarray(BYTES.encode(text)) for text in texts]


MIXED = [STORY, "a", FOREIGN, STORY[:T], "", STORY[: T + 1], "bc", STORY[3:40], STORY * 2]


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
    whole = evaluate(gpt, BYTES, STORY)
    monkeypatch.setattr("lucidlm.measure.scoring.LOGITS_BYTES", 3 * 4 * gpt.config.vocab_size)
    assert evaluate(gpt, BYTES, STORY).loss_nats == pytest.approx(whole.loss_nats, abs=1e-6)
    assert evaluate(gpt, BYTES, STORY).tokens_scored == whole.tokens_scored


# Counting.


@pytest.mark.parametrize("text", [STORY, FOREIGN, "ab", "é", "\n\n", "猫"])
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
    tokenizer = Tokenizer.train([STORY * 3, FOREIGN * 3], 300)
    config = TWO_LAYERS["gpt2"].changed(vocab_size=tokenizer.vocab_size)
    return sharp(config, prefix_id=tokenizer.end_of_text), tokenizer


@pytest.mark.parametrize("text", [STORY, FOREIGN, STORY + FOREIGN])
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
    result = evaluate(model, tokenizer, STORY + FOREIGN)
    totals = [
        result.loss_nats * result.tokens_scored,
        math.log(result.perplexity) * result.tokens_scored,
        result.bits_per_byte * math.log(2) * result.bytes_scored,
        math.log(result.word_perplexity) * result.words,
        math.log(result.byte_perplexity) * result.bytes_scored,
    ]
    assert totals == pytest.approx([result.nats] * 5, rel=1e-12)


@pytest.mark.parametrize("text", [STORY, FOREIGN])
def test_a_uniform_model_over_256_bytes_pays_8_bits_a_byte(text, record_property):
    model = GPT(GPTConfig(vocab_size=256, context_length=T, emb_dim=8, n_layers=1, n_heads=1))
    torch.nn.init.zeros_(model.head.weight)
    result = evaluate(model, BYTES, text)
    record_property("distance from 8 bits per byte", abs(result.bits_per_byte - 8))
    assert result.bits_per_byte == pytest.approx(8, abs=1e-7)
    assert result.perplexity == pytest.approx(256, abs=1e-5)
    assert result.byte_perplexity == pytest.approx(256, abs=1e-5)
    assert result.bytes_scored == result.bytes_total - 1


def test_without_a_prefix_of_its_own_a_model_leaves_the_first_token_out(gpt):
    gpt.config = gpt.config.changed(document_prefix_id=None)
    own = evaluate(gpt, BYTES, STORY)
    assert own.protocol.prefix == "none"
    assert own == evaluate(gpt, BYTES, STORY, protocol=Protocol(prefix="none"))


# Where the text comes from.


@pytest.mark.parametrize("text", [STORY, FOREIGN])
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
    texts = [STORY, FOREIGN, "a short one"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode("utf-8"))
    folder = evaluate(gpt, BYTES, path=str(tmp_path))
    assert folder.documents == 3
    alone = math.fsum(evaluate(gpt, BYTES, text).nats for text in texts)
    assert folder.nats == pytest.approx(alone, abs=1e-6 * folder.tokens_scored)


def test_each_line_of_a_jsonl_is_a_document(gpt, tmp_path):
    texts = [STORY, FOREIGN, "a short one"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(lines, encoding="utf-8")
    assert evaluate(gpt, BYTES, path=str(tmp_path / "texts.jsonl")).documents == 3


def test_progress_tells_the_tokens_scored_so_far(gpt):
    told = Recorded()
    result = evaluate(gpt, BYTES, STORY, progress=told, protocol=Protocol(batch_size=2))
    assert told.stages == [["scoring tokens", result.tokens_scored, None]]
    assert told.steps > 1


def test_bfloat16_is_said_and_close(gpt):
    exact, short = (
        evaluate(gpt, BYTES, STORY),
        evaluate(gpt, BYTES, STORY, protocol=Protocol(dtype="bfloat16")),
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
        evaluate(gpt, BYTES, STORY, protocol=Protocol(**settings))
    assert "\n" not in str(caught.value)


def test_a_stride_with_batch_mean_is_refused_rather_than_ignored(gpt):
    with pytest.raises(ConfigError, match="stride"):
        evaluate(gpt, BYTES, STORY, protocol=Protocol("batch-mean", stride=3))


def test_neither_text_nor_path_is_an_error_and_both_are(gpt):
    with pytest.raises(ConfigError, match=r"either text=\.\.\. or path="):
        evaluate(gpt, BYTES, STORY, path="also.txt")
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
        evaluate(gpt, BYTES, STORY[: 2 * T], protocol=Protocol("batch-mean"))


@pytest.mark.parametrize("protocol", ["lucid", "batch-mean"])
@pytest.mark.parametrize("where", ["token_embedding.weight", "final_norm.weight"])
def test_weights_that_hold_nan_are_an_error_that_names_it(gpt, protocol, where):
    with torch.no_grad():
        gpt.get_parameter(where)[..., 3] = math.nan
    with pytest.raises(NumbersError, match=rf"logits at token \d of document 1 .*NaN.*weight {where}"):
        evaluate(gpt, BYTES, STORY, protocol=Protocol(protocol))


def test_a_single_token_whose_embedding_is_nan_is_found_in_a_long_text(gpt):
    with torch.no_grad():
        gpt.token_embedding.weight[ord("?")] = math.nan
    gpt.head.weight = torch.nn.Parameter(torch.zeros_like(gpt.head.weight))
    with pytest.raises(WeightsError, match="NaN"):
        evaluate(gpt, BYTES, STORY * 3)


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
@pytest.mark.parametrize("text", [STORY, STORY[: 6 * T], STORY[: 6 * T + 1], FOREIGN])
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
