"""Reports of a training in, curves in other programs out: TensorBoard, Weights & Biases, Trackio.

A tracker is any function that gets a Report, as `watch` of `lucidlm.train` is. None of these packages is
imported unless a run asks for it.
"""

import contextlib
import dataclasses
import importlib
import math
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from lucidlm.errors import ConfigError
from lucidlm.runs.curves import FOLDER, Curves, has_tensorboard
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.progress import Progress
from lucidlm.training.state import Report, TrainingRun

Tracker = Callable[[Report], None]

PROJECT = "lucidlm"
"""Where runs are found in Weights & Biases and in Trackio."""
STEP_NUMBERS = ("loss_nats", "learning_rate_factor", "grad_norm", "tokens_per_s")
VALIDATION_NUMBERS = ("loss_nats", "perplexity", "bits_per_byte")


def check_trackers(config: TrainConfig) -> None:
    """ConfigError where a package of a tracker that the run asks for is not installed."""
    if config.tensorboard and not has_tensorboard():
        raise ConfigError(
            f"--tensorboard needs the package tensorboard: {sys.executable} -m pip install tensorboard"
        )
    if config.track is not None:
        try:
            importlib.import_module(config.track)
        except ImportError:
            raise ConfigError(
                f"--track {config.track}: this package is not installed; pip install 'lucidlm[track]'"
            ) from None


def numbers_of(report: Report) -> dict[str, float]:
    """The curves' names and values: of the step, and of the validation where there was one."""
    found = {}
    if math.isfinite(report.step.loss_nats):  # before the first step there is no loss of a batch
        found = {f"step/{name}": getattr(report.step, name) for name in STEP_NUMBERS}
    if report.validation is not None:
        for side in ("validation", "training"):
            for name in VALIDATION_NUMBERS:
                found[f"{name}/{side}"] = getattr(report.validation, f"{side}_{name}")
    return found


class Trackers:
    """The trackers that a run asks for. One that fails costs no training: that is noted once."""

    def __init__(self, run: TrainingRun, stack: contextlib.ExitStack, progress: Progress) -> None:
        self.progress = progress
        self.failed: set[str] = set()
        self.trackers: dict[str, Tracker] = {}
        if run.config.tensorboard:
            self.trackers[str(run.folder / FOLDER)] = tensorboard(run.folder)
        if run.config.track is not None:
            with self._noted(run.config.track):
                self.trackers[run.config.track] = self._begun(run, run.config.track, stack)

    def __call__(self, report: Report) -> None:
        """Gives the report to each tracker."""
        for name, tracker in self.trackers.items():
            with self._noted(name):
                tracker(report)

    def _begun(self, run: TrainingRun, name: str, stack: contextlib.ExitStack) -> Tracker:
        """A tracker for wandb or trackio, whose functions have the same names; `stack` ends its run."""
        library = importlib.import_module(name)
        settings = {"settings": dataclasses.asdict(run.config), "plan": dataclasses.asdict(run.plan)}
        library.init(project=PROJECT, name=run.folder.name, config=settings)

        def finish() -> None:
            with self._noted(name):
                library.finish()

        stack.callback(finish)
        return lambda report: library.log(numbers_of(report), step=report.step.step)

    @contextlib.contextmanager
    def _noted(self, name: str) -> Generator[None]:
        try:
            yield
        except Exception as error:  # of another program: its network, its disk, its account
            if name not in self.failed:
                reason = error.strerror if isinstance(error, OSError) else None
                self.progress.note(
                    f"{name} cannot be written ({reason or error}); training goes on without it"
                )
            self.failed.add(name)


def tensorboard(run: Path) -> Tracker:
    """A tracker that writes TensorBoard's event files into the run's folder."""
    curves = Curves(run)

    def track(report: Report) -> None:
        curves.numbers(report.step.step, numbers_of(report))
        if report.sample is not None:
            curves.text(report.step.step, "sample", report.sample)

    return track
