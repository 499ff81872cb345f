"""A run is a function of its settings: the same twice, interrupted or not, looked at or not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import END_OF_TEXT
from recorded import Recorded

from lucidlm.errors import ConfigError, RunError
from lucidlm.runs import metrics
from lucidlm.runs.folder import checkpoint_folders, save_checkpoint
from lucidlm.runs.history import read_history
from lucidlm.runs.run_toml import read_settings, write_settings
from lucidlm.runs.settings import Plan
from lucidlm.runtime.progress import SILENT
from lucidlm.training import finish, loop, saving, start
from lucidlm.training.loop import train
from lucidlm.training.prediction import Compressibility, predict
from lucidlm.training.schedule import learning_rate_factor, trapezoid
from lucidlm.training.speed import Machine

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[Plan, Path]:
    """The runs that were never disturbed, by their plan: several tests compare with the same one."""
    return {}


@pytest.fixture
def undisturbed(make_config, finished: dict[Plan, Path], tmp_path_factory) -> Callable[[Plan], Path]:
    """undisturbed(plan): the folder of a run that went from start to end, to be looked at only."""

    def run(plan: Plan) -> Path:
        if plan not in finished:
            finished[plan] = tmp_path_factory.mktemp("undisturbed") / "run"
            train(make_config(out=str(finished[plan])), plan=plan)
        return finished[plan]

    return run


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step, however long a save takes."""
    monkeypatch.setattr(saving, "SAVING_SHARE", 1e9)


def _last(run: str | Path) -> Path:
    return checkpoint_folders(Path(run))[-1]


def _events(run: str) -> list[dict]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def _stop_after(step: int, number: int) -> Callable:
    """A watcher that sends this process a signal in a step, as a terminal or a cluster would."""

    def watch(report: loop.Report) -> None:
        if report.step.step == step:
            signal.raise_signal(number)

    return watch


def test_a_run_folder_holds_what_other_tools_and_a_repetition_need(make_config, make_tiny_plan):
    result = train(make_config(), plan=make_tiny_plan())
    found = {path.relative_to("run").as_posix() for path in Path("run").rglob("*") if path.is_file()}
    model = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    model |= {"tokenizer_config.json"}
    assert found >= model | {"run.toml", "env.json", "metrics.jsonl", "samples.jsonl", "README.md"}
    inside = {f"checkpoints/step_000008/{name}" for name in model}
    assert found >= inside | {
        f"checkpoints/step_000008/{name}" for name in ("optimizer.safetensors", "state.json")
    }
    assert any(name.startswith("data/train") for name in found)
    assert not [name for name in found if "tmp" in name or name.endswith(".lock")]
    assert not [path for path in Path().iterdir() if path.name.endswith(".lock")]
    assert (result.run, result.step, result.interrupted) == (Path("run"), 8, 0)
    environment = json.loads(Path("run/env.json").read_text())
    assert environment["seed"] == 123
    assert {"torch", "python", "lucidlm", "text_sha256", "tokenizer_sha256"} <= environment.keys()
    card = Path("run/README.md").read_text()
    assert f"{result.evaluation.loss_nats:.4f}" in card
    assert f"{result.evaluation.perplexity:,.2f}" in card
    final, of = read_history(Path("run")).final, result.evaluation
    assert (final.loss_nats, final.bits_per_byte) == (of.loss_nats, of.bits_per_byte)
    assert (final.tokens, final.heldout_tokens) == (of.tokens_scored, of.sample_of or of.tokens_scored)
    assert (final.bits_low is None) == (of.bits_interval is None)


