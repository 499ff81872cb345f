"""A model, a text and a machine come in; dtype, threads and the seconds of a step come out, measured."""

import math
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import synchronise
from lucidlm.runtime.probes import probe_matmul, threads_stall, time_of
from lucidlm.runtime.process import available_processors, set_threads
from lucidlm.text.corpus import Corpus, train_documents
from lucidlm.text.windows import Windows
from lucidlm.training.optim import make_optimizers
from lucidlm.training.shapes import block_weights
from lucidlm.training.step import train_step

Dtype = Literal["float32", "bfloat16"]

TRIAL_SHARE = 0.015
"""A single step that takes more than this share of the run is not repeated to be measured better."""
ONE_THREAD_WEIGHTS = 20_000_000
"""With --minutes, a model with fewer block weights is also tried on one thread.

Threads wait for each other after each matmul: where another program used a core, one thread was up to 16
times as fast as two. In larger matmuls the wait is a small part.
"""
FIXED_ONE_THREAD_WEIGHTS = 2_000_000
"""Without --minutes, a model with fewer block weights uses one thread.

A second thread gains such a model little on a quiet machine, and on a contended one it can cost ten times the
time.
"""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast this machine trains one model."""

    dtype: Dtype
    threads: int
    trials: dict[tuple[Dtype, int], float]
    """Seconds of a step for each dtype and number of threads that was tried."""
    untried_threads: int = 0
    """This many threads were not tried, as the CPU is contended; 0 where all were."""

    @property
    def seconds_per_step(self) -> float:
        """Seconds of a step in the dtype and on the threads that were chosen."""
        return self.trials[self.dtype, self.threads]

    @property
    def one_thread_s(self) -> float | None:
        """Seconds of a step on one thread, where that was tried."""
        return self.trials.get((self.dtype, 1))


class Machine:
    """What is measured of this machine before a plan is made."""

    def flops_per_s(self, device: torch.device) -> float:
        """Operations a second of a matmul of a small layer's size, in the faster dtype."""
        dtypes = (torch.float32, torch.bfloat16)
        return max(probe_matmul(device, dtype, size=512).flops_per_s for dtype in dtypes)

    def threads_stall(self, threads: int) -> bool:
        """Whether this many threads are much slower than one now: other programs use the cores."""
        return threads_stall(threads)

    def seconds_per_step(self, trial: "Trial", plan: Plan, *, most: float) -> float:
        """Seconds of a step in the plan's dtype, on its threads; one longer than `most` is not repeated."""
        set_threads(plan.threads)
        began = time.perf_counter()
        trial.step(plan)
        first = time.perf_counter() - began
        if first > most:
            return first
        return time_of(lambda: trial.step(plan), device=trial.device, seconds=0.8, least=2)

    def evaluated_per_s(self, corpus: Corpus, model: GPTConfig, device: torch.device) -> float:
        """Tokens a second of an evaluation."""
        with torch.random.fork_rng():
            copy = GPT(model).to(device)
        probe = next(train_documents(corpus))[: 4 * model.context_length]
        work = lambda: evaluate_documents(copy, corpus.tokenizer, [probe])  # noqa: E731
        return len(probe) / time_of(work, device=device, seconds=0.3, least=2)


class Trial:
    """A copy of the model that is trained with a learning rate of 0 and then thrown away."""

    def __init__(self, corpus: Corpus, plan: Plan, device: torch.device) -> None:
        self.device = device
        self.windows = Windows(corpus.train, plan.model.context_length)
        with torch.random.fork_rng():
            self.model = GPT(plan.model).to(device).train()
        self.optimizers = make_optimizers(self.model, plan.optim)
        self.steps = 0

    def step(self, plan: Plan) -> None:
        """One step of the plan."""
        batch = self.windows.batch_at(seed=0, step=self.steps, batch_size=plan.batch_size)
        train_step(self.model, self.optimizers, batch, plan=plan, seed=0, step=self.steps)
        synchronise(self.device)
        self.steps += 1


def measure_speed(
    config: TrainConfig, corpus: Corpus, plan: Plan, device: torch.device, machine: Machine
) -> Speed:
    """Seconds of a step of `plan`, whose dtype and threads are those of a run without a time limit.

    With --minutes the fastest dtype and number of threads are taken. Without, both are fixed before anything
    is measured, so that no race of speeds changes the weights; the time only says how long the run takes.
    """
    before = torch.get_num_threads()
    trial = Trial(corpus, plan, device)
    still = replace(plan, schedule=((0, 0.0),))
    if config.seconds is None:
        seconds = machine.seconds_per_step(trial, still, most=math.inf)
        set_threads(before)
        return Speed(plan.dtype, plan.threads, {(plan.dtype, plan.threads): seconds})
    several, untried = before, 0
    dtypes: tuple[Dtype, ...] = (plan.dtype,)
    if config.dtype == "auto" and device.type != "cuda":
        dtypes = ("float32", "bfloat16")
    tries_one = (
        config.threads == 0 and device.type == "cpu" and block_weights(plan.model) < ONE_THREAD_WEIGHTS
    )
    if tries_one and several > 1 and machine.threads_stall(several):
        # One step on them would take as long as the whole plan.
        several, untried = 1, several
    slow = TRIAL_SHARE * config.seconds
    trials: dict[tuple[Dtype, int], float] = {}
    for threads in sorted({several, 1}) if tries_one else [several]:
        # The faster dtype on one thread is the faster one on more: it is searched once.
        for dtype in [min(trials, key=trials.__getitem__)[0]] if trials else dtypes:
            most = min(3 * min(trials.values(), default=math.inf), slow)
            tried = replace(still, dtype=dtype, threads=threads)
            trials[dtype, threads] = machine.seconds_per_step(trial, tried, most=most)
    set_threads(before)
    return Speed(*min(trials, key=trials.__getitem__), trials, untried)


def fixed_dtype(config: TrainConfig, device: torch.device) -> Dtype:
    """dtype of a run without a time limit: the one asked for, else by the kind of device alone."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def fixed_threads(config: TrainConfig, model: GPTConfig, device: torch.device) -> int:
    """Threads of a run without a time limit: the number asked for, else by the model's size alone."""
    small = device.type == "cpu" and block_weights(model) < FIXED_ONE_THREAD_WEIGHTS
    return config.threads or (1 if small else available_processors())
