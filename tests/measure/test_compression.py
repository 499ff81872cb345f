import gzip
import json
import math
import random

import numpy as np
import pytest
import torch
from compressed_files import HEADER, PAIRS, changed, elsewhere
from models import BYTES, END_OF_TEXT, STORY, lively, shape
from recorded import Recorded

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure import compression
from lucidlm.measure.compression import compress, decompress, model_hash, predictions
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer, evaluating
from lucidlm.model.gpt import GPT
from lucidlm.runtime.process import Arithmetic
from lucidlm.text.tokenizer import Tokenizer

KINDS = {
    "empty": b"",
    "zero byte": b"\x00",
    "one letter": b"a",
    "two letters": b"ab",
    "one byte that is no UTF-8": b"\xff",
    "English": STORY.encode()[:60],
    "longer than the context": STORY.encode(),
    "as long as the context": STORY.encode()[:64],
    "one over the context": STORY.encode()[:65],
    "Chinese": "钟表匠在黄昏时给每一座钟上弦。".encode(),
    "emoji": "🙂👩‍👩‍👧🏳️‍🌈!".encode(),
    "accents and right to left": "Größe, naïve: ça va — שלום عليكم".encode(),
    "all bytes": bytes(range(256)),
    "random bytes": random.Random(0).randbytes(90),
    "UTF-8 and not": b"caf\xc3\xa9 \xc3( caf\xe9 \xf0\x9f\x98 \x80 end",
    "a run": b"a" * 150,
    "line ends": b"one\r\ntwo\nthree\r\r\n\n",
    "null bytes": b"a\x00\x00b\x00" * 6,
    "half a surrogate pair": b"x\xed\xa0\x80y\xed\xbf\xbf",
    "white space": b" \t  \n   \x0b\x0c  " + "  　".encode(),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "control text": b"<|endoftext|> is thirteen characters <|endoftext|>",
    "UTF-16": "clock".encode("utf-16"),
}


def assert_comes_back(model, tokenizer, data, **settings):
    """Compressed, as small as evaluated, and the same again: returns what `compress` said."""
    result = compress(model, tokenizer, data, **settings)
    assert decompress(model, tokenizer, result.file) == data
    assert result.bytes == len(data)
    assert abs(8 * len(result.file) - result.evaluated_bits) <= 0.002 * result.evaluated_bits + 8 * 128
    return result


# The same bytes come back, in as many bits as were evaluated.


