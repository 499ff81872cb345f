"""A run writes what others need, learns, keeps its best weights, and stops when they are long past."""

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from trainings import last_of, made_up_validations, stop_after

from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.history import read_history
from lucidlm.runs.run_toml import read_settings
from lucidlm.text.corpus import open_corpus
from lucidlm.training import loop
from lucidlm.training.loop import train

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


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


def test_a_run_is_trained_on_its_training_text_alone(make_config, make_tiny_plan, monkeypatch):
    batches, step = [], loop.train_step

    def watched(model, optimizers, batch, **settings):
        batches.append(batch)
        return step(model, optimizers, batch, **settings)

    monkeypatch.setattr(loop, "train_step", watched)
    train(make_config(), plan=make_tiny_plan())
    corpus = open_corpus("run/data")
    training = np.asarray(corpus.train[:], np.int64).tobytes()
    held_out = np.asarray(corpus.validation[:], np.int64).tobytes()
    rows = [np.append(inputs, targets[-1]) for batch in batches for inputs, targets in zip(*batch)]
    assert len(rows) == 32
    # One of them goes from the end of the text to its beginning; the last one of an epoch is short.
    assert sum(row.tobytes() not in training for row in rows) <= 2
    assert not any(row[:12].tobytes() in held_out for row in rows)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_validating_changes_no_bit_of_the_weights(make_config, make_tiny_plan, fingerprint, optimizer):
    for out, every in (("often", 1), ("never", 10**9)):
        train(
            make_config(out=out),
            plan=make_tiny_plan(optimizer=optimizer, drop_rate=0.1, validate_every=every),
        )
    assert len(read_history(Path("often")).validations) > len(read_history(Path("never")).validations)
    assert fingerprint(last_of("often")) == fingerprint(last_of("never"))


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
    made_up_validations(monkeypatch, losses)
    train(make_config(), plan=make_tiny_plan(validate_every=2))
    history = read_history(Path("run"))
    assert history.best.step == 2
    train(make_config(out="short"), plan=read_settings(Path("run"))[1], watch=stop_after(2, signal.SIGINT))
    from safetensors.numpy import load_file

    best, second = load_file("run/model.safetensors"), load_file(last_of("short") / "model.safetensors")
    assert {name: tensor.tobytes() for name, tensor in best.items()} == {
        name: tensor.tobytes() for name, tensor in second.items()
    }
    last = load_file(last_of("run") / "model.safetensors")
    assert any((best[name] != last[name]).any() for name in best)


PASSED = [5.0, 4.0, 3.0, *(3.0 + 0.1 * place for place in range(1, 60))]


def test_training_stops_when_the_validation_loss_has_passed_its_best_for_good(
    make_config, make_tiny_plan, monkeypatch
):
    made_up_validations(monkeypatch, iter(PASSED))
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


def test_a_run_that_stopped_early_is_finished_when_resumed(make_config, make_tiny_plan, monkeypatch):
    made_up_validations(monkeypatch, iter(PASSED))
    plan = make_tiny_plan(steps=50, validate_every=1, early_stop=True)
    stopped = train(make_config(), plan=plan)
    assert train(make_config(), resume=True).step == stopped.step


def test_no_early_stop_goes_to_the_end_of_the_plan(make_config, make_tiny_plan, monkeypatch):
    made_up_validations(monkeypatch, iter(PASSED))
    result = train(make_config(), plan=make_tiny_plan(steps=12, validate_every=1, early_stop=False))
    assert result.step == 12


def test_a_bump_on_the_way_down_stops_nothing(make_config, make_tiny_plan, monkeypatch):
    made_up_validations(monkeypatch, iter([5.0, 4.0, 4.2, 4.1, 3.9, 4.0, 3.8, 3.7, 3.9, 3.6, 3.5, 3.4]))
    result = train(make_config(), plan=make_tiny_plan(steps=11, validate_every=1, early_stop=True))
    assert result.step == 11


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
