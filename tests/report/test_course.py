import dataclasses

import numpy as np
import pytest
from histories import BEND, FALL, STILL, TRAIN, counting, curve, validation

from lucidlm.report.course import Course, course_of
from lucidlm.runs.history import History

# docs/verdicts.md, row by row, and the histories of which a false thing was said.


def test_without_a_second_validation_nothing_is_said_of_the_course():
    assert course_of(History((), ())).code == "too_short"
    assert course_of(History((), (validation(0, 5.5), validation(7, 5.0)))).code == "too_short"


def test_a_handful_of_held_out_tokens_has_no_verdict():
    assert course_of(curve(BEND, TRAIN, tokens=57)).code == "too_little_text"
    assert course_of(curve(BEND, TRAIN, tokens=100)).code == "overfits"


def test_losses_that_fall_to_the_end_are_still_learning():
    course = course_of(curve(STILL, TRAIN), baselines=counting())
    assert course.code == "improving"
    assert course.best.step == 110
    assert course.fall == pytest.approx(2 * 0.03 / 2.98, rel=0.2)


def test_a_flat_end_near_the_n_gram_has_converged():
    course = course_of(curve(FALL, TRAIN), baselines=counting(ngram=1.45))
    assert course.code == "converged"
    assert course.best.step == 90


def test_a_flat_end_without_baselines_is_called_flat_since_it_may_be_a_bad_one():
    assert course_of(curve(FALL, TRAIN)).code == "flat"


def test_a_loss_stuck_at_the_unigram_has_not_converged():
    losses = [3.5, 3.32, 3.30, 3.302, 3.299, 3.301, 3.3, 3.3, 3.301, 3.299, 3.3]
    assert course_of(curve(losses, losses), baselines=counting(unigram=1.65, ngram=1.1)).code == "stuck"
    # Halfway from the unigram (1.65) to the n-gram is where the line is: the loss is 1.65 bits per byte.
    assert course_of(curve(losses, losses), baselines=counting(unigram=2.3, ngram=1.1)).code == "converged"


def test_a_flat_end_over_text_in_which_counting_finds_nothing_has_converged():
    noise = [5.6, 5.55, *[5.545] * 9]
    course = course_of(curve(noise, noise), baselines=counting(unigram=2.7725, ngram=2.78))
    assert course.code == "converged"


def test_a_validation_that_rises_while_training_falls_overfits():
    training = [3.5, 3.2, 3.0, 2.9, 2.8, 2.7, 2.65, 2.6, 2.55, 2.5, 2.45]
    course = course_of(curve(BEND, training))
    assert course.code == "overfits"
    assert course.best.step == 40
    assert course.rise == pytest.approx((3.3 - 3.0) / 3.0, abs=0.02)


@pytest.mark.parametrize(("last", "code"), [(0.71 * 3.4, "overfits"), (0.69 * 3.4, "memorizes")])
def test_overfitting_with_training_under_70_percent_of_validation_is_memorization(last, code):
    assert course_of(curve(BEND, np.linspace(3.5, last, 11))).code == code


def test_validation_flat_while_training_fell_to_a_fraction_is_memorized_not_converged():
    losses = [3.05, 3.02, 3.0, 3.003, 3.006, 3.008, 3.01, 3.011, 3.012, 3.013, 3.014]
    course = course_of(curve(losses, np.linspace(2.9, 0.4, 11)), baselines=counting(ngram=1.45))
    assert course.code == "memorizes"
    assert course.training_share == pytest.approx(0.4 / 3.014)


def test_training_that_did_not_move_while_validation_rose_is_not_unstable():
    losses = [2.0, 1.2, *np.linspace(1.0, 1.02, 9)]
    trainings = [1.5, 1.1, *np.linspace(1.0, 1.0001, 9)]
    assert course_of(curve(losses, trainings)).code == "overfits"
    two = History((), (validation(100, 1.0, training=1.0), validation(200, 1.02, training=1.0001)))
    assert course_of(two).code == "overfits"


def test_training_that_rose_with_validation_is_unstable():
    losses = [3.6, 3.3, 3.1, 3.2, 3.5, 3.6, 3.9, 4.0, 3.9, 4.1, 4.0]
    trainings = [3.5, 3.2, 3.0, 3.1, 3.4, 3.5, 3.8, 3.9, 3.8, 4.0, 3.9]
    course = course_of(curve(losses, trainings))
    assert course.code == "unstable"
    two = History((), (validation(100, 3.1, training=3.0), validation(200, 4.0, training=3.9)))
    assert course_of(two).code == "unstable"


def test_losses_that_both_surge_on_the_way_are_unstable_though_the_decay_healed_them():
    # A real run with rates 150 times too high.
    losses = [4.7381, 5.5184, 3.5388, 3.5986, 3.8590, 3.9086, 3.2774, 3.1019, 2.9873, 2.9562, 2.9441, 2.9396]
    training = [
        4.7454,
        5.5646,
        3.5255,
        3.6729,
        3.8714,
        3.9466,
        3.2966,
        3.1260,
        3.0201,
        2.9847,
        2.9713,
        2.9639,
    ]
    course = course_of(curve(losses, training, epochs=0.9))
    assert course.code == "unstable"
    assert [each.validation_loss_nats for each in course.surge] == [3.5986, 3.8590]
    assert course_of(curve(losses, [*TRAIN, 2.9], epochs=0.9)).code == "improving"