@pytest.mark.parametrize("prefix", ["auto", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_come_back_and_take_the_evaluated_bits(lively_gpt, kind, prefix):
    lively_gpt.config = lively_gpt.config.changed(document_prefix_id=END_OF_TEXT)
    assert_comes_back(lively_gpt, BYTES, KINDS[kind], protocol=Protocol(prefix=prefix))


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_come_back_through_a_trained_vocabulary(kind):
    # A model of more ids than its tokenizer: the padding keeps its probability.
    model = lively(shape(vocab_size=320, document_prefix_id=PAIRS.end_of_text))
    assert_comes_back(model, PAIRS, KINDS[kind])


@pytest.fixture(scope="module")
def wide_gpt() -> GPT:
    return lively(shape(vocab_size=50257, context_length=32, tied_head=True))


@pytest.mark.parametrize(
    "kind", ["one letter", "longer than the context", "emoji", "UTF-8 and not", "UTF-16"]
)
def test_any_bytes_come_back_through_gpt2s_vocabulary(wide_gpt, kind):
    assert_comes_back(wide_gpt, Tokenizer.gpt2(), KINDS[kind])


def test_where_a_tokenizer_changes_the_text_each_byte_is_a_token(tmp_path):
    PAIRS.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["normalizer"] = {"type": "NFC"}
    document["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(document), encoding="utf-8")
    lossy = Tokenizer.load(path)
    assert lossy.decode_bytes(lossy.encode(b"a")) == b" a"
    model = lively(shape(vocab_size=300))
    for data in (b"a", "e\u0301".encode(), b"\xff\x00", STORY.encode()):
        assert assert_comes_back(model, lossy, data).tokens == len(data)


def test_a_tokenizer_that_adds_a_control_token_gives_a_token_a_byte():
    table = [*(bytes([value]) for value in range(256)), b""]
    adding = Tokenizer(
        "adding",
        table,
        END_OF_TEXT,
        encode_text=lambda text: np.array([END_OF_TEXT, *text.encode()]),
        document=dict,
    )
    model = lively(shape())
    assert assert_comes_back(model, adding, b"abc").tokens == 3


WINDOWS = [(None, None), (64, 64), (64, 32), (64, 1), (17, None), (16, 16), (16, 5), (16, 1), (1, 1)]


@pytest.mark.parametrize(("context_length", "stride"), WINDOWS)
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_the_windows_are_those_of_evaluate(lively_gpt, context_length, stride, prefix):
    lively_gpt.config = lively_gpt.config.changed(document_prefix_id=END_OF_TEXT)
    data = STORY.encode()
    protocol = Protocol(context_length=context_length, stride=stride, prefix=prefix)
    result = assert_comes_back(lively_gpt, BYTES, data, protocol=protocol)
    evaluated = evaluate_documents(lively_gpt, BYTES, [np.array(BYTES.encode(data))], protocol=protocol)
    assert result.evaluated_bits == evaluated.nats / math.log(2)


@pytest.mark.parametrize(("context_length", "stride"), [(64, 64), (64, 32), (16, 5), (16, 1), (1, 1)])
@pytest.mark.parametrize("prefix_id", [None, END_OF_TEXT])
def test_step_by_step_the_logits_are_those_of_a_whole_window(lively_gpt, context_length, stride, prefix_id):
    ids = BYTES.encode(STORY)
    how = {"context_length": context_length, "stride": stride, "prefix_id": prefix_id}
    with evaluating(lively_gpt, torch.float32):
        steps = predictions(lively_gpt, len(ids), **how)
        stepwise = [steps.send(came) for came in [None, *ids[:-1]]]
        with pytest.raises(StopIteration):
            steps.send(ids[-1])
    whole = {}
    lively_gpt.config = lively_gpt.config.changed(document_prefix_id=prefix_id)
    protocol = Protocol(context_length=context_length, stride=stride)
    for piece in Scorer(lively_gpt, BYTES, protocol).pieces([np.array(ids)]):
        whole |= {piece.start + place: logits for place, logits in enumerate(piece.logits)}
    assert list(whole) == list(range(prefix_id is None, len(ids)))
    for place, logits in whole.items():
        torch.testing.assert_close(torch.from_numpy(stepwise[place]).float(), logits, rtol=1e-4, atol=1e-4)
    if prefix_id is None:
        assert np.ptp(stepwise[0]) == 0  # the first is as probable as any other


def test_without_a_prefix_the_first_token_costs_a_fair_choice(byte_gpt):
    protocol = Protocol(prefix="none")
    bits = [8 * len(compress(byte_gpt, BYTES, b"a" * n, protocol=protocol).file) for n in (0, 1)]
    assert bits[0] == 8 * HEADER.size
    assert bits[1] - bits[0] == 32  # log2(257) bits, in words of 32


def test_a_model_that_is_sure_makes_a_small_file(byte_gpt):
    # It has learnt one thing, that "a" follows "a".
    with torch.no_grad():
        for parameter in byte_gpt.parameters():
            parameter.zero_()
        byte_gpt.final_norm.bias.fill_(1)
        byte_gpt.head.weight[97] = 1
    result = assert_comes_back(byte_gpt, BYTES, b"a" * 600)
    assert result.evaluated_bits < 2
    assert len(result.file) <= HEADER.size + 4


# Another model, another tokenizer, another machine.


def test_one_other_weight_is_another_model(byte_gpt, file):
    weight = byte_gpt.blocks[0].feed_forward.out.bias
    with torch.no_grad():
        weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))
    with pytest.raises(WeightsError, match="another model or tokenizer"):
        decompress(byte_gpt, BYTES, file)


def test_another_shape_or_tokenizer_is_refused(byte_gpt, file):
    other = GPT(byte_gpt.config.changed(norm_eps=1e-6)).eval()
    other.load_state_dict(byte_gpt.state_dict())
    with pytest.raises(WeightsError, match="another model or tokenizer"):
        decompress(other, BYTES, file)
    with pytest.raises(WeightsError, match="another model or tokenizer"):
        decompress(byte_gpt, Tokenizer.train([STORY], 257), file)


def test_what_does_not_change_predictions_does_not_change_the_hash(byte_gpt):
    copy = GPT(byte_gpt.config.changed(drop_rate=0.5))
    copy.load_state_dict(byte_gpt.state_dict())
    assert model_hash(copy, BYTES) == model_hash(byte_gpt, BYTES)
    copy.config = copy.config.changed(document_prefix_id=5)  # it stands in the file
    assert model_hash(copy.train(), BYTES) == model_hash(byte_gpt, BYTES)
    assert len(model_hash(byte_gpt, BYTES)) == 16


def test_other_probabilities_are_told_and_never_give_other_bytes(byte_gpt, file, monkeypatch):
    elsewhere(monkeypatch)
    with pytest.raises(DataError, match=r"kernels, PyTorch and CPU are equal .*damaged.*decompress where"):
        decompress(byte_gpt, BYTES, file)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"threads": 3}, r"threads: 3 there, 2 here\); leave out --threads"),
        ({"torch": b"1.13.1"}, r"torch version: 1\.13\.1 there, .* here\); decompress where"),
        ({"capability": b"VSX"}, r"capability: VSX there"),
        ({"device": 2}, r"device: cuda there, cpu here"),
        (
            {"kernels": 2, "threads": 1},
            r"threads: 1 there, 2 here\); leave out",
        ),  # kernels are set as they were
    ],
)
def test_what_differs_from_where_the_file_was_made_is_named(byte_gpt, file, monkeypatch, fields, says):
    elsewhere(monkeypatch)
    with pytest.raises(DataError, match=says):
        decompress(byte_gpt, BYTES, changed(file, **{"threads": 2} | fields), threads=2)


