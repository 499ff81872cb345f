"""What is predicted before the first step: from PPMd and the unigram of the very text, with an interval."""

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lucidlm.measure.baselines import measure_baselines
from lucidlm.model.presets import MUON
from lucidlm.runs.settings import Plan
from lucidlm.text.corpus import Corpus, train_documents, validation_documents
from lucidlm.text.excerpts import as_excerpt
from lucidlm.text.preparation import prepare
from lucidlm.training.prediction import (
    Compressibility,
    compressibility,
    effective_steps,
    ppmd_bits_per_byte,
    predict,
)
from lucidlm.training.schedule import learning_rate_factor, trapezoid
from lucidlm.training.shapes import modern_shape

PROSE = Compressibility(ppmd_2=2.53, ppmd_6=1.79, ppmd_16=1.81, unigram=4.34, digits=0.0, nats=math.log(2))


def made_up_text(sentences: int) -> str:
    """Sentences of nine random words."""
    draw = random.Random(1)
    words = ("river", "stone", "nobody", "light", "the", "a", "of", "ran", "past", "late")
    return "".join(" ".join(draw.choice(words) for _ in range(9)) + ".\n" for _ in range(sentences))


def plan_of(steps: int, *, width: int = 128, layers: int = 4) -> Plan:
    """A plan as `train --steps` makes it."""
    return Plan(
        model=modern_shape(width, layers, 257),
        optim=MUON,
        batch_size=8,
        micro_batch=8,
        steps=steps,
        schedule=trapezoid(steps, warmup_steps=20, decay_fraction=0.6),
        validate_every=1,
        validation_tokens=100,
        dtype="float32",
        threads=1,
        early_stop=True,
    )


