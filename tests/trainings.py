"""What the tests of training share: a made-up book, a plan of half a second, a hash of what it made."""

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from inspect import BoundArguments
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclopts import App
from models import SMALLEST, made_up_text
from run_folders import Said
from safetensors.numpy import load_file

from lucidlm.cli import main
from lucidlm.model.presets import PLAIN
from lucidlm.report import assessment
from lucidlm.report.assessment import Assessment, Background, assess
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.history import Validation
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime import probes
from lucidlm.text.corpus import Corpus
from lucidlm.text.preparation import prepare
from lucidlm.training import finish, loop, saving, speed, start, validation
from lucidlm.training.pace import Pace
from lucidlm.training.plan import Planned, make_plan
from lucidlm.training.schedule import trapezoid
from lucidlm.training.speed import Machine

SECONDS_PER_STEP = 0.1
SAVING_SHARE = saving.SAVING_SHARE
TIME_OR_SPEED = ("time_s", "tokens_per_s", "mfu")


def last_of(run: str | Path) -> Path:
    """The newest checkpoint of a run."""
    return checkpoint_folders(Path(run))[-1]


def stop_after(step: int, number: int) -> Callable[[loop.Report], None]:
    """A watcher that sends this process a signal in a step, as a terminal or a cluster would."""

    def watch(report: loop.Report) -> None:
        if report.step.step == step:
            signal.raise_signal(number)

    return watch


def made_up_validations(monkeypatch: pytest.MonkeyPatch, losses: Iterator[float]) -> None:
    """Each validation has the next of these losses, and the validation loss is 9 after them."""

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


def begun_run(name: str = "run") -> Path:
    """The folder of a run that has nothing but a run.toml."""
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text("steps = 1\n")
    return folder


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder of the test, with nothing in it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a book in it."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(made_up_text(), encoding="utf-8")
    return tmp_path


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is timed: the speeds of this machine are not what these tests ask for."""
    from lucidlm.runtime.probes import Probe
    from lucidlm.training import setup

    measure_once(monkeypatch)
    monkeypatch.setattr(setup, "probe_matmul", lambda device, dtype: Probe(str(dtype), 1e9, 0.0))
    monkeypatch.setattr(start, "fastest_exact_float32", lambda device: ("stock", "float32: stock"))


def judge_little(patch: pytest.MonkeyPatch) -> None:
    """The model generates little at validations and at the end: what is made of it has tests of its own."""
    patch.setattr(assessment, "PROMPTS", 2)
    patch.setattr(assessment, "WRITTEN_TEXTS", 1)
    patch.setattr(assessment, "WRITTEN_TOKENS", 32)
    patch.setattr(validation, "SAMPLE_CHARACTERS", 20)


def measure_once(patch: pytest.MonkeyPatch) -> None:
    """What is timed runs once, instead of for a second: no test asks how fast this machine is."""

    def time_once(work, *, device, seconds, least=3, clock=time.perf_counter):
        began = clock()
        work()
        return clock() - began

    patch.setattr(probes, "time_of", time_once)
    patch.setattr(speed, "time_of", time_once)


@pytest.fixture
def quick_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model generates little."""
    judge_little(monkeypatch)


@pytest.fixture
def make_config() -> Callable[..., TrainConfig]:
    """make_config(**changes): a request for a run on the made-up book, on one CPU thread in float32."""

    def make(**changes: Any) -> TrainConfig:
        settings = {"text": "book.txt", "out": "run", "tokenizer": "bytes", "device": "cpu", "threads": 1}
        return TrainConfig(**(settings | {"dtype": "float32"} | changes))

    return make


@pytest.fixture
def make_tiny_plan() -> Callable[..., Plan]:
    """make_tiny_plan(steps=8, optimizer="muon", **changes): a plan of a few milliseconds a step."""

    def make(
        *, steps: int = 8, optimizer: str = "muon", drop_rate: float = 0.0, decay: float = 0.5, **changes: Any
    ) -> Plan:
        optim = replace(
            PLAIN, name=optimizer, lr=4e-3, matrix_lr=0.02, weight_decay=0.05, warmup_steps=2,
            decay_fraction=decay, clip=1.0,
        )  # fmt: skip
        settings = {
            "model": SMALLEST.changed(drop_rate=drop_rate),
            "optim": optim,
            "batch_size": 4,
            "micro_batch": 2,
            "steps": steps,
            "schedule": trapezoid(steps, warmup_steps=2, decay_fraction=decay),
            "validate_every": 4,
            "validation_tokens": 128,
            "dtype": "float32",
            "threads": 1,
            "early_stop": False,
        }
        return Plan(**(settings | changes))

    return make


@pytest.fixture
def fingerprint() -> Callable[[Path], str]:
    """fingerprint(folder): SHA-256 over names and bytes of all tensors in the folder's .safetensors files."""

    def hash_tensors(folder: Path) -> str:
        digest = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            for name, tensor in sorted(load_file(file).items()):
                digest.update(f"{file.name}/{name}/{tensor.shape}/{tensor.dtype}".encode())
                digest.update(tensor.tobytes())
        return digest.hexdigest()

    return hash_tensors


@pytest.fixture
def timeless() -> Callable[[Path], list[dict]]:
    """timeless(run): the lines of metrics.jsonl in order, without what a clock measured."""

    def read(run: Path) -> list[dict]:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [
            {key: value for key, value in json.loads(line).items() if key not in TIME_OR_SPEED}
            for line in lines
        ]

    return read


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[Plan, Path]:
    """The runs that were never disturbed, by their plan: several tests compare with the same one."""
    return {}


