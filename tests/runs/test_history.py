import dataclasses
import json

import numpy as np
import pytest

from lucidlm.runs.history import (
    METRICS,
    SAMPLES,
    History,
    Level,
    Step,
    Validation,
    passed_its_best,
    read_history,
)
from lucidlm.runs.records import checked_line, read_events, read_lines


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
    assert history.end == 0
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
    for end in range(begin, len(whole) - 1):
        (run / METRICS).write_bytes(whole[:end])
        assert read_history(run) == dataclasses.replace(history, end=None), whole[begin:end]


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


@pytest.mark.parametrize(
    "broken", ['{"event": "st', "", "nonsense", '{"event": "step"} {}', "[]", "[" * 10**5]
)
def test_a_broken_line_anywhere_is_passed_over_and_counted(run, broken):
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    lines[2] = broken
    (run / METRICS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    history, lines = read_history(run), read_lines(run / METRICS)
    assert [step.step for step in history.steps] == [1, 3, 4]
    assert (lines.broken, len(lines.events)) == (1, 7)
    assert history.remarks == (f"{run / METRICS}: 1 line damaged or not of this run; the other 7 are used",)


def test_bytes_that_are_no_text_are_passed_over_too(run):
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    lines[2] = b'{"event": "\xff\xfe"}\n'
    (run / METRICS).write_bytes(b"".join(lines))
    assert read_lines(run / METRICS).broken == 1


@pytest.mark.parametrize("value", [None, True, -1, 1e308, "x", [], {}])
def test_a_line_of_other_types_is_passed_over(run, value):
    event = {"event": "step"} | dataclasses.asdict(a_step(5)) | {"step": value}
    with open(run / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
    history = read_history(run)
    assert history.last_step == 4
    assert len(history.remarks) == 1


@pytest.fixture
def checked(tmp_path):
    """Lines as a run writes them: of 3 steps and 2 validations."""
    rows = [a_step(1), validation(1, 4.0), a_step(2), a_step(3), validation(3, 3.5)]
    events = [{"event": type(row).__name__.lower()} | dataclasses.asdict(row) for row in rows]
    return [checked_line(event, number) for number, event in enumerate(events, start=1)]


def _skipped(run, lines):
    """Lines that are broken, missing and doubled."""
    (run / METRICS).write_text("".join(lines), encoding="utf-8")
    found = read_lines(run / METRICS)
    assert bool(read_history(run).remarks) or not any((found.broken, found.missing, found.doubled))
    return found.broken, found.missing, found.doubled


def test_lines_that_are_lost_doubled_or_of_another_run_are_counted(tmp_path, checked):
    first, second, third, fourth, fifth = checked
    assert _skipped(tmp_path, checked) == (0, 0, 0)
    assert _skipped(tmp_path, [first, third, fourth, fifth]) == (0, 1, 0)
    assert _skipped(tmp_path, [*checked, second]) == (0, 0, 1)
    other = checked_line({"event": "step", "step": 9}, 2)
    assert _skipped(tmp_path, [first, other, third, fourth, fifth]) == (0, 0, 0)  # a sound line, but no step
    assert len(read_history(tmp_path).remarks) == 1
    assert _skipped(tmp_path, [fourth, first, third, fifth, second]) == (0, 0, 0)
    assert [each.step for each in read_history(tmp_path).steps] == [1, 2, 3]
    plain = json.dumps({"event": "step"} | dataclasses.asdict(a_step(2))) + "\n"
    assert _skipped(tmp_path, [first, second, plain, fourth, fifth])[0] == 1


def test_a_turned_bit_of_a_line_changes_times_and_speeds_at_most(tmp_path, checked):
    (tmp_path / METRICS).write_text("".join(checked), encoding="utf-8")
    whole, before = (tmp_path / METRICS).read_bytes(), read_history(tmp_path)
    times = {"time_s": 0.0}
    for place in range(0, 8 * len(whole) - 8, 31):  # without its last newline the last line is torn
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        (tmp_path / METRICS).write_bytes(data)
        history = read_history(tmp_path)
        if history.remarks:
            continue
        timeless = [
            [dataclasses.replace(each, **times, **more) for each in rows]
            for of in (before, history)
            for rows, more in ((of.steps, {"tokens_per_s": 0.0, "mfu": None}), (of.validations, {}))
        ]
        assert timeless[:2] == timeless[2:], place


def test_what_a_newer_version_writes_more_is_left(run):
    event = {"event": "validation", "calibration": 0.5} | dataclasses.asdict(validation(6, 3.0))
    with open(run / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n" + '{"event": "weather", "sky": "blue"}\n')
    assert read_history(run).validations[-1] == validation(6, 3.0)


def test_the_best_validation_is_the_lowest_and_the_earliest_of_equals():
    history = History((), tuple(curve(4.0, 3.0, 3.5, 3.0, 3.2)))
    assert history.best == history.validations[1]


# Early stopping asks for a learning rate that falls, 5 validations and a tenth of the steps since the best,
# three losses that rise, each over the low by 2 % and by six times the noise.

RISING = (4.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5)


def test_a_loss_that_rises_for_good_has_passed_its_best():
    assert passed_its_best(curve(*RISING), decay_from=30)


def test_before_the_learning_rate_falls_nothing_has_passed_its_best():
    assert passed_its_best(curve(*RISING), decay_from=70)
    assert not passed_its_best(curve(*RISING), decay_from=71)


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
    assert not passed_its_best(curve(*losses), decay_from=0)


def test_patience_is_counted_in_validations():
    assert passed_its_best(curve(*RISING), decay_from=0, patience=5)
    assert not passed_its_best(curve(*RISING), decay_from=0, patience=6)


def test_a_best_less_than_a_tenth_of_the_steps_back_is_not_passed():
    rising = [validation(1000 + place, 3.0 + 0.1 * place) for place in range(7)]
    assert not passed_its_best([validation(500, 4.0), *rising], decay_from=0)
    early = [validation(5, 4.0), *(validation(10 + place, 3.0 + 0.1 * place) for place in range(7))]
    assert passed_its_best(early, decay_from=0)


def test_each_of_the_last_three_must_lie_more_than_two_percent_over_the_low():
    assert not passed_its_best(curve(1.0, 1.005, 1.012, 1.025, 1.03, 1.04), decay_from=0)
    assert passed_its_best(curve(1.0, 1.005, 1.012, 1.0252, 1.03, 1.04), decay_from=0)


def test_a_slow_bump_at_the_full_learning_rate_stops_nothing():
    # The best at step 20 of 1,000, 6 % over it at step 70: a tenth of the steps so far was 7 steps.
    losses = [3.2, 3.0, *(3.0 * (1 + 0.012 * place) for place in range(1, 6))]
    assert passed_its_best(curve(*losses), decay_from=0)
    assert not passed_its_best(curve(*losses), decay_from=400)


def test_noise_of_one_percent_on_a_flat_curve_stops_hardly_any_run():
    draw = np.random.default_rng(0)
    stopped = 0
    for losses in 3.0 * (1 + 0.01 * draw.standard_normal((500, 20))):
        run = curve(*losses)
        stopped += any(passed_its_best(run[:seen], decay_from=0) for seen in range(6, 21))
    assert stopped <= 5  # it was 21 % of them, of 12 to 20 validations each


# How the run ended.


def _events(run, *events):
    (run / METRICS).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return read_history(run)


def test_a_history_knows_whether_its_run_came_to_an_end(run, tmp_path):
    step = {"event": "step"} | dataclasses.asdict(a_step(1))
    assert read_history(run).end == 0
    assert _events(tmp_path, step).end is None
    assert _events(tmp_path, step, {"event": "end", "step": 1, "interrupted": 15}).end == 15
    # Gone on with after an end, and killed.
    assert _events(tmp_path, step, {"event": "end", "step": 1, "interrupted": 0}, step).end is None


def test_the_baselines_of_the_end_are_read_and_damaged_ones_make_it_no_end(tmp_path):
    step = {"event": "step"} | dataclasses.asdict(a_step(1))
    end = {"event": "end", "step": 1, "interrupted": 0}
    rows = [{"name": "gzip", "bits_per_byte": 2.5}, {"name": "PPMd", "bits_per_byte": 2}]
    history = _events(tmp_path, step, end | {"baselines": rows})
    assert history.baselines == (Level(name="gzip", bits_per_byte=2.5), Level(name="PPMd", bits_per_byte=2.0))
    assert _events(tmp_path, step, end).baselines == ()
    for damaged in ("gzip", ["gzip"], [{"name": "gzip"}], [{"name": 1, "bits_per_byte": 2.5}], {"name": 1}):
        history = _events(tmp_path, step, end | {"baselines": damaged})
        assert (history.end, len(history.remarks)) == (None, 1)
    assert _events(tmp_path, step).last_step == 1