def test_one_last_loss_that_jumps_with_its_training_loss_is_unstable():
    assert course_of(curve([*FALL[:-1], 4.5], [*TRAIN[:-1], 4.4])).code == "unstable"


def test_a_spike_on_the_way_that_healed_changes_nothing():
    losses = [*FALL[:5], 9.0, *FALL[6:]]
    assert course_of(curve(losses, TRAIN), baselines=counting(ngram=1.45)).code == "converged"


@pytest.mark.parametrize("code", ["overfits", "memorizes"])
def test_before_the_text_was_read_once_nothing_is_overfitting_or_memorization(code):
    training = np.linspace(3.5, 2.5 if code == "overfits" else 1.0, 11)
    assert course_of(curve(BEND, training, epochs=3)).code == code
    early = course_of(curve(BEND, training, epochs=0.25))
    assert early.code == "worse"
    assert not early.memorized


def test_a_given_text_that_costs_far_more_within_the_first_epoch_is_of_another_kind():
    # A quarter of an epoch, text of logs held out: a real run of which memorization was said.
    losses, training = [6.2, 5.6, 5.5, 5.7, 5.9, 6.1, 6.2, 6.3], [5.0, 4.2, 3.6, 3.2, 3.0, 2.8, 2.7, 2.6]
    course = course_of(curve(losses, training, epochs=0.25), design="given")
    assert course.code == "other_source"
    assert course.source_share == pytest.approx(2.6 / 6.3)
    assert course.source == course.last
    assert not course.memorized


def test_a_given_text_of_the_same_kind_can_be_overfitted():
    course = course_of(curve(BEND, np.linspace(3.5, 2.5, 11), epochs=8), design="given")
    assert course.source_share == pytest.approx(3.5 / 3.6)
    assert course.code == "overfits"


def test_a_given_text_that_no_validation_of_the_first_epoch_shows_is_left_open():
    course = course_of(curve(BEND, np.linspace(3.5, 1.0, 11), epochs=80), design="given")
    assert (course.code, course.same_source) == ("worse", None)


def test_where_no_validation_of_the_first_epoch_shows_the_kind_the_n_gram_does():
    history = curve(BEND, np.linspace(3.5, 1.0, 11), epochs=80)
    far = dataclasses.replace(counting(ngram=3.0), inside_bits_per_byte=1.5)
    course = course_of(history, baselines=far, design="given")
    assert (course.code, course.source_share, course.source) == ("other_source", 0.5, None)
    near = dataclasses.replace(counting(ngram=1.6), inside_bits_per_byte=1.5)
    assert course_of(history, baselines=near, design="given").code == "memorizes"


def test_another_kind_of_text_that_still_gets_better_is_said_beside_it():
    course = course_of(curve(STILL, np.linspace(2.4, 1.0, 11), epochs=0.9), design="given")
    assert (course.code, course.same_source) == ("improving", False)


def test_a_run_that_went_on_from_good_weights_is_compared_with_them():
    history = History((), (validation(0, 3.0), *curve(np.linspace(3.2, 3.6, 8), TRAIN[:8]).validations))
    assert course_of(history).best.step == 0
    assert course_of(history).code in ("overfits", "unstable")
    # An untrained model's loss is no part of the curve.
    untrained = History((), (validation(0, 5.5), *curve(FALL, TRAIN).validations))
    assert course_of(untrained).rise == course_of(curve(FALL, TRAIN)).rise


def test_noise_on_a_flat_curve_is_hardly_ever_called_overfitting():
    draw = np.random.default_rng(0)
    codes = []
    for noise in (0.002, 0.003, 0.005, 0.01):
        for _ in range(250):
            losses, training = 3.0 * (1 + noise * draw.standard_normal((2, 11)))
            codes.append(course_of(curve(losses, training - 0.1), baselines=counting(ngram=1.45)).code)
    wrong = [code for code in codes if code not in ("converged", "improving")]
    assert len(wrong) <= 10  # 1 % of 1,000; it was 20 to 82 %
    assert codes.count("improving") <= 50


def test_a_slow_fall_under_noise_is_still_learning_more_often_than_not():
    draw = np.random.default_rng(1)
    codes = []
    for _ in range(250):
        fall = 1 - 0.003 * np.arange(11)
        losses = 3.0 * fall * (1 + 0.01 * draw.standard_normal(11))
        codes.append(course_of(curve(losses, 2.9 * fall), baselines=counting(ngram=1.45)).code)
    assert codes.count("improving") > 125
    assert codes.count("overfits") + codes.count("unstable") <= 5


def test_a_course_is_a_record_of_numbers_for_json():
    values = course_of(curve(BEND, TRAIN)).to_dict()
    assert isinstance(course_of(curve(BEND, TRAIN)), Course)
    assert values["best"]["step"] == 40
    assert values["epochs"] == 10
    assert values["training_share"] == pytest.approx(2.9 / 3.4)
