import json
import math
import random

import numpy as np
import pytest
import torch

from lucidlm.errors import ConfigError, DataError
from lucidlm.measure import evaluated
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.gate import (
    NO_DIFFERENCE,
    below_limit,
    check_limit,
    check_settings,
    no_worse,
    read_result,
)
from lucidlm.measure.intervals import interval_of_ratio
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

T = 8
BYTES = Tokenizer.bytes()
WORDS = ["the", "old", "clock", "maker", "wound", "each", "of", "his", "clocks", "at", "dusk", "and", "none"]
TEXT = " ".join(WORDS[(7 * n + n // 5) % len(WORDS)] for n in range(120))
PAIRS = Tokenizer.train([TEXT * 3], 280)


def longer(times: int) -> str:
    """The text's words in another order each time: pages that are copies of each other have no interval."""
    words = TEXT.split()
    return " ".join(word for n in range(times) for word in random.Random(n).sample(words, len(words)))


def tiny(vocab_size: int = 257, *, seed: int = 0, context_length: int = T, noise: float = 0.0) -> GPT:
    """A model of this seed; with noise, the same one made a little worse or better."""
    torch.manual_seed(seed)
    shape = {"emb_dim": 16, "n_layers": 1, "n_heads": 2}
    model = GPT(GPTConfig(vocab_size=vocab_size, context_length=context_length, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    model.config = model.config.changed(document_prefix_id=vocab_size - 1)
    return model


@pytest.fixture(scope="module")
def result() -> Evaluation:
    return evaluate(tiny(), BYTES, TEXT)


@pytest.fixture
def store(tmp_path):
    """store(evaluation, changed="value"): the stored result, as --json prints it."""

    def write(evaluation: Evaluation, **changes):
        path = tmp_path / "base.json"
        values = json.loads(json.dumps(evaluation.to_dict()))
        path.write_text(json.dumps(values | changes), encoding="utf-8")
        return read_result(path)

    return write


def shifted(units: np.ndarray, nats: float) -> list[list[float]]:
    """The same units, each byte of them cheaper by this."""
    return (units - units[:, 2:] * np.array([nats, 0, 0])).tolist()


def test_a_result_is_no_worse_than_itself(result, store):
    verdict = no_worse(result, store(result))
    assert verdict.passed
    assert (verdict.difference, verdict.interval.low, verdict.interval.high) == (0, 0, 0)


def test_a_small_loss_that_every_unit_shares_is_worse(result, store):
    less = 0.01 * math.log(2)
    stored = store(
        result,
        bits_per_byte=result.bits_per_byte - 0.01,
        units=shifted(result.units, less),
    )
    verdict = no_worse(result, stored)
    assert not verdict.passed
    assert verdict.difference == pytest.approx(0.01)
    assert verdict.interval.low == pytest.approx(0.01) == pytest.approx(verdict.interval.high)
    assert verdict.line.startswith("worse: ")
    assert result.bits_interval.high - result.bits_per_byte > 0.01  # which the joint interval cannot see
    assert no_worse(result, store(result, bits_per_byte=result.bits_per_byte - 0.01, units=None)).passed


@pytest.mark.parametrize(("bits", "paired", "word"), [
    (0.01, True, "better: "),
    (NO_DIFFERENCE / 2, True, "no worse: "),
    (0.01, False, "no worse: "),
    (50.0, False, "better: "),
])  # fmt: skip
def test_better_is_said_where_the_interval_shows_it(result, store, bits, paired, word):
    units = shifted(result.units, -bits * math.log(2)) if paired else None
    verdict = no_worse(result, store(result, bits_per_byte=result.bits_per_byte + bits, units=units))
    assert verdict.passed
    assert verdict.line.startswith(word)


def test_what_other_threads_change_is_no_difference(result, store):
    tiny_shift = NO_DIFFERENCE / 2
    bits = result.bits_per_byte - tiny_shift
    units = shifted(result.units, tiny_shift * math.log(2))
    assert no_worse(result, store(result, bits_per_byte=bits, units=units)).passed


def test_the_paired_interval_is_that_of_the_differences(result, store):
    other = evaluate(tiny(noise=0.05), BYTES, TEXT)
    verdict = no_worse(result, store(other))
    differences = (result.units[:, 0] - other.units[:, 0]) / math.log(2)
    expected, _ = interval_of_ratio(differences, result.units[:, 2], design="pages")
    assert (verdict.interval.low, verdict.interval.high) == (expected.low, expected.high)
    assert verdict.passed == (expected.low <= 0)
    reverse = no_worse(other, store(result))
    assert reverse.difference == pytest.approx(-verdict.difference)
    assert verdict.passed or reverse.passed


def test_units_of_another_tokenizer_are_not_paired(store):
    ours = evaluate(tiny(), BYTES, longer(3))
    theirs = evaluate(tiny(PAIRS.vocab_size), PAIRS, longer(3))
    assert ours.text_sha256 == theirs.text_sha256
    verdict = no_worse(ours, store(theirs))
    assert verdict.interval is None
    upper = theirs.bits_interval.high - theirs.bits_per_byte
    lower = ours.bits_per_byte - ours.bits_interval.low
    assert verdict.joint == pytest.approx(math.hypot(upper, lower))
    assert verdict.passed == (ours.bits_per_byte - theirs.bits_per_byte <= verdict.joint)


def test_documents_are_paired_whatever_the_tokenizer(store):
    texts = [TEXT[start : start + 60] for start in range(0, 480, 60)]

    def of(model, tokenizer):
        return evaluate_documents(model, tokenizer, [np.array(tokenizer.encode(text)) for text in texts])

    ours, theirs = of(tiny(), BYTES), of(tiny(PAIRS.vocab_size), PAIRS)
    verdict = no_worse(ours, store(theirs))
    assert verdict.interval.of == "documents"


def test_a_text_too_short_to_tell_is_refused_unless_nothing_became_worse(store):
    short = evaluate(tiny(), BYTES, TEXT[:30])
    assert short.bits_interval is None
    assert no_worse(short, store(short)).passed
    assert no_worse(short, store(short, bits_per_byte=short.bits_per_byte + 1)).passed
    better = store(short, bits_per_byte=short.bits_per_byte - 1)
    with pytest.raises(DataError, match=r"cannot tell .*longer text, or --max-bits"):
        no_worse(short, better)
    few = evaluate_documents(tiny(), BYTES, [np.array(BYTES.encode(text)) for text in ("one", "two")])
    with pytest.raises(DataError, match=r"2 documents, under 5.*give more documents, or --max-bits"):
        no_worse(few, store(few, bits_per_byte=few.bits_per_byte - 1))


def test_another_text_is_refused(result, store):
    stored = store(evaluate(tiny(), BYTES, TEXT + "."))
    with pytest.raises(DataError, match="result of another text"):
        no_worse(result, stored)


def test_the_hash_is_of_the_text_and_of_where_documents_begin(result):
    def of(*texts: str) -> str:
        return evaluate_documents(tiny(), BYTES, [np.array(BYTES.encode(text)) for text in texts]).text_sha256

    assert of("ab", "c") == of("ab", "c")
    assert len({of("ab", "c"), of("a", "bc"), of("abc"), of("ab", "d")}) == 4


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({"context_length": 4}, "give --context-length 4, or store"),
        ({"stride": 2}, "give --stride 2, or store"),
        ({"prefix": "none"}, "give --prefix none, or store"),
        ({"name": "lm-eval"}, "give --protocol lm-eval, or store"),
    ],
)
def test_another_way_of_counting_is_refused_with_the_way_out(result, store, settings, way_out):
    stored = store(evaluate(tiny(), BYTES, TEXT, protocol=Protocol(**settings)))
    with pytest.raises(ConfigError, match=way_out):
        no_worse(result, stored)
    with pytest.raises(ConfigError, match=way_out):
        check_settings(stored, Scorer(tiny(), BYTES))
    check_settings(stored, Scorer(tiny(), BYTES, Protocol(**settings)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a shell empties the file"),
        (b"bits per byte 2.1\n", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"loss": 1}', "no 'units'"),
    ],
)
def test_what_is_no_stored_result_is_refused(tmp_path, content, reason):
    (tmp_path / "base.json").write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_result(tmp_path / "base.json")
    assert "\n" not in str(caught.value)
    assert "--json > " in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read .* --json > "):
            read_result(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"bits_per_byte": None},
        {"bits_per_byte": "2.1"},
        {"bits_per_byte": True},
        {"bits_interval": {"low": 1}},
        {"bits_interval": [1, 2]},
        {"units": [[1, 2]]},
        {"units": "many"},
        {"units": [[1, 2, None]]},
        {"units": []},
        {"protocol": "lucid"},
        {"protocol": {"name": "lucid"}},
        {"design": "weather"},
    ],
)
def test_a_damaged_result_is_refused(result, store, damage):
    with pytest.raises(DataError, match="not a stored result"):
        store(result, **damage)


def test_a_result_that_powershell_stored_is_read(result, tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(result.to_dict()), encoding="utf-16")
    assert no_worse(result, read_result(tmp_path / "base.json")).passed


def test_the_limit_is_what_it_says(result):
    bits = result.bits_per_byte
    assert below_limit(result, bits).passed
    assert not below_limit(result, bits - 1e-9).passed
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="--max-bits"):
            check_limit(wrong)


def test_a_protocol_without_bytes_has_no_gate(store):
    guide = evaluate(tiny(), BYTES, TEXT, protocol=Protocol("hf-guide"))
    with pytest.raises(ConfigError, match="counts no bytes"):
        below_limit(guide, 2.0)


def test_more_units_than_are_stored_leave_the_joint_interval(store, monkeypatch):
    monkeypatch.setattr(evaluated, "MOST_UNITS", 50)
    many = evaluate(tiny(context_length=2), BYTES, longer(2))
    assert len(many.units) > evaluated.MOST_UNITS
    assert many.to_dict()["units"] is None
    assert no_worse(many, store(many)).joint > 0