def test_metrics_have_a_line_a_step_and_a_line_a_validation(make_config, make_tiny_plan):
    reports = []
    plan = make_tiny_plan()
    train(make_config(), plan=plan, watch=reports.append)
    history = read_history(Path("run"))
    assert [step.step for step in history.steps] == list(range(1, 9))
    assert [step.tokens for step in history.steps] == sorted(step.tokens for step in history.steps)
    assert history.steps[0].tokens == plan.batch_tokens
    assert [each.step for each in history.validations] == [0, 4, 8]
    assert [report.step.step for report in reports] == list(range(9))
    assert [report.step for report in reports[1:]] == list(history.steps)
    samples = [json.loads(line) for line in Path("run/samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 4, 8]
    assert all(max(sample["probe_log_probabilities"]) <= 0 for sample in samples)


def test_training_learns(make_config, make_tiny_plan):
    train(make_config(), plan=make_tiny_plan(steps=40, validate_every=40))
    first, last = read_history(Path("run")).validations
    assert first.validation_loss_nats == pytest.approx(np.log(257), abs=0.1)
    assert last.validation_loss_nats < 4.0
    assert last.training_loss_nats < 4.0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
def test_the_same_run_twice_and_from_its_run_toml_is_bitwise_equal(
    make_config, make_tiny_plan, fingerprint, timeless, optimizer, drop_rate
):
    plan = make_tiny_plan(optimizer=optimizer, drop_rate=drop_rate)
    train(make_config(out="one"), plan=plan)
    np.random.seed(99)
    train(make_config(out="two"), plan=plan)
    again, its_plan = read_settings(Path("one"))
    assert its_plan == replace(plan, model=plan.model.changed(document_prefix_id=END_OF_TEXT))
    train(make_config(out="three", seed=again.seed), plan=its_plan)
    for other in ("two", "three"):
        assert fingerprint(_last(other)) == fingerprint(_last("one"))
        assert fingerprint(Path(other)) == fingerprint(Path("one"))
        assert timeless(Path(other)) == timeless(Path("one"))
        assert Path(other, "samples.jsonl").read_bytes() == Path("one/samples.jsonl").read_bytes()


def test_another_seed_is_another_run(make_config, make_tiny_plan, fingerprint):
    train(make_config(out="one"), plan=make_tiny_plan(steps=2))
    train(make_config(out="two", seed=124), plan=make_tiny_plan(steps=2))
    assert fingerprint(_last("one")) != fingerprint(_last("two"))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_validating_changes_no_bit_of_the_weights(make_config, make_tiny_plan, fingerprint, optimizer):
    for out, every in (("often", 1), ("never", 10**9)):
        train(
            make_config(out=out),
            plan=make_tiny_plan(optimizer=optimizer, drop_rate=0.1, validate_every=every),
        )
    assert len(read_history(Path("often")).validations) > len(read_history(Path("never")).validations)
    assert fingerprint(_last("often")) == fingerprint(_last("never"))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_an_interrupted_and_resumed_run_is_bitwise_the_uninterrupted_one(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless, optimizer, drop_rate, decay
):
    plan = make_tiny_plan(optimizer=optimizer, drop_rate=drop_rate, decay=decay)
    whole = undisturbed(plan)
    # Step 5 lies between two validations and in the middle of an epoch.
    stopped = train(make_config(), plan=plan, watch=_stop_after(5, signal.SIGINT))
    assert (stopped.interrupted, stopped.step, stopped.evaluation) == (signal.SIGINT, 5, None)
    assert read_history(stopped.run).final is None
    finished = train(make_config(), resume=True)
    assert (finished.interrupted, finished.step) == (0, 8)
    assert fingerprint(_last("run")) == fingerprint(_last(whole))
    assert fingerprint(Path("run")) == fingerprint(whole)
    assert timeless(Path("run")) == timeless(whole)
    assert Path("run/samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_resuming_is_bitwise_in_bfloat16_too(make_config, make_tiny_plan, undisturbed, fingerprint):
    plan = make_tiny_plan(dtype="bfloat16", drop_rate=0.1)
    whole = undisturbed(plan)
    train(make_config(), plan=plan, watch=_stop_after(3, signal.SIGINT))
    train(make_config(), resume=True)
    assert fingerprint(_last("run")) == fingerprint(_last(whole))


def test_a_run_that_is_interrupted_in_every_step_is_bitwise_the_uninterrupted_one(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless
):
    plan = make_tiny_plan(steps=6, drop_rate=0.1, validate_every=2)
    whole = undisturbed(plan)
    result = train(make_config(), plan=plan, watch=_stop_after(0, signal.SIGTERM))
    while result.interrupted:
        assert result.interrupted == signal.SIGTERM
        result = train(make_config(), resume=True, watch=_stop_after(result.step + 1, signal.SIGTERM))
    assert fingerprint(_last("run")) == fingerprint(_last(whole))
    assert fingerprint(Path("run")) == fingerprint(whole)
    assert timeless(Path("run")) == timeless(whole)


def test_a_finished_run_that_is_resumed_stays_as_it_is(make_config, make_tiny_plan, fingerprint, timeless):
    train(make_config(), plan=make_tiny_plan(steps=3))
    before = fingerprint(Path("run")), fingerprint(_last("run")), timeless(Path("run"))
    result = train(make_config(), resume=True)
    assert (result.step, result.interrupted) == (3, 0)
    assert result.evaluation is not None
    assert (fingerprint(Path("run")), fingerprint(_last("run")), timeless(Path("run"))) == before


def test_resuming_from_a_damaged_checkpoint_goes_one_step_back_says_so_and_ends_bitwise_equal(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless, save_always
):
    plan = make_tiny_plan(drop_rate=0.1)
    whole = undisturbed(plan)
    train(make_config(checkpoint_seconds=0), plan=plan, watch=_stop_after(5, signal.SIGINT))
    newest = _last("run") / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    said = []
    train(make_config(), resume=True, progress=Recorded(said))
    assert any("step_000005 is damaged" in line for line in said)
    assert any("at step 4" in line for line in said)
    assert fingerprint(_last("run")) == fingerprint(_last(whole))
    assert timeless(Path("run")) == timeless(whole)


def test_a_torn_last_line_of_metrics_is_written_anew(make_config, make_tiny_plan, undisturbed, timeless):
    plan = make_tiny_plan()
    whole = undisturbed(plan)
    train(make_config(), plan=plan, watch=_stop_after(4, signal.SIGINT))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(f"run/{name}", "a") as file:
            file.write('{"event": "step", "step": 6, "lo')
    train(make_config(), resume=True)
    assert timeless(Path("run")) == timeless(whole)


def test_only_two_checkpoints_are_kept(make_config, make_tiny_plan, save_always):
    seen = set()
    train(
        make_config(checkpoint_seconds=0),
        plan=make_tiny_plan(),
        watch=lambda report: seen.add(len(checkpoint_folders(Path("run")))),
    )
    assert seen == {1, 2}
    assert [folder.name for folder in checkpoint_folders(Path("run"))] == ["step_000007", "step_000008"]


def test_the_root_holds_the_best_weights_and_the_last_checkpoint_the_last(
    make_config, make_tiny_plan, fingerprint, monkeypatch
):
    losses = iter([5.0, 4.0, 4.5, 4.6, 4.7])
    _made_up_validations(monkeypatch, losses)
    train(make_config(), plan=make_tiny_plan(validate_every=2))
    history = read_history(Path("run"))
    assert history.best.step == 2
    train(make_config(out="short"), plan=read_settings(Path("run"))[1], watch=_stop_after(2, signal.SIGINT))
    from safetensors.numpy import load_file

    best, second = load_file("run/model.safetensors"), load_file(_last("short") / "model.safetensors")
    assert {name: tensor.tobytes() for name, tensor in best.items()} == {
        name: tensor.tobytes() for name, tensor in second.items()
    }
    last = load_file(_last("run") / "model.safetensors")
    assert any((best[name] != last[name]).any() for name in best)


def _made_up_validations(monkeypatch: pytest.MonkeyPatch, losses) -> None:
    from lucidlm.runs.history import Validation

    def validate(model, tokenizer, samples, *, step, epoch, time_s):
        loss = next(losses, 9.0)
        sides = {
            f"{side}_{name}": value
            for side, loss_nats in (("validation", loss), ("training", 5.0 - 0.01 * step))
            for name, value in (
                ("loss_nats", loss_nats),
                ("perplexity", float(np.exp(loss_nats))),
                ("bits_per_byte", loss_nats / np.log(2)),
                ("tokens", 100),
            )
        }
        return Validation(step=step, epoch=epoch, time_s=time_s, **sides)

    def write_sample(model, tokenizer, samples, *, step):
        return {"step": step, "prompt": "", "text": "", "probe_ids": [], "probe_log_probabilities": []}

    monkeypatch.setattr(loop, "validate", validate)
    monkeypatch.setattr(loop, "write_sample", write_sample)


def test_three_numbers_of_one_run_agree_or_say_that_they_are_of_samples(make_config, make_tiny_plan):
    plan = make_tiny_plan(steps=2, validate_every=1, validation_tokens=128)
    with contextlib.ExitStack() as stack:
        run = start.start_run(make_config(), stack, SILENT, plan=plan)
        run.pace.final_tokens = 230
        for _ in loop.train_steps(run):
            pass
        sampled = finish.finish(run)
    heldout = run.corpus.heldout_tokens
    evaluation = sampled.assessment.evaluation
    assert evaluation.tokens_scored < heldout == evaluation.sample_of
    assert sampled.best.heldout_tokens == heldout > sampled.best.validation_tokens
    card = (sampled.run / "README.md").read_text(encoding="utf-8")
    mark = f"({evaluation.caution})"
    assert card.count(mark) >= 4  # its three rows and the verdict
    assert sampled.assessment.course.best.heldout_tokens == heldout

    whole = train(make_config(out="whole"), plan=replace(plan, validation_tokens=10**6))
    evaluation = whole.assessment.evaluation
    assert (evaluation.sample_of, evaluation.tokens_scored) == (None, heldout)
    assert whole.best.validation_tokens == whole.best.heldout_tokens == heldout
    assert evaluation.loss_nats == pytest.approx(whole.best.validation_loss_nats, rel=1e-9)


PASSED = [5.0, 4.0, 3.0, *(3.0 + 0.1 * place for place in range(1, 60))]


def test_training_stops_when_the_validation_loss_has_passed_its_best_for_good(
    make_config, make_tiny_plan, monkeypatch
):
    _made_up_validations(monkeypatch, iter(PASSED))
    reports = []
    result = train(
        make_config(),
        plan=make_tiny_plan(steps=50, validate_every=1, early_stop=True),
        watch=reports.append,
    )
    settings = read_settings(result.run)[1]
    assert settings.early_stop_from <= result.step < 50
    assert result.step == max(settings.early_stop_from, 7)
    assert result.best.step == 2
    assert result.interrupted == 0
    assert any("passed its best, of step 2" in note for note in reports[-1].notes)
    assert result.assessment.course.best.step == 2
    assert result.assessment.course.rise > 0.5


def test_no_early_stop_goes_to_the_end_of_the_plan(make_config, make_tiny_plan, monkeypatch):
    _made_up_validations(monkeypatch, iter(PASSED))
    result = train(make_config(), plan=make_tiny_plan(steps=12, validate_every=1, early_stop=False))
    assert result.step == 12


def test_a_bump_on_the_way_down_stops_nothing(make_config, make_tiny_plan, monkeypatch):
    _made_up_validations(monkeypatch, iter([5.0, 4.0, 4.2, 4.1, 3.9, 4.0, 3.8, 3.7, 3.9, 3.6, 3.5, 3.4]))
    result = train(make_config(), plan=make_tiny_plan(steps=11, validate_every=1, early_stop=True))
    assert result.step == 11


def test_a_disk_that_is_full_for_metrics_stops_no_training_and_is_said_once_a_file(
    make_config, make_tiny_plan, undisturbed, monkeypatch, fingerprint
):
    whole = undisturbed(make_tiny_plan())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "append_whole", full)
    said = []
    result = train(make_config(), plan=make_tiny_plan(), progress=Recorded(said))
    assert result.step == 8
    assert fingerprint(_last("run")) == fingerprint(_last(whole))
    told = [line.partition(" ")[0] for line in said if "No space left" in line]
    assert told == ["run/metrics.jsonl", "run/samples.jsonl"]  # each once


def test_a_save_that_fails_midway_is_a_note_and_the_run_goes_on(
    make_config, make_tiny_plan, undisturbed, monkeypatch, save_always, fingerprint
):
    whole = undisturbed(make_tiny_plan())
    real, failing = saving.save_checkpoint, {2: 28, 3: 28, 4: 28, 5: 5}

    def sometimes(run, step, **named):
        if step in failing:
            raise OSError(failing[step], os.strerror(failing[step]), f"run/.step_{step}.tmp/x")
        return real(run, step, **named)

    monkeypatch.setattr(saving, "save_checkpoint", sometimes)
    reports = []
    result = train(make_config(checkpoint_seconds=0), plan=make_tiny_plan(), watch=reports.append)
    assert (result.step, result.problems) == (8, ())
    noted = {report.step.step: " ".join(report.notes) for report in reports if report.notes}
    assert noted.keys() == {2, 5, 6}  # each reason once
    assert "run/.step_2.tmp/x: No space left on device" in noted[2]
    assert "Input/output error" in noted[5]
    assert "saved again" in noted[6]
    assert fingerprint(_last("run")) == fingerprint(_last(whole))


@pytest.fixture
def no_more_saves(here, quick_probes, undisturbed, make_tiny_plan, monkeypatch) -> None:
    """A disk that is full after the first save; the undisturbed run was made before."""
    undisturbed(make_tiny_plan())
    real = saving.save_checkpoint

    def full(run, step, **named):
        if step:
            raise OSError(28, "No space left on device", "run/x")
        return real(run, step, **named)

    monkeypatch.setattr(saving, "save_checkpoint", full)


@pytest.mark.usefixtures("no_more_saves")
def test_after_a_last_save_that_fails_the_result_is_told_then_what_is_lost_and_the_advice_works(
    make_config, make_tiny_plan, undisturbed, fingerprint, monkeypatch
):
    whole, told = undisturbed(make_tiny_plan()), []
    result = train(
        make_config(checkpoint_seconds=0), plan=make_tiny_plan(), progress=Recorded(told), answer=told.append
    )
    answered = next(place for place, each in enumerate(told) if isinstance(each, finish.TrainResult))
    assert told[answered].evaluation == result.evaluation
    assert told[answered + 1 :] == list(result.problems)
    assert len(result.problems) == 1
    assert "step 8 are lost: run/x: No space left on device" in result.problems[0]
    assert "lucidlm train --resume --out run goes on from step 0" in result.problems[0]
    monkeypatch.setattr(saving, "save_checkpoint", save_checkpoint)
    assert train(make_config(), resume=True).problems == ()
    assert fingerprint(_last("run")) == fingerprint(_last(whole))


@pytest.mark.usefixtures("no_more_saves")
def test_what_was_not_saved_at_the_end_is_judged_from_memory(
    make_config, make_tiny_plan, undisturbed, monkeypatch
):
    def never(*arguments, **named):
        raise OSError(28, "No space left on device", "run/model.safetensors")

    def watch(report):
        monkeypatch.setattr(saving, "save_model", never)

    result = train(make_config(), plan=make_tiny_plan(), watch=watch)
    events = read_history(undisturbed(make_tiny_plan())).final
    assert result.evaluation.loss_nats == events.loss_nats
    assert result.problems


def test_a_first_save_that_fails_ends_the_run_before_it_trained_and_leaves_no_folder(
    make_config, make_tiny_plan, monkeypatch
):
    def never(run, step, **named):
        raise OSError(27, "File too large", "run/x")

    monkeypatch.setattr(saving, "save_checkpoint", never)
    with pytest.raises(RunError, match=r"run: .*run/x: File too large.*nothing was trained; .*another --out"):
        train(make_config(), plan=make_tiny_plan())
    assert not Path("run").exists()


def test_a_second_trainer_on_the_folder_is_refused_at_once_and_a_dead_ones_lock_is_not(
    make_config, make_tiny_plan
):
    plan = make_tiny_plan(steps=4)
    train(make_config(), plan=plan, watch=_stop_after(1, signal.SIGINT))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(RunError, match=rf"run is in use by another lucidlm process \(pid {holder.pid}\)"):
            train(make_config(), resume=True)
        assert time.monotonic() - started < 2
    finally:
        holder.kill()
        holder.communicate()
    assert train(make_config(), resume=True).step == 4


HOLD_THE_LOCK = """
from lucidlm.runtime.locks import lock
with lock("run"):
    print("held", flush=True)
    input()
"""


@pytest.mark.parametrize("name", ["train.npy", "validation.npy", "tokenizer.json"])
def test_a_run_whose_data_was_changed_is_not_resumed(make_config, make_tiny_plan, name):
    train(make_config(), plan=make_tiny_plan(), watch=_stop_after(2, signal.SIGINT))
    file = Path("run/data") / name
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="its text is not what it was trained on"):
        train(make_config(), resume=True)


def test_changing_the_book_itself_does_not_matter_to_a_run_that_has_its_tokens(
    make_config, make_tiny_plan, undisturbed, fingerprint
):
    whole = undisturbed(make_tiny_plan())
    train(make_config(), plan=make_tiny_plan(), watch=_stop_after(2, signal.SIGINT))
    Path("book.txt").write_text("another book")
    train(make_config(), resume=True)
    assert fingerprint(_last("run")) == fingerprint(_last(whole))


def test_a_prepared_folder_is_trained_on_in_place_and_refused_when_prepared_anew(
    make_config, make_tiny_plan, undisturbed, fingerprint
):
    from lucidlm.text.preparation import prepare

    prepare("book.txt", "prepared", tokenizer="bytes")
    whole = undisturbed(make_tiny_plan())
    train(make_config(text="prepared"), plan=make_tiny_plan(), watch=_stop_after(2, signal.SIGINT))
    assert not list(Path("run/data").glob("*.npy"))
    train(make_config(), resume=True)
    assert fingerprint(_last("run")) == fingerprint(_last(whole))
    train(
        make_config(out="other", text="prepared"), plan=make_tiny_plan(), watch=_stop_after(2, signal.SIGINT)
    )
    Path("book.txt").write_text(Path("book.txt").read_text().swapcase())
    prepare("book.txt", "prepared", tokenizer="bytes")
    with pytest.raises(RunError, match="prepared again since the run began"):
        train(make_config(out="other"), resume=True)


@pytest.mark.parametrize("option", [{"split": "end"}, {"val_fraction": 0.2}, {"val": ("book.txt",)}])
def test_a_prepared_folder_keeps_its_held_out_part(make_config, make_tiny_plan, option):
    from lucidlm.text.preparation import prepare

    prepare("book.txt", "prepared", tokenizer="bytes")
    with pytest.raises(ConfigError, match=r"--(split|val).* was chosen when it was prepared"):
        train(make_config(text="prepared", **option), plan=make_tiny_plan())
    assert not Path("run").exists()


def test_a_prepared_folder_that_is_gone_is_named_on_resume(make_config, make_tiny_plan):
    from lucidlm.text.preparation import prepare

    prepare("book.txt", "prepared", tokenizer="bytes")
    train(make_config(text="prepared"), plan=make_tiny_plan(), watch=_stop_after(2, signal.SIGINT))
    Path("prepared").rename("elsewhere")
    with pytest.raises(RunError, match=r"its text is not what it was trained on: .*prepared"):
        train(make_config(), resume=True)


def test_a_run_toml_of_another_shape_is_refused_with_both_shapes(make_config, make_tiny_plan):
    train(make_config(), plan=make_tiny_plan(), watch=_stop_after(2, signal.SIGINT))
    text = Path("run/run.toml").read_text()
    assert "n_layers = 2" in text
    Path("run/run.toml").write_text(text.replace("n_layers = 2", "n_layers = 3"))
    with pytest.raises(RunError, match=r"n_layers=2.*n_layers=3"):
        train(make_config(), resume=True)


def test_resuming_what_is_no_run_says_so(make_config):
    Path("empty").mkdir()
    for out in ("empty", "nowhere"):
        with pytest.raises(RunError, match=f"{out} holds no run"):
            train(make_config(out=out), resume=True)
        assert not Path("nowhere").exists()


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(make_config, make_tiny_plan, monkeypatch):
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(start, "assemble", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(make_config(), plan=make_tiny_plan())
    assert [path.name for path in Path().iterdir()] == ["book.txt"]


def test_a_run_is_never_overwritten_unasked(make_config, make_tiny_plan, fingerprint):
    train(make_config(), plan=make_tiny_plan(steps=2))
    before = fingerprint(_last("run"))
    with pytest.raises(RunError, match="--resume or --overwrite"):
        train(make_config(), plan=make_tiny_plan(steps=3))
    assert fingerprint(_last("run")) == before
    assert train(make_config(), plan=make_tiny_plan(steps=3), overwrite=True).step == 3


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(
    make_config, make_tiny_plan, monkeypatch
):
    monkeypatch.setattr(start, "free_bytes", lambda path: 1000)
    with pytest.raises(RunError, match=r" are free, this run needs"):
        train(make_config(), plan=make_tiny_plan())
    assert not Path("run").exists()


def test_training_off_the_main_thread_works_and_leaves_signals_alone(make_config, make_tiny_plan):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(train(make_config(), plan=make_tiny_plan(steps=2)))
    )
    thread.start()
    thread.join()
    train(make_config(out="two"), plan=make_tiny_plan(steps=2))
    assert results[0].step == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_too_little_time_shortens_the_plan_and_run_toml_has_it_so_that_repeating_is_bitwise(
    make_config, make_tiny_plan, fingerprint, monkeypatch
):
    notes = []
    warming = trapezoid(100_000, warmup_steps=50_000, decay_fraction=0.4)  # its end comes before it is warm
    text = Compressibility(ppmd_2=2.5, ppmd_6=1.8, ppmd_16=1.8, unigram=4.3, digits=0.0, nats=0.7)
    with monkeypatch.context() as hurried:
        _hurry(hurried, deadline_s=2.0, text=text)
        result = train(
            make_config(),
            plan=make_tiny_plan(steps=100_000, validate_every=10**9, schedule=warming),
            watch=lambda report: notes.extend(report.notes),
        )
    assert result.time_s < 10
    assert 1 < result.step < 100_000
    moved = [note for note in notes if "slower than planned" in note]
    config, plan = read_settings(Path("run"))
    assert str(predict(text, plan)) in moved[-1]
    assert predict(text, plan).middle > predict(text, make_tiny_plan(steps=100_000)).middle
    assert plan.steps == result.step
    train(make_config(out="again"), plan=plan)
    assert fingerprint(_last("again")) == fingerprint(_last("run"))
    assert config.out == "run"


def _hurry(
    monkeypatch: pytest.MonkeyPatch, *, deadline_s: float, text: Compressibility | None = None
) -> None:
    """A given plan has no deadline and has measured nothing of the text: this one has."""
    real = start.start_run

    def start_run(*arguments, **named):
        run = real(*arguments, **named)
        run.pace.deadline_s, run.pace.text = deadline_s, text
        return run

    monkeypatch.setattr(loop, "start_run", start_run)


# What follows needs processes of its own.


def _settings_file(make_config, plan: Plan) -> None:
    Path("settings").mkdir()
    write_settings(Path("settings"), make_config(checkpoint_seconds=0), plan)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lucidlm", "train", *arguments]


def _wait_for_step(run: str, step: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (
            Path(run, "metrics.jsonl").exists()
            and f'"step": {step},' in Path(run, "metrics.jsonl").read_text()
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} did not reach step {step}")


def _signalled(process: subprocess.Popen, number: int, code: int) -> None:
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    assert process.returncode == code, err
    assert "--resume --out run" in out
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_signals_end_the_command_with_their_code_and_a_checkpoint_and_resuming_is_bitwise(
    make_config, make_tiny_plan, fingerprint, timeless
):
    plan = make_tiny_plan(steps=120, drop_rate=0.1, validate_every=60)
    _settings_file(make_config, plan)
    begin, go_on = ("--config", "settings/run.toml", "--out", "run"), ("--resume", "--out", "run")
    stopped = 0
    for arguments, number, code in ((begin, signal.SIGTERM, 143), (go_on, signal.SIGINT, 130)):
        process = subprocess.Popen(
            _command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        _wait_for_step("run", stopped + 10)
        _signalled(process, number, code)
        before, stopped = stopped, read_history(Path("run")).steps[-1].step
        assert before + 10 <= stopped < 120
        assert _last("run").name == f"step_{stopped:06d}"
    train(make_config(), resume=True)
    train(make_config(out="whole"), plan=plan)
    assert fingerprint(_last("run")) == fingerprint(_last("whole"))
    assert fingerprint(Path("run")) == fingerprint(Path("whole"))
    assert timeless(Path("run")) == timeless(Path("whole"))


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from lucidlm.training import saving, setup, start
from lucidlm.training.loop import train
from lucidlm.training.prediction import Compressibility, predict
from lucidlm.runs.folder import checkpoint_folders
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.probes import Probe
from lucidlm.runtime import files

torch.set_num_threads(1)
saving.SAVING_SHARE = 1e9
setup.probe_matmul = lambda device, dtype: Probe("float32", 1e9, 0.0)
start.fastest_exact_float32 = lambda device: ("stock", "float32: as PyTorch has it")
config, plan = read_settings(Path("settings/run.toml"))
draw, inside = random.Random(int(sys.argv[1])), int(sys.argv[3])

def die_inside_a_save():
    # The k-th fsync or rename of the process is its last call.
    left = draw.randrange(5, 60)
    def counted(real):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return call
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)

kills = 0
while True:
    resume = bool(checkpoint_folders(Path("run")))
    child = os.fork()
    if child == 0:
        if 0 < kills <= inside:
            die_inside_a_save()
        try:
            train(config, plan=None if resume else plan, resume=resume, overwrite=not resume)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kills < int(sys.argv[2]):
        if not 0 < kills <= inside:
            if kills == 0:
                while not checkpoint_folders(Path("run")):
                    time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.4))
            os.kill(child, signal.SIGKILL)
        draw.random()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"the run ended with {status} after {kills} kills")
    if status == 0:
        break
    kills += 1