def test_a_file_is_decompressed_on_the_threads_and_kernels_it_was_made_with(byte_gpt, monkeypatch):
    before = torch.get_num_threads()
    step, seen = compression.predictions, []

    def watched(*arguments, **how):
        seen.append((torch.get_num_threads(), Arithmetic.here(torch.device("cpu")).kernels))
        return step(*arguments, **how)

    monkeypatch.setattr(compression, "predictions", watched)
    made = Arithmetic(3, "cpu", "onednn", "", "")
    with made.used():
        file = compress(byte_gpt, BYTES, b"some text").file
    assert compression.arithmetic_of(file).threads == 3
    assert decompress(byte_gpt, BYTES, file) == b"some text"
    # Too small a model for threads to matter.
    assert decompress(byte_gpt, BYTES, file, threads=2) == b"some text"
    assert seen == [(3, "onednn"), (3, "onednn"), (2, "onednn")]
    assert torch.get_num_threads() == before
    assert Arithmetic.here(torch.device("cpu")).kernels == "stock"


# What else it keeps.


def test_logits_that_are_no_numbers_are_named(byte_gpt, file, monkeypatch):
    monkeypatch.setattr(
        compression, "predictions", lambda *_, **__: (np.full(257, math.nan) for _ in range(40))
    )
    with pytest.raises(NumbersError, match="token 0 hold NaN"):
        decompress(byte_gpt, BYTES, file)
    monkeypatch.undo()
    with torch.no_grad():
        byte_gpt.head.weight[5, 5] = math.nan
    with pytest.raises(NumbersError, match="NaN"):
        compress(byte_gpt, BYTES, b"abc")


def test_a_tokenizer_of_more_ids_than_the_model_is_named(byte_gpt):
    for text in (b"\xe7\x8c\xab clock clocks", b" clocks"):
        with pytest.raises(WeightsError, match="vocabulary of 257"):
            compress(byte_gpt, Tokenizer.gpt2(), text, protocol=Protocol(prefix="none"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_length": 17},
        {"stride": 17},
        {"stride": 0},
        {"prefix": "x"},
        {"name": "lm-eval"},
        {"dtype": "bfloat16"},
    ],
)
def test_a_setting_that_cannot_work_is_named(byte_gpt, wrong):
    with pytest.raises(ConfigError):
        compress(byte_gpt, BYTES, b"abc", protocol=Protocol(**wrong))


def test_progress_counts_the_tokens_both_ways(byte_gpt):
    there, back = Recorded(), Recorded()
    file = compress(byte_gpt, BYTES, b"abc", progress=there).file
    decompress(byte_gpt, BYTES, file, progress=back)
    assert there.stages[-1][1:] == back.stages[-1][1:] == [3, 3]
    assert back.steps == 3


def test_the_model_is_left_as_it_was(byte_gpt):
    byte_gpt.train()
    before = {name: weight.clone() for name, weight in byte_gpt.state_dict().items()}
    state = torch.random.get_rng_state()
    decompress(byte_gpt, BYTES, compress(byte_gpt, BYTES, b"abc").file)
    assert byte_gpt.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in byte_gpt.state_dict().items())


