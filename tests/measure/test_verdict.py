import pytest

from lucidlm.measure.baselines import Baseline, Baselines
from lucidlm.measure.history import History, Validation
from lucidlm.measure.memorization import Memorization, Share
from lucidlm.measure.verdict import course_of, place_of, recital_of


def validation(step: int, loss: float, *, training: float = 1.0) -> Validation:
    return Validation(
        step=step,
        epoch=step / 100,
        validation_loss_nats=loss,
        validation_perplexity=2.718281828**loss,
        validation_bits_per_byte=loss / 2,
        validation_tokens=1000,
        training_loss_nats=training,
        training_perplexity=2.718281828**training,
        training_bits_per_byte=training / 2,
        training_tokens=1000,
        time_s=step / 10,
    )


def curve(*losses: float, every: int = 10) -> list[Validation]:
    """Validations each `every` steps, the first after the first of them."""
    return [validation(every * place, loss) for place, loss in enumerate(losses, start=1)]


def verdict_of(*validations: Validation) -> str:
    return course_of(History((), tuple(validations)))


def test_without_a_validation_the_verdict_says_so():
    assert verdict_of() == "No validation yet: there is no best step."


# docs/verdicts.md, row by row.


def test_the_last_step_is_the_best_where_every_earlier_validation_was_higher():
    told = verdict_of(validation(300, 4.0), validation(600, 3.5), validation(900, 3.02, training=2.9))
    assert told.startswith("The last step, 900, is the best")
    assert "3.0200 nats per token" in told
    assert "1.510 bits per byte" in told
    assert "2.9000 (gap +0.1200)" in told


def test_a_single_validation_is_the_last_and_the_best():
    assert verdict_of(validation(7, 5.0)).startswith("The last step, 7, is the best")


def test_a_last_loss_at_most_half_a_percent_over_the_best_has_converged():
    told = verdict_of(validation(500, 3.020), validation(900, 3.031))
    assert told.startswith("The best step is 500 of 900: validation loss 3.0200")
    assert "no better and no worse (step 900: 3.0310): it has converged" in told


@pytest.mark.parametrize(("last", "converged"), [(4.0199, True), (4.0201, False)])
def test_the_line_between_converged_and_worse_is_at_half_a_percent(last, converged):
    told = verdict_of(validation(1, 4.0, training=3.0), validation(2, last, training=2.0))
    assert ("it has converged" in told) == converged
    assert ("overfits" in told) != converged


def test_a_last_loss_equal_to_an_earlier_best_has_converged_at_the_earlier():
    told = verdict_of(validation(5, 4.0), validation(10, 3.0), validation(20, 3.0))
    assert told.startswith("The best step is 10 of 20")
    assert "it has converged" in told


def test_a_worse_last_loss_with_a_falling_training_loss_overfits():
    told = verdict_of(validation(100, 6.16, training=4.1), validation(200, 6.54, training=0.36))
    assert told.startswith("The best step is 100 of 200: validation loss 6.1600")
    assert "Later steps were worse: by step 200 the validation loss was 6.5400" in told
    assert "fell on from 4.1000 to 0.3600, 6% of it: the model overfits, so far that it memorises" in told
    assert "unstable" not in told


def test_a_worse_last_loss_with_a_rising_training_loss_is_unstable():
    told = verdict_of(validation(100, 3.1, training=3.0), validation(200, 4.0, training=3.9))
    assert "rose too, from 3.0000 to 3.9000: the training is unstable" in told
    assert "overfits" not in told


def test_a_worst_step_between_the_best_and_the_last_does_not_change_the_verdict():
    told = verdict_of(validation(1, 3.0), validation(2, 9.0), validation(3, 3.01))
    assert "it has converged" in told


def test_a_loss_of_zero_can_be_the_best():
    assert "best step is 1 of 2" in verdict_of(
        validation(1, 0.0, training=0.0), validation(2, 0.5, training=0.0)
    )


@pytest.mark.parametrize(
    "validations",
    [curve(3.0), curve(4.0, 3.0), curve(3.0, 3.001), curve(3.0, 5.0)],
    ids=["one", "better", "equal", "worse"],
)
def test_a_verdict_is_one_line(validations):
    told = verdict_of(*validations)
    assert told.endswith(".")
    assert "\n" not in told


@pytest.mark.parametrize(("training", "memorises"), [(2.79, True), (2.81, False)])
def test_the_line_between_overfitting_and_memorising_is_at_70_percent(training, memorises):
    told = verdict_of(validation(1, 3.9, training=3.5), validation(2, 4.0, training=training))
    assert "overfits" in told
    assert ("memorises" in told) == memorises


def test_a_best_last_step_far_over_its_training_loss_has_begun_to_memorise():
    assert "learn its training text by heart" in verdict_of(
        validation(1, 4.0), validation(2, 3.0, training=2.0)
    )
    assert "by heart" not in verdict_of(validation(1, 4.0), validation(2, 3.0, training=2.2))


def test_losses_that_both_fell_by_one_percent_over_the_last_fifth_are_still_falling():
    course = [validation(80, 3.0, training=2.9), validation(90, 2.98, training=2.88)]
    assert "still falling: more steps" in verdict_of(*course, validation(100, 2.96, training=2.86))
    assert "still falling" not in verdict_of(*course, validation(100, 2.975, training=2.86))
    assert "still falling" not in verdict_of(*course, validation(100, 2.96, training=2.895))


# The place among the baselines, and what is recited.


def ladder(**rows: float) -> Baselines:
    names = {"bytes": "uniform over bytes", "grams": "n-gram of bytes", "xz": "xz"}
    return Baselines(
        tuple(Baseline(names[key], bits) for key, bits in rows.items()), heldout_bytes=1, training_bytes=1
    )


def test_a_model_stands_between_its_nearest_baselines():
    rows = ladder(bytes=8.0, xz=2.9, grams=2.4)
    told = place_of(2.6, rows)
    assert (
        "2.600 bits per byte stand between n-gram of bytes (2.400), which is better, and xz (2.900)" in told
    )
    assert "train longer" in told
    assert "train longer" not in place_of(2.6, rows, longer=False)
    assert "better than every baseline; the next is n-gram of bytes (2.400)" in place_of(2.3, rows)
    assert "worse than every baseline" in place_of(8.1, rows)
    assert "learnt nothing" in place_of(8.1, rows)


def test_a_model_that_only_a_compressor_beats_is_not_told_to_count_sequences():
    told = place_of(3.5, ladder(bytes=8.0, xz=2.9, grams=4.0))
    assert "between xz (2.900), which is better, and n-gram of bytes (4.000)" in told
    assert "counting" not in told


def recital(generated: float | None, heldout: float | None) -> str:
    rows = (Share(4, 0.5, 0.5), Share(16, generated, heldout))
    return recital_of(Memorization(rows, 7, "a longer run", 900, 900))


@pytest.mark.parametrize(
    ("generated", "heldout", "recites"),
    [(0.04, 0.0, False), (0.05, 0.0, True), (0.2, 0.16, False), (0.22, 0.16, True), (1.0, None, True)],
)
def test_it_recites_where_its_long_sequences_stand_in_the_training_text_more_than_held_out_ones(
    generated, heldout, recites
):
    told = recital(generated, heldout)
    assert told.startswith("What it writes is recited:" if recites else "What it writes is not recited:")


def test_too_short_a_writing_has_no_verdict_on_reciting():
    rows = (Share(4, None, 0.5), Share(16, None, None))
    assert recital_of(Memorization(rows, 0, "", 3, 900)) == ""