print(kills)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="its processes are forks, so that none imports torch again"
)
def test_killed_at_random_moments_and_resumed_a_run_is_bitwise_the_uninterrupted_one(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless
):
    plan = make_tiny_plan(steps=30, drop_rate=0.1, validate_every=15)
    _settings_file(make_config, plan)
    seed = 1  # of the moments; what a run has done by then is the machine's matter
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(seed), "8", "3"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    assert int(done.stdout) >= 5, f"seed {seed}: ended after {done.stdout} kills"
    whole = undisturbed(plan)
    assert fingerprint(_last("run")) == fingerprint(_last(whole)), f"seed {seed}"
    assert fingerprint(Path("run")) == fingerprint(whole), f"seed {seed}"
    assert timeless(Path("run")) == timeless(whole), f"seed {seed}"


@pytest.mark.parametrize("warmup_steps", [0, 2])
@pytest.mark.usefixtures("here", "quick_probes")
def test_a_constant_rate_keeps_to_the_minutes_and_stays_constant(
    make_config, make_tiny_plan, monkeypatch, warmup_steps
):
    real = start.start_run

    def hurried(*arguments, **named):
        run = real(*arguments, **named)
        run.pace.deadline_s = 2.0
        return run

    monkeypatch.setattr(loop, "start_run", hurried)
    schedule = trapezoid(100_000, warmup_steps=warmup_steps, decay_fraction=0.0)
    plan = make_tiny_plan(steps=100_000, schedule=schedule, validate_every=10**9)
    result = train(make_config(), plan=plan)
    assert 1 < result.step < 100_000
    shortened = read_settings(Path("run"))[1].schedule
    assert {learning_rate_factor(shortened, step) for step in range(warmup_steps, result.step)} == {1.0}


