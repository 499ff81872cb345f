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
from lucidlm.runtime.distributed import ALONE, World
from lucidlm.runtime.probes import probe_matmul, time_of
from lucidlm.runtime.process import available_processors, set_threads
from lucidlm.text.corpus import Corpus, train_documents
from lucidlm.text.windows import Windows
from lucidlm.training.gradient import Gradient
from lucidlm.training.optim import make_optimizers
from lucidlm.training.shapes import block_weights, cpu_flops_per_s, trainable_flops
from lucidlm.training.step import train_step
from lucidlm.training.workers import gradient_of

Dtype = Literal["float32", "bfloat16"]

TRIAL_SHARE = 0.015
"""A single step that takes more than this share of the run is not repeated to be measured better."""
SMALL_WEIGHTS = 20_000_000
"""A model with fewer block weights is evaluated on one thread.

Threads that share a matmul wait for each other after each one: where another program used a core, one thread
was up to 16 times as fast as two. In larger matmuls the wait is a small part.
"""
WORKERS = 2
"""Without --minutes, on a CPU: the same on every machine, as the rounding of sums depends on it."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast this machine trains one model."""

    dtype: Dtype
    trials: dict[Dtype, float]
    """Seconds of a step in each dtype that was tried."""

    @property
    def seconds_per_step(self) -> float:
        """Seconds of a step in the dtype that was chosen."""
        return self.trials[self.dtype]


class Machine:
    """What is measured of this machine before a plan is made."""

    def flops_per_s(self, device: torch.device, *, cores: int) -> float:
        """Operations a second of a matmul of a small layer's size, in the faster dtype.

        Of a CPU by its instructions and `cores`: it decides on the shape, which no busy minute may change.
        """
        if device.type == "cpu":
            return cpu_flops_per_s(cores)
        dtypes = (torch.float32, torch.bfloat16)
        return max(probe_matmul(device, dtype, size=512).flops_per_s for dtype in dtypes)

    def seconds_per_step(self, trial: "Trial", plan: Plan, *, most: float) -> float:
        """Seconds of a step in the plan's dtype; one longer than `most` is not repeated."""
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

    def __init__(self, config: TrainConfig, corpus: Corpus, plan: Plan, device: torch.device) -> None:
        self.device, self.config = device, config
        self.windows = Windows(corpus.train, plan.model.context_length)
        with torch.random.fork_rng():
            self.model = GPT(plan.model).to(device).train()
        self.optimizers = make_optimizers(self.model, plan.optim, parts=max(1, plan.workers))
        self.gradient: tuple[Dtype, Gradient] | None = None
        self.steps = 0

    def step(self, plan: Plan) -> None:
        """One step of the plan."""
        if self.gradient is None or self.gradient[0] != plan.dtype:
            plain = replace(plan, compile=False)  # compiling takes longer than the trial
            self.gradient = plan.dtype, gradient_of(self.model, plain, config=self.config)
        batch = self.windows.batch_at(seed=0, step=self.steps, batch_size=plan.batch_size)
        train_step(
            self.model,
            self.optimizers,
            batch,
            gradient=self.gradient[1],
            plan=plan,
            seed=0,
            step=self.steps,
        )
        synchronise(self.device)
        self.steps += 1


def measure_speed(
    config: TrainConfig,
    corpus: Corpus,
    plan: Plan,
    device: torch.device,
    machine: Machine,
    world: World = ALONE,
) -> Speed:
    """Seconds of a step of `plan`, whose dtype is that of a run without a time limit.

    With --minutes the fastest dtype is taken. Without, it is fixed before anything is measured, so that no
    race of speeds changes the weights; the time only says how long the run takes. Of other processes in the
    `world` each has its rows of a step. Where they divide the weights, a whole model may not fit into one,
    and the time is reckoned from the speed of matmuls.
    """
    set_threads(plan.threads)
    if world.shards > 1:
        speed = machine.flops_per_s(device, cores=config.threads or available_processors())
        flops = plan.model.flops_per_token() * plan.batch_tokens / world.size
        return Speed(plan.dtype, {plan.dtype: flops / trainable_flops(device.type, speed, 1.0)})
    if not world.alone:
        plan = replace(plan, batch_size=len(world.rows(plan.batch_size)), workers=0)
    trial = Trial(config, corpus, plan, device)
    still = replace(plan, schedule=((0, 0.0),))
    dtypes: tuple[Dtype, ...] = (plan.dtype,)
    if config.timed and config.dtype == "auto" and device.type != "cuda":
        dtypes = ("float32", "bfloat16")
    trials: dict[Dtype, float] = {}
    for dtype in dtypes:
        most = math.inf
        if config.seconds is not None:
            most = min(3 * min(trials.values(), default=math.inf), TRIAL_SHARE * config.seconds)
        trials[dtype] = machine.seconds_per_step(trial, replace(still, dtype=dtype), most=most)
    return Speed(min(trials, key=trials.__getitem__), trials)


def fixed_dtype(config: TrainConfig, device: torch.device) -> Dtype:
    """dtype of a run without a time limit: the one asked for, else by the kind of device alone."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def workers_for(config: TrainConfig, device: torch.device, *, batch_size: int) -> int:
    """Workers on a CPU, each with at least one window of a batch; 0 on a GPU, compiled or with checkpointing.

    A compiled model has one copy. Workers take dropout's masks from a tape, which gives a block that is
    computed again (--checkpointing) other ones.
    """
    if device.type != "cpu" or config.compile or config.checkpointing:
        return 0
    return min(batch_size, (config.threads or available_processors()) if config.timed else WORKERS)


def threads_for(config: TrainConfig, model: GPTConfig, device: torch.device) -> int:
    """Threads of all but the workers: one for a small model on a CPU, else those asked for, or all cores."""
    small = device.type == "cpu" and block_weights(model) < SMALL_WEIGHTS
    return 1 if small else config.threads or available_processors()