@pytest.fixture(scope="module", params=["bytes", "bpe:300"])
def corpus(request, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A made-up book."""
    folder = tmp_path_factory.mktemp("prediction")
    (folder / "book.txt").write_text(made_up_text(sentences=300), encoding="utf-8")
    return prepare(folder / "book.txt", folder / "data", tokenizer=request.param)


@pytest.mark.parametrize("steps", [1, 2, 7, 19, 40, 333, 1000])
def test_effective_steps_are_the_sum_of_the_rates_factors(steps):
    plan = plan_of(steps)
    by_step = sum(learning_rate_factor(plan.schedule, step) for step in range(steps))
    # The area under a line and the sum at its left ends differ by half a step in all.
    assert effective_steps(plan.schedule, steps) == pytest.approx(by_step, abs=1.0)


def test_effective_steps_of_a_constant_rate_are_its_steps():
    assert effective_steps(((0, 1.0),), 50) == 50


def test_the_unigram_is_that_of_the_training_tokens_smoothed_by_one(corpus):
    ids = np.concatenate([as_excerpt(each).ids for each in train_documents(corpus)])
    counts, total = Counter(ids.tolist()), len(ids) + corpus.tokenizer.vocab_size
    heldout = [as_excerpt(each).ids for each in validation_documents(corpus)]
    bits = -sum(math.log2((counts[i] + 1) / total) for ids in heldout for i in ids.tolist())
    assert compressibility(corpus).unigram == pytest.approx(bits / corpus.validation_bytes)


@pytest.mark.parametrize(("split", "off"), [("end", 1e-9), ("pieces", 0.1)])
def test_ppmd_is_the_baseline_of_that_name(tmp_path, split, off):
    """But for the text before each piece, which the baseline reads first."""
    (tmp_path / "book.txt").write_text(made_up_text(sentences=300))
    corpus = prepare(tmp_path / "book.txt", tmp_path / "data", tokenizer="bytes", split=split)
    heldout = list(validation_documents(corpus))
    prefix = corpus.tokenizer.end_of_text
    rows = measure_baselines(corpus.tokenizer, train_documents(corpus), heldout, prefix_id=prefix)
    assert compressibility(corpus).ppmd_6 == pytest.approx(rows["ppmd"].bits_per_byte, abs=off)


def test_ppmd_gains_by_training_text_and_noise_costs_8_bits():
    text = made_up_text(sentences=200).encode()
    alone = ppmd_bits_per_byte(b"", text[-2000:], order=6)
    assert ppmd_bits_per_byte(text[:-2000], text[-2000:], order=6) < 0.8 * alone
    noise = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
    assert ppmd_bits_per_byte(text, noise, order=6) > 7.5


def test_the_loss_in_nats_is_the_same_prediction(corpus):
    text = compressibility(corpus)
    tokens = sum(len(as_excerpt(each).ids) for each in validation_documents(corpus))
    assert text.nats == pytest.approx(math.log(2) * corpus.validation_bytes / tokens)


def test_more_steps_never_predict_worse_and_the_interval_narrows():
    predictions = [predict(PROSE, plan_of(steps)) for steps in (10, 20, 40, 80, 160, 320, 1000, 5000)]
    for before, after in pairwise(predictions):
        assert after.middle < before.middle
        assert after.high <= before.high
        assert math.log(after.high / after.low) <= math.log(before.high / before.low) + 1e-9
    assert all(each.low < each.middle < each.high for each in predictions)


def test_a_run_starts_above_the_unigram_and_ends_at_ppmd():
    assert PROSE.unigram < predict(PROSE, plan_of(2)).middle < 1.1 * math.log2(257)
    assert predict(PROSE, plan_of(100_000)).middle == pytest.approx(PROSE.ppmd_6, rel=0.01)


def test_no_run_is_predicted_to_end_above_a_uniform_guess():
    assert predict(PROSE, plan_of(3)).high <= math.log2(257)


def test_on_tables_the_shorter_contexts_are_the_level():
    table = Compressibility(ppmd_2=1.6, ppmd_6=1.7, ppmd_16=1.7, unigram=4.8, digits=0.0, nats=math.log(2))
    assert predict(table, plan_of(100_000)).middle == pytest.approx(1.6, rel=0.01)


def test_records_with_long_boilerplate_may_be_learnt_far_below_order_6():
    records = replace(PROSE, ppmd_2=0.72, ppmd_6=0.433)
    short, long = (predict(replace(records, ppmd_16=order_16), plan_of(2000)) for order_16 in (0.433, 0.203))
    assert long.low == pytest.approx(short.low * 0.203 / 0.433, rel=0.02)
    assert (long.middle, long.high) == (short.middle, short.high)
    # Prose has no such records, and its interval is that of order 6.
    prose = predict(replace(PROSE, ppmd_2=2.2, ppmd_16=1.79), plan_of(2000))
    assert prose.low == predict(replace(PROSE, ppmd_2=2.2, ppmd_16=5.0), plan_of(2000)).low


def test_digits_are_counted_and_are_learnt_faster_than_ppmd_says(tmp_path):
    draw = np.random.default_rng(0)
    lines = "".join(f"item {draw.integers(100_000):05d} sold\n" for _ in range(500))
    (tmp_path / "table.txt").write_text(lines)
    text = compressibility(prepare(tmp_path / "table.txt", tmp_path / "data", tokenizer="bytes"))
    assert text.digits == pytest.approx(5 / 16, abs=0.01)
    without = replace(text, digits=0.0)
    assert predict(text, plan_of(80)).middle < predict(without, plan_of(80)).middle


def test_steps_that_are_taken_away_renew_the_prediction():
    whole = plan_of(1000)
    cut = replace(whole, steps=100, schedule=trapezoid(100, warmup_steps=20, decay_fraction=0.6))
    assert predict(PROSE, cut).middle > 1.1 * predict(PROSE, whole).middle


def test_nothing_is_predicted_for_a_recipe_that_was_not_measured():
    plan = replace(plan_of(100), optim=replace(MUON, name="adamw"))
    assert predict(PROSE, plan) is None


def test_the_line_rounds_the_interval_outwards():
    prediction = predict(PROSE, plan_of(300))
    low, high = (float(word) for word in str(prediction).split(" bits")[0].split(" to "))
    assert low <= prediction.low < low + 0.1
    assert high - 0.1 < prediction.high <= high


MEASURED = {
    "English, 40 KB": ((2.03, 1.22, 4.88, 0.01), 80, 2.359),
    "German, 30 KB": ((2.55, 1.43, 4.97, 0.01), 80, 3.426),
    "Chinese, 50 KB": ((2.28, 1.22, 5.74, 0.01), 80, 3.188),
    "code in C, 45 KB": ((1.67, 0.85, 5.38, 0.03), 60, 2.808),
    "log, 45 KB": ((1.49, 0.57, 5.05, 0.12), 80, 1.680),
    "Turkish, 100 KB": ((2.50, 1.10, 5.23, 0.01), 60, 3.589),
    "table, 30 KB": ((2.65, 2.13, 5.27, 0.08), 80, 3.145),
}
"""Texts that were not used to fit: order 2, order 6, unigram, digits; steps; bits per byte of the run."""


@pytest.mark.parametrize("name", MEASURED)
def test_the_interval_holds_on_texts_that_were_not_used_to_fit_it(name):
    (order_2, order_6, unigram, digits), steps, bits = MEASURED[name]
    text = Compressibility(
        ppmd_2=order_2, ppmd_6=order_6, ppmd_16=order_6, unigram=unigram, digits=digits, nats=math.log(2)
    )
    prediction = predict(text, plan_of(steps, width=64, layers=3))
    assert prediction.low < bits < prediction.high


def test_nothing_is_predicted_of_held_out_text_that_costs_nothing():
    nothing = replace(PROSE, ppmd_2=0.0, ppmd_6=0.0, ppmd_16=0.0)
    assert predict(nothing, plan_of(10)) is None