@pytest.mark.usefixtures("here", "quick_probes")
def test_a_run_that_stopped_early_is_finished_when_resumed(make_config, make_tiny_plan, monkeypatch):
    from lucidlm.runs.history import Validation

    losses = iter(PASSED)

    def validate(model, tokenizer, samples, *, step, epoch, time_s):
        loss = next(losses)
        names = ("loss_nats", "perplexity", "bits_per_byte", "tokens")
        sides = {f"{side}_{name}": loss for side in ("validation", "training") for name in names}
        return Validation(step=step, epoch=epoch, time_s=time_s, **sides)

    monkeypatch.setattr(loop, "validate", validate)
    plan = make_tiny_plan(steps=50, validate_every=1, early_stop=True)
    stopped = train(make_config(), plan=plan)
    assert train(make_config(), resume=True).step == stopped.step


@pytest.mark.usefixtures("here", "quick_probes")
def test_a_line_of_metrics_that_a_full_disk_cut_does_not_end_the_run(
    make_config, make_tiny_plan, monkeypatch
):
    real, written = open, []

    def nearly_full(*arguments, **named):
        file = real(*arguments, **named)
        write = file.write

        class Cut:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, text):
                written.append(text)
                if len(written) == 4:
                    write(text[:20])
                    raise OSError(28, "No space left on device")
                return write(text)

        return Cut()

    monkeypatch.setattr(metrics, "open", nearly_full, raising=False)
    assert train(make_config(), plan=make_tiny_plan()).step == 8


