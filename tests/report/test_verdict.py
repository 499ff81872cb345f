"""Each sentence of a verdict names the numbers of its record; its wording is asserted here alone."""

import dataclasses
import re

import numpy as np
import pytest
from histories import BEND, FALL, STILL, TRAIN, counting, curve, taken, validation
from ladders import ladder, ladder_of_few

from lucidlm.measure.baseline import NAMES
from lucidlm.report.course import course_of
from lucidlm.report.verdict import course_sentences, gain_sentence, place_sentences
from lucidlm.runs.history import History

STUCK = [3.5, 3.32, *[3.3] * 9]
OTHER = [6.2, 5.6, 5.5, 5.7, 5.9, 6.1, 6.2, 6.3], [5.0, 4.2, 3.6, 3.2, 3.0, 2.8, 2.7, 2.6]
FAR = dataclasses.replace(counting(ngram=3.0), inside_bits_per_byte=1.5)
COURSES = {
    "nothing": course_of(History((), ())),
    "too_short": course_of(History((), (validation(0, 5.5), validation(7, 5.0)))),
    "too_little_text": course_of(curve(BEND, TRAIN, tokens=57)),
    "improving": course_of(curve(STILL, np.linspace(3.5, 1.5, 11))),
    "converged": course_of(curve(FALL, TRAIN), baselines=counting(ngram=1.45)),
    "flat": course_of(curve(FALL, TRAIN)),
    "stuck": course_of(curve(STUCK, STUCK), baselines=counting(unigram=1.65, ngram=1.1)),
    "overfits": course_of(curve(BEND, np.linspace(3.5, 2.5, 11))),
    "memorizes": course_of(curve(BEND, np.linspace(3.5, 1.0, 11))),
    "unstable": course_of(curve([*FALL[:-1], 4.5], [*TRAIN[:-1], 4.4])),
    "worse": course_of(curve(BEND, np.linspace(3.5, 2.5, 11), epochs=0.25)),
    "other_source": course_of(curve(*OTHER, epochs=2), design="given"),
    "other_source by the n-gram": course_of(curve(BEND, np.linspace(3.5, 1.0, 11), epochs=80), baselines=FAR,
                                            design="given"),
}  # fmt: skip
SAID = {
    "nothing": ("No verdict yet",),
    "too_short": ("Only one validation", "5.0000 nats", "at step 7 of 7"),
    "too_little_text": ("57 tokens", "at least 100"),
    "improving": ("Still improving", "at step 110 of 110; training loss 1.5000 at the same step",
                  "3.0400 at step 80, 2.9500 at step 110", "more steps would help", "51 %"),
    "converged": ("Converged", "2.9990 nats"),
    "flat": ("no longer falls", "2.9990 nats"),
    "stuck": ("Stuck", "1.100 bits per byte (unigram: 1.650)", "learning rate"),
    "overfits": ("Overfitting", "3.4000 at step 110", "3.2000 at step 40, 2.5000 at step 110", "More text"),
    "memorizes": ("Memorization: after 10.0 epochs", "29 %", "More text"),
    "unstable": ("Unstable", "4.5000 at step 110", "lower learning rate"),
    "worse": ("Worse", "0.25 times", "not overfitting"),
    "other_source": ("differs in kind", "at step 40", "56 %", "(3.2000 and 5.7000 nats per token)"),
    "other_source by the n-gram": ("differs in kind", "50 %", "n-gram model of bytes"),
}  # fmt: skip


@pytest.mark.parametrize("code", COURSES)
def test_each_code_has_one_line_with_the_numbers_behind_it(code):
    assert COURSES[code].code == {"nothing": "too_short"}.get(code, code.split()[0])
    said = course_sentences(COURSES[code])
    assert "\n" not in said
    assert said.endswith(".")
    for part in SAID[code]:
        assert said.count(part) == 1, said


def test_that_the_step_was_selected_on_this_text_is_said_where_there_were_several():
    selected = {
        code for code, course in COURSES.items() if "the lowest is reported" in course_sentences(course)
    }
    assert selected == {*COURSES} - {"nothing", "too_short", "too_little_text"}


def test_both_steps_of_a_surge_are_named():
    losses = [4.7381, 5.5184, 3.5388, 3.5986, 3.8590, 3.9086, 3.2774, 3.1019, 2.9873, 2.9562, 2.9441, 2.9396]
    course = course_of(curve(losses, losses, epochs=0.9))
    low, high = course.surge
    assert f"from step {low.step} to {high.step}" in course_sentences(course)


