import json
import math

import numpy as np
import pytest

from lucidlm.measure.baselines import ADAPTS, STATIC, Baseline, Baselines
from lucidlm.measure.intervals import interval_of_ratio
from lucidlm.report.ladder import DIFFERENT, UNLIKE, ladder_of, place_of

PIECES, SIZE = 40, 250
BYTES = PIECES * SIZE
DRAW = np.random.default_rng(0)
HARD = DRAW.lognormal(0, 0.3, BYTES) * np.repeat(DRAW.lognormal(0, 0.15, PIECES), SIZE)
"""How hard each byte is, page by page: what is hard for one method is hard for all."""


def row(name, bits, kind=STATIC, *, noise=0.0, per_byte=True, seed=1):
    each = bits * HARD / HARD.mean() + noise * np.random.default_rng(seed).normal(size=BYTES)
    each = each + (bits - each.mean())
    return Baseline(name, bits, kind, "all", "", each.astype(np.float32) if per_byte else None)


def table(*, gram=2.4, ppmd=2.3, noise=0.0, per_byte=True, inside=2.4, vocabulary=8.0, unigram=4.5):
    rows = (
        row("uniform over bytes", 8.0, per_byte=per_byte),
        row("uniform over the vocabulary", vocabulary, per_byte=per_byte),
        row("unigram of tokens", unigram, per_byte=per_byte),
        row("gzip", 3.0, ADAPTS, per_byte=False),
        row("n-gram of bytes", gram, noise=noise, per_byte=per_byte),
        row("PPMd", ppmd, ADAPTS, noise=noise, per_byte=per_byte, seed=2),
    )
    rows = tuple(sorted(rows, key=lambda each: -each.bits_per_byte))
    return Baselines(rows, BYTES, 90_000, inside)


def units_of(bits):
    nats = (bits * HARD / HARD.mean()).reshape(PIECES, SIZE).sum(1) * math.log(2)
    return np.stack([nats, np.full(PIECES, SIZE), np.full(PIECES, SIZE)], 1)


def ladder(bits, units=None, design="strata", **options):
    return ladder_of(bits, units_of(bits) if units is None else units, design, table(**options))


def outcomes(of):
    return {rung.baseline.name: rung.outcome for rung in of.rungs}


def test_a_difference_is_paired_unit_by_unit_on_the_same_bytes():
    baselines, units = table(noise=2.0), units_of(2.35)
    for rung in ladder_of(2.35, units, "strata", baselines).rungs:
        assert rung.difference == pytest.approx(2.35 - rung.baseline.bits_per_byte)
        if rung.baseline.bits is None:
            assert rung.interval is None
            continue
        theirs = [rung.baseline.bits[i * SIZE : (i + 1) * SIZE].sum(dtype=float) for i in range(PIECES)]
        expected, _ = interval_of_ratio(units[:, 0] / math.log(2) - theirs, units[:, 2], design="strata")
        assert rung.interval.low == pytest.approx(expected.low, abs=1e-9)
        assert rung.interval.high == pytest.approx(expected.high, abs=1e-9)
        assert rung.interval.low < rung.difference < rung.interval.high


def test_units_of_unequal_sizes_are_taken_from_the_bytes_in_order():
    sizes = np.array([10, 990, 2_000, 500, 4_500, 1_000, 1_000])
    nats = np.arange(7.0) * sizes
    units = np.stack([nats, sizes, sizes], 1)
    bits = np.repeat(np.arange(7.0), sizes) / math.log(2)
    baselines = Baselines((Baseline("n-gram of bytes", 1.0, bits=bits.astype(np.float32)),), BYTES, 1)
    (rung,) = ladder_of(1.0, units, "documents", baselines).rungs
    # Equal in every unit: no spread is left.
    assert rung.interval is None or abs(rung.interval.high - rung.interval.low) < 1e-5