def test_the_same_text_gives_the_same_file(byte_gpt):
    assert compress(byte_gpt, BYTES, b"abc" * 20).file == compress(byte_gpt, BYTES, b"abc" * 20).file


def test_it_says_both_numbers_and_what_lies_between(byte_gpt):
    result = compress(byte_gpt, BYTES, STORY.encode())
    lines = str(result).splitlines()
    assert len(lines) == 5
    assert f"{len(STORY):,} bytes" in lines[0]
    assert f"{len(result.file):,} bytes" in lines[0]
    assert lines[1] == "counted: every byte of the file as it is"
    assert f"{8 * len(result.file) / len(STORY):.4f} in the file" in lines[2]
    assert f"{result.evaluated_bits / len(STORY):.4f} in the evaluation" in lines[2]
    assert lines[4] == f"made with {Arithmetic.here(torch.device('cpu'))}"
    assert json.loads(json.dumps(result.to_dict()))["difference_bits"] == pytest.approx(
        8 * len(result.file) - result.evaluated_bits
    )


def test_what_evaluate_of_the_same_file_leaves_out_is_counted_and_said(byte_gpt, tmp_path):
    data = b"\xef\xbb\xbfone\r\ntwo\r\nthree\r\n"
    (tmp_path / "crlf.txt").write_bytes(data)
    result, read = compress(byte_gpt, BYTES, data), evaluate(byte_gpt, BYTES, path=tmp_path / "crlf.txt")
    assert result.left_out == {"byte_order_marks": 3, "carriage_returns": 3}
    assert result.to_dict()["evaluate_leaves_out"] == result.left_out == read.bytes_left_out
    assert result.bytes == 20 == read.bytes_scored + 6
    said = "counts 14 bytes of text, so its bits are of other bytes: left out 6 of the text's 20 bytes: 3"
    assert f"as it is; `evaluate` of it {said}" in str(result)
    assert compress(byte_gpt, BYTES, b"one\ntwo\r").left_out == {}
    assert compress(byte_gpt, BYTES, b"caf\xe9\r\n").left_out == {}  # no text that evaluate would read


JSONL = b'{"text": "one two"}\n{"text": "three"}\n'
BOOK = b"\n".join((b"*** START OF THE PROJECT GUTENBERG EBOOK A ***", b"one two", b"three",
                   b"*** END OF THE PROJECT GUTENBERG EBOOK A ***", b""))  # fmt: skip


@pytest.mark.parametrize(("name", "data", "why"), [
    ("a.jsonl", JSONL, "JSON around the texts"),
    ("a.html", b"<p>one two</p>\n<p>three</p>\n", "text extracted from 28 bytes of HTML"),
    ("a.txt.gz", gzip.compress(b"one two\n" * 5, mtime=0), "bytes are packed"),
    ("a.txt", BOOK, "Project Gutenberg's headers and footers"),
    ("b.txt", b"one two\rthree\r", "carriage returns read as line feeds"),
])  # fmt: skip
def test_every_file_whose_text_is_not_its_bytes_says_why_evaluate_counts_others(
    byte_gpt, tmp_path, name, data, why
):
    path = tmp_path / name
    path.write_bytes(data)
    result, read = compress(byte_gpt, BYTES, data, source=str(path)), evaluate(byte_gpt, BYTES, path=path)
    line = str(result).splitlines()[1]
    assert f"`evaluate` of it counts {read.bytes_total} bytes of text" in line
    assert why in line
    assert decompress(byte_gpt, BYTES, result.file) == data


@pytest.mark.parametrize(
    ("name", "data"), [("a.txt", b"one two\n"), ("a.jsonl", b"no JSON"), ("a.bin", b"abc")]
)
def test_a_file_that_is_its_text_or_none_needs_no_reason(byte_gpt, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    result = compress(byte_gpt, BYTES, data, source=str(tmp_path / name))
    assert str(result).splitlines()[1] == "counted: every byte of the file as it is"


def test_an_empty_file_is_its_header(byte_gpt):
    for prefix in ("auto", "none"):
        result = compress(byte_gpt, BYTES, b"", protocol=Protocol(prefix=prefix))
        assert len(result.file) == HEADER.size
        assert (result.tokens, result.bytes, result.evaluated_bits) == (0, 0, 0)
        assert "header alone" in str(result)
        assert decompress(byte_gpt, BYTES, result.file) == b""
