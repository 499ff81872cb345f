"""A run begins whole or leaves nothing, and takes no place of another."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import last_of

from lucidlm.errors import ConfigError, RunError
from lucidlm.runs.run_toml import read_settings
from lucidlm.runtime.probes import Probe
from lucidlm.training import setup, start
from lucidlm.training.loop import train
from lucidlm.training.speed import Machine

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


@pytest.mark.parametrize("option", [{"split": "end"}, {"val_fraction": 0.2}, {"val": ("book.txt",)}])
def test_a_prepared_folder_keeps_its_held_out_part(make_config, make_tiny_plan, option):
    from lucidlm.text.preparation import prepare

    prepare("book.txt", "prepared", tokenizer="bytes")
    with pytest.raises(ConfigError, match=r"--(split|val).* was chosen when it was prepared"):
        train(make_config(text="prepared", **option), plan=make_tiny_plan())
    assert not Path("run").exists()


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(make_config, make_tiny_plan, monkeypatch):
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(start, "assemble", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(make_config(), plan=make_tiny_plan())
    assert [path.name for path in Path().iterdir()] == ["book.txt"]


def test_a_run_is_never_overwritten_unasked(make_config, make_tiny_plan, fingerprint):
    train(make_config(), plan=make_tiny_plan(steps=2))
    before = fingerprint(last_of("run"))
    with pytest.raises(RunError, match="--resume or --overwrite"):
        train(make_config(), plan=make_tiny_plan(steps=3))
    assert fingerprint(last_of("run")) == before
    assert train(make_config(), plan=make_tiny_plan(steps=3), overwrite=True).step == 3


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


def test_what_a_killed_preparation_left_does_not_block_the_name(make_config, make_tiny_plan):
    # What SIGKILL, SIGTERM or a power cut during prepare() or make_plan() leaves: data/ without run.toml.
    (Path("run") / "data").mkdir(parents=True)
    (Path("run") / "data" / "train.npy").write_bytes(b"half")
    assert train(make_config(), plan=make_tiny_plan(steps=2), overwrite=True).step == 2


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(
    make_config, make_tiny_plan, monkeypatch
):
    monkeypatch.setattr(start, "free_bytes", lambda path: 1000)
    with pytest.raises(RunError, match=r" are free, this run needs"):
        train(make_config(), plan=make_tiny_plan())
    assert not Path("run").exists()


def test_without_minutes_no_probe_of_speed_changes_the_weights(make_config, monkeypatch, fingerprint):
    chosen = {}
    for faster, seconds in (("stock", 0.1), ("onednn", 0.2)):
        probe = (faster, "float32: the faster one")
        monkeypatch.setattr(start, "fastest_exact_float32", lambda device, probe=probe: probe)
        monkeypatch.setattr(Machine, "seconds_per_step", lambda *_, s=seconds, **__: s)
        out = f"run-{faster}"
        small = {"preset": "modern-1m", "context_length": 16, "batch_tokens": 32}
        train(make_config(out=out, steps=2, threads=0, dtype="auto", **small))
        chosen[out] = read_settings(Path(out))[1], fingerprint(last_of(out))
    first, second = chosen.values()
    assert first == second
    assert first[0].float32 == "stock"


@pytest.mark.parametrize(("workers", "cores"), [(0, 3), (2, 2)])
def test_the_peak_is_that_of_the_cores_that_a_step_computes_on(
    make_config, make_tiny_plan, monkeypatch, workers, cores
):
    counts = []
    monkeypatch.setattr(
        setup,
        "probe_matmul",
        lambda device, dtype: counts.append(torch.get_num_threads()) or Probe("", 1e9, 0.0),
    )
    train(make_config(threads=2), plan=make_tiny_plan(steps=1, threads=3, workers=workers))
    assert counts == [cores]