@pytest.mark.parametrize(("losses", "end", "says"), [
    (STILL, 2, "at step 110, the last validation before the interruption at step 115;"),
    (STILL, None, "at step 110, the last validation before step 115;"),
    (BEND, 15, "at step 40 (last validation before the interruption at step 115: step 110)"),
])  # fmt: skip
def test_a_run_that_went_on_after_its_last_validation_has_both_steps_named(losses, end, says):
    history = History((taken(115),), curve(losses, TRAIN).validations, end)
    assert says in course_sentences(course_of(history))
    assert "of 110" not in course_sentences(course_of(history))


def test_one_validation_of_an_interrupted_run_names_both_steps_too():
    history = History((taken(21),), (validation(0, 5.5), validation(18, 5.0)), 2)
    said = course_sentences(course_of(history))
    assert said.endswith("at step 18, the last validation before the interruption at step 21.")


def test_what_a_run_gained_over_the_weights_that_it_started_from():
    history = History((), (validation(0, 4.0), validation(10, 3.5)))
    assert re.search(r"gpt2: .* 4\.0000 .* 3\.5000 .*-0\.5000", gain_sentence(history, "gpt2"))
    none = History((), (validation(0, 4.0), validation(10, 4.5)))
    assert "did not improve gpt2" in gain_sentence(none, "gpt2")
    assert gain_sentence(History((), (validation(10, 4.5),)), "gpt2") == ""


def test_the_model_is_said_to_be_better_or_worse_with_the_interval_of_the_difference():
    of = ladder(2.35, noise=0.2)
    said = place_sentences(of, own=True)
    assert of.counting is None
    assert "learnt" not in said
    assert said.startswith("The model needs 2.350 bits per byte (lower is better). ")
    for code, bits, outcome in (("ngram_bytes", "2.400", "better"), ("ppmd", "2.300", "worse")):
        interval = of[code].interval
        ends = sorted((abs(interval.low), abs(interval.high)))
        numbers = f"by 0.050 (95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
        assert f"{NAMES[code]} ({bits}); the model is {outcome} {numbers}" in said
    assert said.count(of["ppmd"].interval.clause) == 1


def test_better_than_every_baseline_is_said_of_a_ladder_that_says_so():
    assert "better than every baseline" in place_sentences(ladder(2.2, noise=0.2), own=True)
    assert "better than every" not in place_sentences(ladder(2.28, noise=8.0), own=True)


def test_where_the_interval_contains_0_neither_better_nor_worse_is_said():
    said = place_sentences(ladder(2.35, noise=8.0), own=True)
    assert said.count("this text cannot show which is better") == 2
    assert not re.search("the model is (better|worse)", said)


def test_without_intervals_the_numbers_are_said_to_have_none():
    said = place_sentences(ladder_of_few(2.35), own=True)
    assert "the model is" not in said
    assert "PPMd (2.300); the model needs 0.050 bits more (no interval)" in said
    little = place_sentences(ladder_of_few(5.0), own=True)
    assert "need 4.500 bits per byte, 0.500 fewer (no interval)" in little


@pytest.mark.parametrize(("of", "longer", "advice"), [
    (ladder(2.4, noise=8.0), True, "not shown to beat an n-gram model: train longer, or on more text."),
    (ladder(2.5, noise=0.2), True, "does better: train longer, or on more text."),
    (ladder(2.5, noise=0.2), False, "does better: train on more text."),
])  # fmt: skip
def test_longer_training_is_advised_only_where_it_may_help(of, longer, advice):
    assert advice in place_sentences(of, own=True, longer=longer)


def test_that_nothing_or_little_was_learnt_is_said_on_the_run_s_own_held_out_text_alone():
    for bits, says in ((8.5, "learnt nothing yet"), (5.0, "learnt little yet")):
        assert says in place_sentences(ladder(bits), own=True)
        assert "learnt" not in place_sentences(ladder(bits), own=False)
        # A text given by --val may be of another kind.
        assert "learnt" not in place_sentences(ladder(bits, inside=1.5), own=True)


@pytest.mark.parametrize(("inside", "says"), [(2.4 / 1.3, "differs from"), (1.2, "is unlike")])
def test_how_far_a_text_is_from_the_training_text_is_said_with_both_numbers(inside, says):
    said = place_sentences(ladder(2.5, inside=inside), own=False)
    assert said.startswith(f"This text {says} the training text")
    assert "2.400 bits per byte here" in said
    assert f"it needs {inside:.3f} on the other fifth" in said
    assert "train longer" not in said