@pytest.fixture
def undisturbed(
    make_config, finished: dict[Plan, Path], tmp_path_factory, here, quick_probes, quick_judging
) -> Callable[[Plan], Path]:
    """undisturbed(plan): the folder of a run that went from start to end, to be looked at only."""

    def run(plan: Plan) -> Path:
        if plan not in finished:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            with pytest.MonkeyPatch.context() as patch:
                # The same run whether or not the test that asks first has `save_always`.
                patch.setattr(saving, "SAVING_SHARE", SAVING_SHARE)
                loop.train(make_config(out=str(folder)), plan=plan)
            finished[plan] = folder
        return finished[plan]

    return run


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step, however long a save takes."""
    monkeypatch.setattr(saving, "SAVING_SHARE", 1e9)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """say("info", run): what the command line answers; a traceback fails the test."""

    def run(*words: str | Path) -> Said:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err, words
        return Said(code, out, err)

    return run


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs stand that are made once and copied."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def run(here, quick_probes, shelf, make_config, make_tiny_plan, monkeypatch) -> Callable[..., Path]:
    """run("one", seed=1): a fresh copy of a finished run of 4 steps on a few sentences, called "one".

    stopped=2: of one that a signal ended after so many steps. Its baselines and its page are left out, one
    thread computes and no disk is waited for: other tests are for these.
    """

    def assess_alone(model, tokenizer, text, background, **others) -> Assessment:
        return assess(model, tokenizer, text, Background())

    def write_sample(model, tokenizer, samples, *, step) -> dict[str, Any]:
        return {"step": step, "prompt": "", "text": "", "probe_ids": [1], "probe_log_probabilities": [-1.0]}

    def page(path: Path, *words: Any, **others: Any) -> None:
        path.write_text("a page")

    monkeypatch.setattr(finish, "assess", assess_alone)
    monkeypatch.setattr(loop, "write_sample", write_sample)
    monkeypatch.setattr(finish, "write_report", page)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def copied(name: str = "run", *, stopped: int = 0, **changes: Any) -> Path:
        Path("book.txt").write_text(made_up_text(sentences=16), encoding="utf-8")
        Path("short.txt").write_text("Nobody knew why.\n")
        stored = shelf / "-".join(
            ("run", f"{stopped}", *(f"{key}={changes[key]}" for key in sorted(changes)))
        )

        def watch(report: loop.Report) -> None:
            if stopped and report.step.step == stopped:
                os.kill(os.getpid(), signal.SIGINT)

        if not stored.exists():
            if changes.get("text") == "prepared":
                prepare("book.txt", "prepared", tokenizer="bytes")
            plan = make_tiny_plan(steps=4, validate_every=2, validation_tokens=32)
            loop.train(make_config(out=str(stored), **changes), plan=plan, watch=watch)
        shutil.copytree(stored, name)
        return Path(name)

    return copied


@pytest.fixture(scope="session")
def parsed() -> dict[tuple[str, ...], tuple]:
    """Command lines as they were parsed."""
    return {}


@pytest.fixture
def quick_commands(parsed, monkeypatch) -> None:
    """A command line is parsed once, and no paragraph is explained: half of the time goes there."""
    parse = App.parse_args

    def parse_once(app: App, words: Sequence[str], **settings: Any) -> tuple:
        key = tuple(words)
        if "--config" in key:
            return parse(app, words, **settings)
        if key not in parsed:
            parsed[key] = parse(app, words, **settings)
        verb, bound, unparsed = parsed[key]
        return verb, BoundArguments(bound.signature, OrderedDict(bound.arguments)), unparsed

    monkeypatch.setattr(App, "parse_args", parse_once)
    monkeypatch.setattr(assessment, "explained_paragraph", lambda *inputs: None)


class KnownMachine(Machine):
    """A machine of known speed: what a plan makes of it can be computed by hand."""

    def __init__(self, *, fast: str | None = None, evaluated_per_s: float = 25_600.0) -> None:
        self.fast = fast
        self.tokens_per_s = evaluated_per_s

    def flops_per_s(self, device, *, cores):
        return 5e10

    def seconds_per_step(self, trial, plan, *, most):
        if self.fast is None:
            return SECONDS_PER_STEP * (0.5 if plan.dtype == "bfloat16" else 1.0)
        return SECONDS_PER_STEP * (0.1 if plan.dtype == self.fast else 1.0)

    def evaluated_per_s(self, corpus, model, device):
        return self.tokens_per_s


@pytest.fixture(scope="session")
def plan_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A book of 60 KB, as bytes."""
    folder = tmp_path_factory.mktemp("plan")
    draw = random.Random(0)
    words = ["river", "stone", "nobody", "light", "the", "a", "of", "ran", "past", "late"]
    (folder / "book.txt").write_text("".join(f"{draw.choice(words)} " for _ in range(11_000)))
    return prepare(folder / "book.txt", folder / "data", tokenizer="bytes")


@pytest.fixture
def plan_for(plan_corpus: Corpus) -> Callable[..., Planned]:
    """plan_for(**settings): the plan of a request, on one thread in float32 where not said otherwise."""

    def make(
        text: Corpus = plan_corpus, *, machine: Machine | None = None, base=None, **settings: Any
    ) -> Planned:
        defaults = {"threads": 1, "dtype": "float32", "preset": "modern-1m"}
        asked = TrainConfig(**(defaults | settings))
        return make_plan(
            asked,
            text,
            torch.device("cpu"),
            pace=Pace(deadline_s=asked.seconds),
            machine=machine or KnownMachine(),
            base=base,
        )

    return make
