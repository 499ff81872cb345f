import csv
import io
import json
import math

import numpy as np
import pytest
import torch

from lucidlm.measure.document_scores import SHOWN, THIN_TOKENS, csv_of, score_documents, table, write_csv
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
SUMS = np.array([[200.0, 100, 100], [90.0, 30, 30], [0.0, 0, 0], [500.0, 200, 400]])
NAMES = ["even", "worst", "nothing scored", "best"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = GPT(GPTConfig(vocab_size=257, context_length=16, emb_dim=16, n_layers=1, n_heads=2)).eval()
    made.config = made.config.changed(document_prefix_id=256)
    return made


def test_the_worst_stands_first_and_what_was_not_scored_last():
    scores = score_documents(SUMS, NAMES)
    assert [score.source for score in scores] == ["worst", "even", "best", "nothing scored"]
    assert scores[0].bits_per_byte == pytest.approx(90 / 30 / math.log(2))
    assert (scores[0].loss_nats, scores[2].loss_nats) == (3.0, 2.5)
    assert [score.thin for score in scores] == [True, False, False, True]
    assert math.isnan(scores[-1].loss_nats)


def test_where_bytes_do_not_count_the_worst_is_by_loss():
    scores = score_documents(SUMS, NAMES, by_bytes=False)
    assert [score.source for score in scores][:3] == ["worst", "best", "even"]
    assert all(math.isnan(score.bits_per_byte) for score in scores)


def test_a_long_table_is_cut_and_says_so():
    sums = np.column_stack((np.arange(1.0, 31), np.full(30, 200), np.full(30, 200)))
    lines = table(score_documents(sums, [f"a.jsonl:{n}" for n in range(30)]))
    assert len(lines) == 2 + SHOWN + 1
    assert "a.jsonl:29" in lines[2]
    assert lines[-1] == "... 10 more: --csv FILE and --json have all"
    assert "more" not in table(score_documents(sums[:SHOWN], NAMES * 5))[-1]


def test_few_tokens_are_marked_with_their_number():
    (row,) = table(score_documents(SUMS[1:2], ["a"]))[2:]
    assert row.endswith(f"(few tokens: n = {30})")
    (row,) = table(score_documents(np.array([[9.0, THIN_TOKENS, 200]]), ["a"]))[2:]
    assert "few" not in row


def test_a_name_cannot_break_a_row_and_keeps_its_end():
    lines = table(score_documents(SUMS[:2], ["a\nb\x1b[31m\r\x0b", "folder/" * 20 + "end.txt"]))
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert "/end.txt  (few tokens" in lines[2]
    assert len(lines[2]) < 130


def test_csv_has_every_document_and_any_name(tmp_path):
    names = ["a,b", 'quoted "name"', "two\nlines", "caf\udce9.txt"]
    write_csv(tmp_path / "a.csv", score_documents(SUMS, names))
    text = (tmp_path / "a.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text == csv_of(score_documents(SUMS, names))
    assert [row["source"] for row in rows] == ['quoted "name"', "a,b", "caf\\udce9.txt", "two\nlines"]
    assert [float(row["nats"]) for row in rows] == [90, 200, 500, 0]
    assert (rows[-1]["loss_nats"], rows[-1]["bits_per_byte"], rows[-1]["thin"]) == ("", "", "True")
    json.dumps([score.to_dict() for score in score_documents(SUMS, names)], ensure_ascii=False).encode()


@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_documents_add_up_to_the_evaluation_and_are_each_its_own(model, prefix):
    texts = ["a longer document, of some forty bytes", "b", "short é", "x" * 60]
    ids = [np.array(BYTES.encode(text)) for text in texts]
    result = evaluate_documents(model, BYTES, ids, protocol=Protocol(prefix=prefix))
    nats, tokens, sizes = result.by_document.T
    assert nats.sum() == pytest.approx(result.nats, rel=1e-12)
    assert tokens.tolist() == [len(one) - (prefix == "none") for one in ids]
    assert (tokens.sum(), sizes.sum()) == (result.tokens_scored, result.bytes_scored)
    for one, sums in zip(ids, result.by_document, strict=True):
        if len(one) > (prefix == "none"):
            alone = evaluate_documents(model, BYTES, [one], protocol=Protocol(prefix=prefix))
            assert sums[0] == pytest.approx(alone.nats, abs=1e-4)


def test_an_empty_document_keeps_its_place(model):
    ids = [np.array([65, 66]), np.array([], np.int64), np.array([67])]
    assert evaluate_documents(model, BYTES, ids).by_document[:, 1].tolist() == [2, 0, 1]