def test_what_is_hard_for_both_is_no_news_so_that_a_small_paired_difference_shows():
    wide = interval_of_ratio(units_of(2.35)[:, 0] / math.log(2), units_of(2.35)[:, 2], design="strata")[0]
    close = ladder(2.35, noise=0.5)
    assert wide.high - wide.low > 0.04
    assert outcomes(close)["n-gram of bytes"] == "better"
    assert outcomes(close)["PPMd"] == "worse"


def test_better_and_worse_are_said_only_where_the_interval_leaves_0_out():
    assert outcomes(ladder(2.35, noise=8.0)) == {
        "uniform over bytes": "better",
        "uniform over the vocabulary": "better",
        "unigram of tokens": "better",
        "gzip": "not tested",
        "n-gram of bytes": "open",
        "PPMd": "open",
    }
    told = place_of(ladder(2.35, noise=8.0), own=True)
    assert told.count("no difference that this text can show") == 2
    assert "the model is" not in told


def test_of_equal_methods_one_is_called_better_in_about_5_of_100_texts():
    wrong = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        ours, theirs = (2.0 + draw.normal(0, 0.4, BYTES // 10) for _ in range(2))
        sizes = np.full(PIECES, SIZE // 10)
        units = np.stack([ours.reshape(PIECES, -1).sum(1) * math.log(2), sizes, sizes], 1)
        rows = (Baseline("n-gram of bytes", theirs.mean(), bits=theirs.astype(np.float32)),)
        (rung,) = ladder_of(ours.mean(), units, "strata", Baselines(rows, BYTES // 10, 1)).rungs
        wrong += rung.outcome != "open"
    assert 8 <= wrong <= 34


def test_better_than_every_baseline_is_said_only_where_it_is_better_than_the_best_of_both_kinds():
    said = {
        bits: "better than every baseline" in place_of(ladder(bits, noise=0.2), own=True)
        for bits in (2.2, 2.35, 2.5)
    }
    assert said == {2.2: True, 2.35: False, 2.5: False}
    assert "better than every baseline" not in place_of(ladder(2.28, noise=8.0), own=True)
    told = place_of(ladder(2.35, noise=0.2), own=True)
    assert "Best static baseline, n-gram of bytes (2.400): the model is better by 0.050 (95 %" in told
    assert "Best baseline that adapts while reading, PPMd (2.300): the model is worse by 0.050 (95 %" in told


def test_a_compressor_without_a_cost_of_each_byte_is_compared_without_an_interval_and_that_is_said():
    rows = [each for each in table(noise=0.2).rows if each.name != "PPMd"]
    of = ladder_of(2.2, units_of(2.2), "strata", Baselines(tuple(rows), BYTES, 1))
    assert "gzip (3.000): the model needs 0.800 bits fewer, without an interval" in place_of(of, own=True)
    assert of.better_than_all


@pytest.mark.parametrize(("gram", "noise", "says"), [
    (2.4, 8.0, "counting sequences does as well: train"),
    (2.2, 0.2, "counting sequences does better: train"),
    (2.5, 0.2, ""),
])  # fmt: skip
def test_counting_does_as_well_only_where_no_difference_shows(gram, noise, says):
    told = place_of(ladder(2.4, gram=gram, noise=noise), own=True)
    assert ("counting" in told) == bool(says)
    assert says in told


def test_longer_training_is_advised_only_where_it_may_help():
    of = ladder(2.5, noise=0.2)
    assert "does better: train longer, or on more text." in place_of(of, own=True)
    assert "does better: train on more text." in place_of(of, own=True, longer=False)


@pytest.mark.parametrize("bits", [7.95, 8.0, 9.5])
def test_a_run_no_better_than_a_uniform_guess_on_its_own_held_out_text_has_learnt_nothing(bits):
    assert "learnt nothing yet" in place_of(ladder(bits), own=True)
    told = place_of(ladder(bits), own=False)
    assert "learnt" not in told
    assert "Best static baseline" in told


def test_a_run_no_better_than_the_frequency_of_tokens_has_learnt_little():
    assert "learnt little yet: how often each token occurs predicts the text better (4.500" in place_of(
        ladder(5.0), own=True
    )
    assert "learnt" not in place_of(ladder(4.0), own=True)
    # A tokenizer's uniform guess may lie below many baselines: only the vocabulary's own counts.
    assert "learnt nothing" not in place_of(ladder(3.2, vocabulary=3.3, unigram=2.7), own=True)


@pytest.mark.parametrize(("share", "says"), [
    (1.0, ""),
    (DIFFERENT - 0.01, ""),
    (DIFFERENT + 0.01, "This text differs from the training text"),
    (UNLIKE - 0.01, "This text differs from the training text"),
    (UNLIKE + 0.01, "This text is unlike the training text"),
])  # fmt: skip
def test_how_far_a_text_is_from_the_training_text_goes_by_the_n_gram(share, says):
    of = ladder(2.5, inside=2.4 / share)
    assert of.differs == (pytest.approx(share) if says else None)
    assert (of.unlike is not None) == ("unlike" in says)
    told = place_of(of, own=False)
    assert told.startswith(says or "The model needs")
    assert (f"fitted to four fifths of it, {2.4 / share:.3f} for the other fifth" in told) == bool(says)
    assert "train" not in told.replace("training text", "")  # no advice about another kind of text
    # --val may give a run a held-out text of another kind: then it is not told that it has learnt nothing.
    bad = ladder(8.5, inside=2.4 / share)
    assert ("learnt nothing" in place_of(bad, own=True)) != bool(says)


def test_without_intervals_no_better_and_no_worse_is_said_and_the_table_says_why():
    few = units_of(2.35).reshape(2, 20, 3).sum(1)
    of = ladder(2.35, few)
    assert set(outcomes(of).values()) == {"not tested"}
    assert of.no_interval
    assert of.no_interval in str(of)
    told = place_of(of, own=True)
    assert "the model is" not in told
    assert "PPMd (2.300): the model needs 0.050 bits more, without an interval" in told


def test_a_gap_without_an_interval_is_never_said_to_be_none():
    few = units_of(5.0).reshape(2, 20, 3).sum(1)
    told = place_of(ladder(5.0, few), own=True)
    assert (
        "how often each token occurs predicts the text with 4.500 bits per byte, 0.500 fewer (no interval)"
        in told
    )
    assert "as well" not in told


def test_a_text_that_the_tokenizer_changed_has_no_paired_difference():
    units = units_of(2.35)
    units[:, 2] += 0.5
    of = ladder(2.35, units)
    assert set(outcomes(of).values()) == {"not tested"}
    assert "as its tokens spell it" in of.no_interval


def test_the_table_holds_the_model_in_its_place_with_kinds_and_differences():
    of = ladder(2.35, noise=0.5)
    bits = [each["bits"] for each in of.rows()]
    assert bits == sorted(bits, reverse=True)
    lines = str(of).splitlines()
    assert [line[0] for line in lines[2:]] == [" "] * 5 + [">", " "]
    assert len(lines) == 2 + len(bits)
    assert "of this book" in lines[0]
    rung = of.find("PPMd")
    assert f"+0.050 ({rung.interval.low:+.3f} to {rung.interval.high:+.3f})" in lines[-1]
    assert "adapts while reading" in lines[-1]
    assert "-0.650 (no interval)" in str(of)


def test_its_dictionary_is_json_with_the_outcome_of_each_rung():
    values = json.loads(json.dumps(ladder(2.35, noise=0.5).to_dict(), allow_nan=False))
    assert [rung["name"] for rung in values["rungs"]][-2:] == ["n-gram of bytes", "PPMd"]
    assert values["rungs"][-1]["outcome"] == "worse"
    assert values["rungs"][-1]["interval"]["of"] == "book"
    assert values["rungs"][-3]["interval"] is None
