"""A run is a function of its settings: the same twice, and the same interrupted or not."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import END_OF_TEXT
from recorded import Recorded
from trainings import last_of, stop_after

from lucidlm.errors import RunError
from lucidlm.runs.history import read_history
from lucidlm.runs.run_toml import read_settings
from lucidlm.training.loop import train

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


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
        assert fingerprint(last_of(other)) == fingerprint(last_of("one"))
        assert fingerprint(Path(other)) == fingerprint(Path("one"))
        assert timeless(Path(other)) == timeless(Path("one"))
        assert Path(other, "samples.jsonl").read_bytes() == Path("one/samples.jsonl").read_bytes()


def test_another_seed_is_another_run(make_config, make_tiny_plan, fingerprint):
    train(make_config(out="one"), plan=make_tiny_plan(steps=2))
    train(make_config(out="two", seed=124), plan=make_tiny_plan(steps=2))
    assert fingerprint(last_of("one")) != fingerprint(last_of("two"))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_an_interrupted_and_resumed_run_is_bitwise_the_uninterrupted_one(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless, optimizer, drop_rate, decay
):
    plan = make_tiny_plan(optimizer=optimizer, drop_rate=drop_rate, decay=decay)
    whole = undisturbed(plan)
    # Step 5 lies between two validations and in the middle of an epoch.
    stopped = train(make_config(), plan=plan, watch=stop_after(5, signal.SIGINT))
    assert (stopped.interrupted, stopped.step, stopped.evaluation) == (signal.SIGINT, 5, None)
    assert read_history(stopped.run).final is None
    finished = train(make_config(), resume=True)
    assert (finished.interrupted, finished.step) == (0, 8)
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))
    assert fingerprint(Path("run")) == fingerprint(whole)
    optimizers = [(last_of(run) / "optimizer.safetensors").read_bytes() for run in ("run", whole)]
    assert optimizers[0] == optimizers[1]
    assert timeless(Path("run")) == timeless(whole)
    assert Path("run/samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_resuming_is_bitwise_in_bfloat16_too(make_config, make_tiny_plan, undisturbed, fingerprint):
    plan = make_tiny_plan(dtype="bfloat16", drop_rate=0.1)
    whole = undisturbed(plan)
    train(make_config(), plan=plan, watch=stop_after(3, signal.SIGINT))
    train(make_config(), resume=True)
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))


def test_a_run_that_is_interrupted_in_every_step_is_bitwise_the_uninterrupted_one(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless
):
    plan = make_tiny_plan(steps=6, drop_rate=0.1, validate_every=2)
    whole = undisturbed(plan)
    result = train(make_config(), plan=plan, watch=stop_after(0, signal.SIGTERM))
    while result.interrupted:
        assert result.interrupted == signal.SIGTERM
        result = train(make_config(), resume=True, watch=stop_after(result.step + 1, signal.SIGTERM))
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))
    assert fingerprint(Path("run")) == fingerprint(whole)
    assert timeless(Path("run")) == timeless(whole)


def test_a_finished_run_that_is_resumed_stays_as_it_is(make_config, make_tiny_plan, fingerprint, timeless):
    train(make_config(), plan=make_tiny_plan(steps=3))
    before = fingerprint(Path("run")), fingerprint(last_of("run")), timeless(Path("run"))
    result = train(make_config(), resume=True)
    assert (result.step, result.interrupted) == (3, 0)
    assert result.evaluation is not None
    assert (fingerprint(Path("run")), fingerprint(last_of("run")), timeless(Path("run"))) == before


def test_resuming_from_a_damaged_checkpoint_goes_one_step_back_says_so_and_ends_bitwise_equal(
    make_config, make_tiny_plan, undisturbed, fingerprint, timeless, save_always
):
    plan = make_tiny_plan(drop_rate=0.1)
    whole = undisturbed(plan)
    train(make_config(checkpoint_seconds=0), plan=plan, watch=stop_after(5, signal.SIGINT))
    newest = last_of("run") / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    said = []
    train(make_config(), resume=True, progress=Recorded(said))
    assert any("step_000005 is damaged" in line for line in said)
    assert any("at step 4" in line for line in said)
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))
    assert timeless(Path("run")) == timeless(whole)


def test_a_torn_last_line_of_metrics_is_written_anew(make_config, make_tiny_plan, undisturbed, timeless):
    plan = make_tiny_plan()
    whole = undisturbed(plan)
    train(make_config(), plan=plan, watch=stop_after(4, signal.SIGINT))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(f"run/{name}", "a") as file:
            file.write('{"event": "step", "step": 6, "lo')
    train(make_config(), resume=True)
    assert timeless(Path("run")) == timeless(whole)


def test_a_second_trainer_on_the_folder_is_refused_at_once_and_a_dead_ones_lock_is_not(
    make_config, make_tiny_plan, record_property
):
    plan = make_tiny_plan(steps=4)
    train(make_config(), plan=plan, watch=stop_after(1, signal.SIGINT))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(RunError, match=rf"run is in use by another lucidlm process \(pid {holder.pid}\)"):
            train(make_config(), resume=True)
        took_s = time.monotonic() - started
        record_property("seconds until the second trainer is refused", took_s)
        assert took_s < 2
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
    train(make_config(), plan=make_tiny_plan(), watch=stop_after(2, signal.SIGINT))
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
    train(make_config(), plan=make_tiny_plan(), watch=stop_after(2, signal.SIGINT))
    Path("book.txt").write_text("another book")
    train(make_config(), resume=True)
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))


def test_a_prepared_folder_is_trained_on_in_place_and_refused_when_prepared_anew(
    make_config, make_tiny_plan, undisturbed, fingerprint
):
    from lucidlm.text.preparation import prepare

    prepare("book.txt", "prepared", tokenizer="bytes")
    whole = undisturbed(make_tiny_plan())
    train(make_config(text="prepared"), plan=make_tiny_plan(), watch=stop_after(2, signal.SIGINT))
    assert not list(Path("run/data").glob("*.npy"))
    train(make_config(), resume=True)
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))
    train(
        make_config(out="other", text="prepared"), plan=make_tiny_plan(), watch=stop_after(2, signal.SIGINT)
    )
    Path("book.txt").write_text(Path("book.txt").read_text().swapcase())
    prepare("book.txt", "prepared", tokenizer="bytes")
    with pytest.raises(RunError, match="prepared again since the run began"):
        train(make_config(out="other"), resume=True)


def test_a_prepared_folder_that_is_gone_is_named_on_resume(make_config, make_tiny_plan):
    from lucidlm.text.preparation import prepare

    prepare("book.txt", "prepared", tokenizer="bytes")
    train(make_config(text="prepared"), plan=make_tiny_plan(), watch=stop_after(2, signal.SIGINT))
    Path("prepared").rename("elsewhere")
    with pytest.raises(RunError, match=r"its text is not what it was trained on: .*prepared"):
        train(make_config(), resume=True)


def test_a_run_toml_of_another_shape_is_refused_with_both_shapes(make_config, make_tiny_plan):
    train(make_config(), plan=make_tiny_plan(), watch=stop_after(2, signal.SIGINT))
    text = Path("run/run.toml").read_text()
    assert "n_layers = 2" in text
    Path("run/run.toml").write_text(text.replace("n_layers = 2", "n_layers = 3"))
    with pytest.raises(RunError, match=r"n_layers=2.*n_layers=3"):
        train(make_config(), resume=True)


def test_a_run_toml_with_another_optimizer_is_refused_by_name(make_config, make_tiny_plan):
    def interrupt(report):
        if report.step.step == 2:
            signal.raise_signal(signal.SIGINT)

    train(make_config(), plan=make_tiny_plan(steps=4), watch=interrupt)
    text = Path("run/run.toml").read_text()
    Path("run/run.toml").write_text(text.replace('name = "muon"', 'name = "adamw"'))
    with pytest.raises(RunError, match="optim"):
        train(make_config(), resume=True)


def test_resuming_what_is_no_run_says_so(make_config):
    Path("empty").mkdir()
    for out in ("empty", "nowhere"):
        with pytest.raises(RunError, match=f"{out} holds no run"):
            train(make_config(out=out), resume=True)
        assert not Path("nowhere").exists()
