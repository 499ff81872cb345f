import json
import math

import numpy as np
import pytest
from ladders import BYTES, PIECES, SIZE, ladder, ladder_of_few, table, units_of

from lucidlm.measure.baseline import Baseline, Baselines
from lucidlm.measure.intervals import interval_of_ratio
from lucidlm.report.ladder import DIFFERENT, UNLIKE, ladder_of


def outcomes(of):
    return {rung.baseline.code: rung.outcome for rung in of.rungs}


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
    baselines = Baselines((Baseline("ngram_bytes", 1.0, bits=bits.astype(np.float32)),), BYTES, 1)
    (rung,) = ladder_of(1.0, units, "documents", baselines).rungs
    # Equal in every unit: no spread is left.
    assert rung.interval is None or abs(rung.interval.high - rung.interval.low) < 1e-5


def test_what_is_hard_for_both_is_no_news_so_that_a_small_paired_difference_shows():
    wide = interval_of_ratio(units_of(2.35)[:, 0] / math.log(2), units_of(2.35)[:, 2], design="strata")[0]
    close = ladder(2.35, noise=0.5)
    assert wide.high - wide.low > 0.04
    assert outcomes(close)["ngram_bytes"] == "better"
    assert outcomes(close)["ppmd"] == "worse"


def test_better_and_worse_are_outcomes_only_where_the_interval_excludes_0():
    assert outcomes(ladder(2.35, noise=8.0)) == {
        "uniform_bytes": "better",
        "uniform_vocabulary": "better",
        "unigram_tokens": "better",
        "gzip": "not tested",
        "ngram_bytes": "open",
        "ppmd": "open",
    }


def test_of_equal_methods_one_is_called_better_in_about_5_of_100_texts():
    wrong = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        ours, theirs = (2.0 + draw.normal(0, 0.4, BYTES // 10) for _ in range(2))
        sizes = np.full(PIECES, SIZE // 10)
        units = np.stack([ours.reshape(PIECES, -1).sum(1) * math.log(2), sizes, sizes], 1)
        rows = (Baseline("ngram_bytes", theirs.mean(), bits=theirs.astype(np.float32)),)
        (rung,) = ladder_of(ours.mean(), units, "strata", Baselines(rows, BYTES // 10, 1)).rungs
        wrong += rung.outcome != "open"
    assert 8 <= wrong <= 34


def test_better_than_every_baseline_is_better_than_the_best_of_both_kinds():
    assert [ladder(bits, noise=0.2).better_than_all for bits in (2.2, 2.35, 2.5)] == [True, False, False]
    assert not ladder(2.28, noise=8.0).better_than_all


def test_a_compressor_without_a_cost_of_each_byte_counts_by_its_number():
    rows = [each for each in table(noise=0.2).rows if each.code != "ppmd"]
    of = ladder_of(2.2, units_of(2.2), "strata", Baselines(tuple(rows), BYTES, 1))
    assert (of["gzip"].outcome, of["gzip"].interval) == ("not tested", None)
    assert of.better_than_all


@pytest.mark.parametrize(
    ("gram", "noise", "counting"), [(2.4, 8.0, "open"), (2.2, 0.2, "worse"), (2.5, 0.2, None)]
)
def test_counting_does_as_well_only_where_the_model_is_not_better(gram, noise, counting):
    assert ladder(2.4, gram=gram, noise=noise).counting == counting


@pytest.mark.parametrize(("bits", "learnt"), [
    (9.5, "nothing"), (8.0, "nothing"),
    (7.95, "nothing"), (7.9, "little"), (5.0, "little"), (4.0, "something"),
])  # fmt: skip
def test_how_much_was_learnt_goes_by_the_uniform_guess_and_the_unigram(bits, learnt):
    assert ladder(bits).learnt == learnt


def test_a_uniform_guess_over_a_vocabulary_may_lie_below_many_baselines():
    assert ladder(3.2, vocabulary=3.3, unigram=2.7).learnt == "little"


@pytest.mark.parametrize(("share", "differs", "unlike"), [
    (1.0, False, False),
    (DIFFERENT - 0.01, False, False),
    (DIFFERENT + 0.01, True, False),
    (UNLIKE - 0.01, True, False),
    (UNLIKE + 0.01, True, True),
])  # fmt: skip
def test_how_far_a_text_is_from_the_training_text_goes_by_the_n_gram(share, differs, unlike):
    of = ladder(2.5, inside=2.4 / share)
    assert of.differs == (pytest.approx(share) if differs else None)
    assert of.unlike == (pytest.approx(share) if unlike else None)


def test_of_few_units_nothing_is_tested_and_the_table_says_why():
    of = ladder_of_few(2.35)
    assert set(outcomes(of).values()) == {"not tested"}
    assert of.no_interval
    assert str(of.no_interval) in str(of)


def test_a_text_that_the_tokenizer_changed_has_no_paired_difference():
    units = units_of(2.35)
    units[:, 2] += 0.5
    of = ladder(2.35, units)
    assert set(outcomes(of).values()) == {"not tested"}
    assert of.no_interval.code == "other_bytes"


def test_the_table_holds_the_model_in_its_place_with_kinds_and_differences():
    of = ladder(2.35, noise=0.5)
    bits = [each["bits"] for each in of.rows()]
    assert bits == sorted(bits, reverse=True)
    lines = str(of).splitlines()
    assert [line[0] for line in lines[2:]] == [" "] * 5 + [">", " "]
    assert len(lines) == 2 + len(bits)
    assert "for the whole text" in lines[0]
    rung = of.find("ppmd")
    assert f"+0.050 ({rung.interval.low:+.3f} to {rung.interval.high:+.3f})" in lines[-1]
    assert "adapts while reading" in lines[-1]
    assert "-0.650 (no interval)" in str(of)


def test_its_dictionary_is_json_with_the_outcome_of_each_rung():
    values = json.loads(json.dumps(ladder(2.35, noise=0.5).to_dict(), allow_nan=False))
    assert [rung["code"] for rung in values["rungs"]][-2:] == ["ngram_bytes", "ppmd"]
    assert values["rungs"][-1]["outcome"] == "worse"
    assert values["rungs"][-1]["interval"]["of"] == "book"
    assert values["rungs"][-3]["interval"] is None