@pytest.mark.usefixtures("here", "quick_probes")
def test_overwrite_deletes_no_run_that_is_in_use(make_config, make_tiny_plan):
    train(make_config(), plan=make_tiny_plan(steps=2))
    program = "from lucidlm.runtime.locks import lock\nwith lock('run'):\n print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="in use"):
            train(make_config(), plan=make_tiny_plan(steps=2), overwrite=True)
        assert Path("run/model.safetensors").exists()
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.usefixtures("here", "quick_probes")
def test_what_a_killed_preparation_left_does_not_block_the_name(make_config, make_tiny_plan):
    # What SIGKILL, SIGTERM or a power cut during prepare() or make_plan() leaves: data/ without run.toml.
    (Path("run") / "data").mkdir(parents=True)
    (Path("run") / "data" / "train.npy").write_bytes(b"half")
    assert train(make_config(), plan=make_tiny_plan(steps=2), overwrite=True).step == 2


@pytest.mark.usefixtures("here", "quick_probes")
def test_a_run_toml_with_another_optimizer_is_refused_by_name(make_config, make_tiny_plan):
    def interrupt(report):
        if report.step.step == 2:
            signal.raise_signal(signal.SIGINT)

    train(make_config(), plan=make_tiny_plan(steps=4), watch=interrupt)
    text = Path("run/run.toml").read_text()
    Path("run/run.toml").write_text(text.replace('name = "muon"', 'name = "adamw"'))
    with pytest.raises(RunError, match="optim"):
        train(make_config(), resume=True)


