import dataclasses
import json

import pytest

from lucidlm.errors import RunError
from lucidlm.measure.history import (
    METRICS,
    SAMPLES,
    History,
    Step,
    Validation,
    passed_its_best,
    read_events,
    read_history,
)


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


def a_step(step: int) -> Step:
    return Step(
        step=step,
        epoch=step / 100,
        tokens=64 * step,
        loss_nats=5.0 - step / 100,
        learning_rate_factor=1.0,
        grad_norm=0.5,
        tokens_per_s=1e4,
        mfu=None,
        time_s=step / 10,
    )


def curve(*losses: float, every: int = 10) -> list[Validation]:
    """Validations each `every` steps, the first after the first of them."""
    return [validation(every * place, loss) for place, loss in enumerate(losses, start=1)]


def line_of(event: str, row: Step | Validation) -> str:
    return json.dumps({"event": event} | dataclasses.asdict(row)) + "\n"


@pytest.fixture
def run(tmp_path):
    """A run of 4 steps and 2 validations, with a plan and an end around them."""
    lines = ['{"event": "plan", "steps": 4}\n', line_of("step", a_step(1)), line_of("step", a_step(2))]
    lines += [
        line_of("validation", validation(2, 4.0)),
        line_of("step", a_step(3)),
        line_of("step", a_step(4)),
    ]
    lines += [line_of("validation", validation(4, 3.5)), '{"event": "end", "step": 4}\n']
    (tmp_path / METRICS).write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_a_history_is_what_was_written_in_its_order(run):
    history = read_history(run)
    assert history.steps == tuple(map(a_step, (1, 2, 3, 4)))
    assert history.validations == (validation(2, 4.0), validation(4, 3.5))


def test_a_history_can_be_read_by_the_name_of_its_folder(run):
    assert read_history(str(run)) == read_history(run)


def test_a_run_without_metrics_has_an_empty_history(tmp_path):
    assert read_history(tmp_path) == History((), ())
    assert read_history(tmp_path).best is None
    assert list(read_events(tmp_path / SAMPLES)) == []


def test_an_empty_file_is_an_empty_history(tmp_path):
    (tmp_path / METRICS).write_bytes(b"")
    assert read_history(tmp_path) == History((), ())


def test_a_last_line_torn_at_any_byte_is_left_out(run):
    whole = (run / METRICS).read_bytes()
    history = read_history(run)
    begin = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for end in range(begin, len(whole)):
        (run / METRICS).write_bytes(whole[:end])
        assert read_history(run) == history, whole[begin:end]


def test_a_torn_validation_does_not_count(run):
    whole = (run / METRICS).read_bytes()
    (run / METRICS).write_bytes(whole[: whole.index(b'"end"') - 30])
    assert read_history(run).validations == (validation(2, 4.0),)


def test_a_last_line_torn_inside_a_character_is_left_out(tmp_path):
    whole = '{"step": 1, "text": "a"}\n{"step": 2, "text": "Größe 猫"}\n'.encode()
    for end in range(whole.index(b"\n") + 1, len(whole) - 1):
        (tmp_path / SAMPLES).write_bytes(whole[:end])
        rows = list(read_events(tmp_path / SAMPLES))
        assert [row["step"] for row in rows if row["step"] == 1] == [1], whole[:end]


def test_a_whole_last_line_without_its_newline_counts(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}', encoding="utf-8")
    assert [event["step"] for event in read_events(tmp_path / METRICS)] == [1, 2]


@pytest.mark.parametrize("broken", ['{"event": "st', "", "nonsense", '{"event": "step"} {}'])
def test_a_broken_line_in_the_middle_is_an_error_that_names_file_and_line(run, broken):
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    lines[2] = broken
    (run / METRICS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=rf"{METRICS}:3: not a line of JSON; delete this line") as caught:
        read_history(run)
    assert "\n" not in str(caught.value)


def test_a_line_in_the_middle_that_is_json_but_no_object_is_an_error_too(run):
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    lines[2] = "12"
    (run / METRICS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=f"{METRICS}:3"):
        read_history(run)


def test_bytes_that_are_no_text_in_the_middle_are_an_error_too(run):
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    lines[2] = b'{"event": "\xff\xfe"}\n'
    (run / METRICS).write_bytes(b"".join(lines))
    with pytest.raises(RunError, match=METRICS):
        read_history(run)


def test_what_a_newer_version_writes_more_is_left(run):
    event = {"event": "validation", "calibration": 0.5} | dataclasses.asdict(validation(6, 3.0))
    with open(run / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n" + '{"event": "weather", "sky": "blue"}\n')
    assert read_history(run).validations[-1] == validation(6, 3.0)


def test_the_best_validation_is_the_lowest_and_the_earliest_of_equals():
    history = History((), tuple(curve(4.0, 3.0, 3.5, 3.0, 3.2)))
    assert history.best == history.validations[1]


# Early stopping asks for four signs: 5 validations and a tenth of the steps since the best, a rise, 2 %.


def test_a_loss_that_rises_for_good_has_passed_its_best():
    assert passed_its_best(curve(4.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5))


@pytest.mark.parametrize(
    "losses",
    [
        (),
        (3.0,),
        (5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.4, 4.3),
        (4.0, 3.0, 3.1, 3.2, 3.3, 3.4),
        (4.0, 3.0, 3.1, 3.2, 3.3, 3.5, 3.4),
        (4.0, 3.0, 3.6, 3.5, 3.6, 3.5, 3.6),
        (4.0, 3.0, 3.01, 3.02, 3.03, 3.04, 3.05),
        (4.0, 3.0, 3.2, 3.3, 3.4, 3.5, 2.9, 3.0, 3.1, 3.2),
        (3.0,) * 10,
    ],
    ids=[
        "no validation",
        "one",
        "still falling",
        "four since the best",
        "the last fell",
        "the last three do not rise",
        "under 2 % over the best",
        "a new best after a bump",
        "flat",
    ],
)
def test_without_each_of_the_signs_it_has_not_passed_its_best(losses):
    assert not passed_its_best(curve(*losses))


def test_five_validations_since_the_best_are_enough_and_four_are_not():
    losses = (4.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5)
    assert passed_its_best(curve(*losses))
    assert not passed_its_best(curve(*losses[:-1]))


def test_patience_is_counted_in_validations():
    losses = (4.0, 3.0, 3.1, 3.2, 3.3)
    assert passed_its_best(curve(*losses), patience=3)
    assert not passed_its_best(curve(*losses), patience=4)


def test_a_best_less_than_a_tenth_of_the_steps_back_is_not_passed():
    rising = [validation(1000 + place, 3.0 + 0.1 * place) for place in range(7)]
    assert not passed_its_best([validation(500, 4.0), *rising])
    assert passed_its_best(
        [validation(5, 4.0), *(validation(10 + place, 3.0 + 0.1 * place) for place in range(7))]
    )


def test_more_than_two_percent_over_the_best_is_needed():
    assert not passed_its_best(curve(1.0, 1.001, 1.002, 1.003, 1.004, 1.0199))
    assert passed_its_best(curve(1.0, 1.001, 1.002, 1.003, 1.004, 1.0201))