@pytest.mark.usefixtures("here", "quick_probes")
def test_threads_that_stall_are_left_for_one_and_run_toml_has_it(
    make_config, make_tiny_plan, monkeypatch, fingerprint
):
    real = start.start_run

    def stalled(*arguments, **named):
        run = real(*arguments, **named)
        run.pace.deadline_s, run.pace.one_thread_s = (
            600.0,
            1e-9,
        )  # whatever a step takes, one thread would be faster
        return run

    monkeypatch.setattr(loop, "start_run", stalled)
    told = []
    result = train(
        make_config(), plan=make_tiny_plan(threads=2), watch=lambda report: told.extend(report.notes)
    )
    assert result.step == 8
    assert [note for note in told if "using 1 thread from step 3" in note]
    plan = read_settings(Path("run"))[1]
    assert plan.threads_from == ((3, 1),)
    assert [plan.threads_at(step) for step in (0, 2, 3, 7)] == [2, 2, 1, 1]
    monkeypatch.setattr(loop, "start_run", real)
    train(make_config(out="again"), plan=plan)
    assert fingerprint(_last("again")) == fingerprint(_last("run"))


def test_without_minutes_no_probe_of_speed_changes_the_weights(make_config, monkeypatch, fingerprint):
    chosen = {}
    for faster, seconds in (("stock", 0.1), ("onednn", 0.2)):
        probe = (faster, "float32: the faster one")
        monkeypatch.setattr(start, "fastest_exact_float32", lambda device, probe=probe: probe)
        monkeypatch.setattr(Machine, "seconds_per_step", lambda *_, s=seconds, **__: s)
        out = f"run-{faster}"
        small = {"preset": "modern-1m", "context_length": 16, "batch_tokens": 32}
        train(make_config(out=out, steps=2, threads=0, dtype="auto", **small))
        chosen[out] = read_settings(Path(out))[1], fingerprint(_last(out))
    first, second = chosen.values()
    assert first == second
    assert first[0].float32 == "stock"
