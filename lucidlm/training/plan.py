"""From minutes, text and machine to a plan: shape, batch, steps and rates, measured, predicted and said.

The rules are few, and docs/plan.md has the runs that their constants come from. What the plan decides
stands in run.toml, and from there on nothing depends on the clock.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from lucidlm.errors import ConfigError
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import GPT2, MUON, PLAIN, Recipe, preset
from lucidlm.report.assessment import BASELINE_BYTES
from lucidlm.runs.settings import Plan, TrainConfig, trapezoid
from lucidlm.runtime.device import dtype_of, synchronise
from lucidlm.runtime.memory import peak_memory_bytes, resident_bytes
from lucidlm.runtime.probes import probe_matmul, threads_stall, time_of
from lucidlm.runtime.process import available_processors, set_threads
from lucidlm.runtime.wording import duration, plural
from lucidlm.text.corpus import FEW_TOKENS, Corpus, train_documents
from lucidlm.text.windows import Windows
from lucidlm.training.clock import Clock
from lucidlm.training.footprint import check_fits, training_bytes
from lucidlm.training.optim import make_optimizers
from lucidlm.training.prediction import Compressibility, Prediction, compressibility, predict
from lucidlm.training.step import train_step

SHAPES = (
    (64, 3),
    (128, 4),
    (192, 6),
    (256, 8),
    (384, 8),
    (512, 10),
    (768, 12),
    (1024, 16),
    (1536, 24),
    (2048, 30),
)
"""Widths and layers that a plan chooses from; heads of 64 channels, so that every engine takes the run."""

DEFAULT_MINUTES = 3.0
VALIDATIONS = 12
VALIDATING_SHARE = 0.06
"""Validations take about this share of a run with --minutes."""
FINAL_SHARE = 0.03
"""And the evaluation of the whole validation text at the end at most this; a longer text is sampled."""

TRYING_SHARE = 0.015
COMPRESSING_SHARE = 0.1
"""The text's compressibility takes at most this share: of a text that is too long for it, the last part."""

LEAST_BYTES = 1_000_000
"""So much training text the baselines get, however short the run was."""
BYTES_PER_MINUTE = 500_000

LOOP_BYTES = 10_000_000
"""Samples, metrics and what PyTorch sets up at the first step of the run itself."""
BASELINES_BYTES, BASELINES_BYTES_A_BYTE = 133_000_000, 16
"""Memory of the baselines at the end, xz's most of all: docs/numbers.md."""
ONEDNN_BYTES = 250_000_000
"""oneDNN keeps a kernel for each shape, and generated text has a new one with each token: measured, the
baselines' passing need is less.
"""

Matmuls = Literal["float32", "bfloat16"]

MOST_EPOCHS_ON, MOST_EPOCHS_ON_SMALL = 20.0, 40.0
"""Passes over its text after which weights that started from others learn nothing but the text itself.

Small models, under ONE_THREAD_WEIGHTS, have room for more of it: docs/numbers.md.
"""
ONE_THREAD_WEIGHTS = 20_000_000
"""A model with fewer weights in its blocks than this is also tried on one thread."""
FIXED_ONE_THREAD_WEIGHTS = 2_000_000
"""Without a time limit a model with fewer weights in its blocks than this trains on one thread."""

GO_ON = replace(
    PLAIN, name="adamw", lr=1e-4, matrix_lr=1e-4, weight_decay=0.01,
    warmup_steps=20, decay_fraction=1.0, clip=1.0,
)  # fmt: skip
"""For weights that are trained already: small steps, and a decay from the end of the warm-up."""
MATRIX_ADAMW = replace(GPT2, lr=2e-3)
"""AdamW where the preset or the plan would take Muon: small models bear a higher rate than GPT-2's."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, what it was made from, and what only the run itself needs to know."""

    plan: Plan
    lines: tuple[str, ...]
    """For a person: what was chosen and why."""
    deadline_s: float | None
    most_steps: int
    final_tokens: int
    text: Compressibility
    """From which the prediction is renewed where the clock takes steps away."""
    alone_s: float | None = None
    """Seconds of a step on one thread, where that was tried."""


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast this machine trains one model."""

    dtype: Matmuls
    threads: int
    seconds_per_step: float
    alone_s: float | None
    line: str


def make_plan(
    config: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    *,
    clock: Clock,
    float32: Literal["stock", "onednn"] = "stock",
    base: GPTConfig | None = None,
) -> Planned:
    """Everything that the request leaves open, chosen for this text on this machine; takes a few seconds.

    `base` is the shape of the weights that the run goes on from, if it does. Raises ConfigError where what
    was asked for cannot be.
    """
    minutes = config.minutes
    if minutes is None and config.timed:
        minutes = DEFAULT_MINUTES
    deadline_s = None if minutes is None else 60 * minutes
    model, why = _model(config, corpus, device, seconds=deadline_s, base=base)
    optim = _recipe(config, model)
    batch_size = _batch_size(config, model)
    micro_batch = min(batch_size, config.micro_batch or _micro_batch(model, device))
    given = min(corpus.train_bytes, baseline_bytes(minutes))
    check_fits(
        config,
        model,
        optim,
        batch_size=batch_size,
        micro_batch=micro_batch,
        device=device,
        later=BASELINES_BYTES + BASELINES_BYTES_A_BYTE * given,
    )
    speed = _measure(config, corpus, model, optim, device, batch_size=batch_size, micro_batch=micro_batch)
    windows = Windows(corpus.train, model.context_length)
    most_epochs = _most_epochs(corpus.train_bytes)
    if base is not None:
        small = _block_weights(model) < ONE_THREAD_WEIGHTS
        most_epochs = MOST_EPOCHS_ON_SMALL if small else MOST_EPOCHS_ON
    most_steps = max(1, math.ceil(most_epochs * windows.n_windows / batch_size))
    set_threads(speed.threads)  # as the run will: several may stall where one does not
    validation_tokens, final_tokens = _validation_sizes(corpus, model, device, deadline_s)
    if config.steps is not None:
        steps = config.steps
    elif config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * windows.n_windows / batch_size))
    else:
        assert deadline_s is not None
        left = clock.left_until(60 * (minutes or DEFAULT_MINUTES)) * (
            1 - VALIDATING_SHARE - FINAL_SHARE - 0.02
        )
        steps = max(1, min(most_steps, int(left / speed.seconds_per_step)))
    epochs = steps * batch_size / windows.n_windows
    if config.drop_rate is None and config.preset is None:
        model = replace(model, drop_rate=_drop_rate(epochs))
    schedule = trapezoid(steps, warmup_steps=optim.warmup_steps, decay_fraction=optim.decay_fraction)
    plan = Plan(
        model=model,
        optim=optim,
        batch_size=batch_size,
        micro_batch=micro_batch,
        steps=steps,
        schedule=schedule,
        validate_every=config.validate_every or max(1, round(steps / VALIDATIONS)),
        validation_tokens=validation_tokens,
        dtype=speed.dtype,
        threads=speed.threads,
        early_stop=config.early_stop,
        compile=config.compile,
        moving_windows=config.preset is None or preset(config.preset).moving_windows,
        float32=float32,
    )
    text = compressibility(corpus, seconds=None if deadline_s is None else COMPRESSING_SHARE * deadline_s)
    lines = _lines(
        plan,
        corpus,
        why=why,
        speed=speed,
        epochs=epochs,
        minutes=minutes,
        capped=steps == most_steps,
        memory=memory_bytes(plan, device, given=given),
        predicted=predict(text, plan),
    )
    return Planned(plan, lines, deadline_s, most_steps, final_tokens, text, speed.alone_s)


def _model(
    config: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    *,
    seconds: float | None,
    base: GPTConfig | None,
) -> tuple[GPTConfig, str]:
    """The shape, and a few words why."""
    vocab_size = corpus.tokenizer.vocab_size
    if base is not None:
        shape, why = base, f"those of {config.from_}"
        if config.context_length is not None and config.context_length > base.context_length:
            raise ConfigError(
                f"--context-length {config.context_length}: {config.from_} takes at most "
                f"{base.context_length}"
            )
    elif config.preset is not None:
        shape = preset(config.preset).shape
        if shape.vocab_size != vocab_size:
            shape = replace(shape, vocab_size=vocab_size)
        why = f"the preset {config.preset}"
    else:
        shape, why = _shape_for(corpus.train_bytes, vocab_size, device, seconds=seconds)
    context = config.context_length or shape.context_length
    longest = len(corpus.train) - 1
    if context > longest:
        context, why = longest, f"{why}; context {longest}, as the text is shorter than {context} tokens"
    changes = {"context_length": context}
    if config.drop_rate is not None:
        changes["drop_rate"] = config.drop_rate
    return replace(shape, **changes), why


def modern_shape(width: int, layers: int, vocab_size: int) -> GPTConfig:
    """One of SHAPES as a model of the modern family."""
    large = width >= 512
    return GPTConfig(
        family="modern",
        vocab_size=vocab_size,
        context_length=256 if width <= 256 else 512 if width < 768 else 1024,
        emb_dim=width,
        n_layers=layers,
        n_heads=width // 64,
        n_kv_heads=width // (128 if large else 64),
        head_dim=64,
        tied_head=large and vocab_size > 8 * width,
    )


def _shape_for(
    train_bytes: int, vocab_size: int, device: torch.device, *, seconds: float | None
) -> tuple[GPTConfig, str]:
    """The largest of SHAPES that neither the text nor the time is too small for.

    Of the text: block weights grow with the bytes to the power 0.45, from 2.6 million at 1 MB. Of the time:
    they grow with the operations to the power 0.38, from 2.6 million at 2.3e13: a line through what was best
    in three minutes on two cores and Chinchilla's models (Hoffmann 2022, table A3).
    """
    by_text = 2.6e6 * (train_bytes / 1e6) ** 0.45
    by_time = math.inf if seconds is None else 2.6e6 * (_trainable_flops(device, seconds) / 2.3e13) ** 0.38
    most = 1.15 * min(by_text, by_time)
    shapes = [modern_shape(width, layers, vocab_size) for width, layers in SHAPES]
    fitting = [shape for shape in shapes if _block_weights(shape) <= most]
    limit = "text" if by_text <= by_time else "time"
    return (fitting or shapes)[-1 if fitting else 0], f"as large as the {limit} bears"


def _block_weights(shape: GPTConfig) -> int:
    return shape.matmul_parameters - shape.vocab_size * shape.emb_dim


def _trainable_flops(device: torch.device, seconds: float) -> float:
    """Operations that a small model's training does in this time, from a product of its layers' size."""
    probe = max(
        (probe_matmul(device, dtype, size=512) for dtype in (torch.float32, torch.bfloat16)),
        key=lambda p: p.flops_per_s,
    )
    # Two thirds of a small model's step on a CPU are spent outside of products, on a GPU half of it.
    return (0.15 if device.type == "cpu" else 0.35) * probe.flops_per_s * seconds


def _recipe(config: TrainConfig, model: GPTConfig) -> Recipe:
    """The optimizer's settings: the request's where it has them, else those of the model's kind."""
    if config.from_ is not None:
        # Wider models take smaller steps: 1e-4 for GPT-2's 768 channels, 6e-4 for 128.
        lr = min(1e-3, GO_ON.lr * 768 / model.emb_dim)
        recipe = replace(GO_ON, lr=lr, matrix_lr=lr)
    else:
        recipe = MUON if config.preset is None else preset(config.preset).recipe
    if config.optim.name not in (None, recipe.name):
        recipe = MUON if config.optim.name == "muon" else MATRIX_ADAMW
    return config.optim.filled(recipe)


def _batch_size(config: TrainConfig, model: GPTConfig) -> int:
    """Windows of a step: 2,048 tokens for small models, more for larger ones, whose steps are worth it."""
    if config.batch_tokens is not None:
        if config.batch_tokens < model.context_length:
            raise ConfigError(
                f"--batch-tokens {config.batch_tokens} is less than one window of {model.context_length} "
                "tokens; raise it or lower --context-length"
            )
        return config.batch_tokens // model.context_length
    if config.preset is not None and (batch_size := preset(config.preset).batch_size) is not None:
        return batch_size
    tokens = 2048 * 2 ** max(0, round(math.log2(max(1, _block_weights(model)) / 4e6) / 2))
    return max(1, tokens // model.context_length)


def _micro_batch(model: GPTConfig, device: torch.device) -> int:
    """Windows at once: as many as the activations' memory allows, and no more than pay."""
    # About 34 numbers of its width a token and layer are kept for the way back (Korthikanti 2022, 4.1).
    bytes_per_window = 34 * 4 * model.context_length * model.emb_dim * model.n_layers
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, int(0.4 * (free - 16 * model.n_parameters) / bytes_per_window))
    return max(1, min(8192 // model.context_length, 2**31 // bytes_per_window))


def _measure(
    config: TrainConfig,
    corpus: Corpus,
    model: GPTConfig,
    optim: Recipe,
    device: torch.device,
    *,
    batch_size: int,
    micro_batch: int,
) -> _Speed:
    """Trains a throw-away copy for a few steps: dtype, threads and the seconds of a step.

    With a time limit the fastest of what is allowed is taken. Without one dtype and threads are fixed before
    anything is measured, and the time only says how long the run will take.
    """
    every, stalled = torch.get_num_threads(), ""
    windows = Windows(corpus.train, model.context_length)
    with torch.random.fork_rng():
        copy = GPT(model).to(device).train()
    optimizers = make_optimizers(copy, optim)
    tokens = batch_size * model.context_length

    def seconds_of(dtype: Matmuls, threads: int, most: float = math.inf) -> float:
        set_threads(threads)
        return _seconds_per_step(copy, optimizers, windows, device, dtype, batch_size, micro_batch, most=most)

    if not config.timed:
        dtype, threads = fixed_dtype(config, device), fixed_threads(config, model, device)
        seconds = seconds_of(dtype, threads)
        set_threads(every)
        line = (
            f"{dtype} matmuls, float32 weights and loss, {_threads(threads)}: fixed without --minutes; "
            f"{tokens / seconds:,.0f} tokens/s measured"
        )
        return _Speed(dtype, threads, seconds, None, line)
    names: tuple[Matmuls, ...] = ("float32", "bfloat16") if config.dtype == "auto" else (config.dtype,)
    if config.dtype == "auto" and device.type == "cuda":
        names = (fixed_dtype(config, device),)
    # Threads wait for each other after every matmul: where other programs use a core, one thread that waits
    # for nobody can be ten times as fast.
    alone = config.threads == 0 and device.type == "cpu" and _block_weights(model) < ONE_THREAD_WEIGHTS
    # Where one step takes this long it is not done again to be measured better.
    slow = TRYING_SHARE * 60 * (config.minutes or DEFAULT_MINUTES)
    times: dict[tuple[Matmuls, int], float] = {}
    if alone and every > 1 and threads_stall(every):
        # One step of them would take as long as the whole plan.
        every, stalled = 1, f"; {_threads(every)} not tried: CPU is contended"
    for threads in sorted({every, 1}) if alone else [every]:
        # The better dtype on one thread is the better one on more: it need not be found twice.
        for name in [min(times, key=times.__getitem__)[0]] if times else names:
            times[name, threads] = seconds_of(
                name, threads, min(3 * min(times.values(), default=math.inf), slow)
            )
    set_threads(every)
    dtype, threads = fastest = min(times, key=times.__getitem__)
    speeds = ", ".join(
        f"{tokens / each:,.0f} in {name} on {_threads(count)}" for (name, count), each in times.items()
    )
    line = f"{dtype} matmuls, float32 weights and loss, {_threads(threads)}; tokens/s: {speeds}{stalled}"
    return _Speed(dtype, threads, times[fastest], times.get((dtype, 1)), line)


def fixed_dtype(config: TrainConfig, device: torch.device) -> Matmuls:
    """The dtype of a run without a time limit: the one asked for, else by the kind of device alone."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def fixed_threads(config: TrainConfig, model: GPTConfig, device: torch.device) -> int:
    """The threads of a run without a time limit: the number asked for, else by the model's size alone.

    A second thread gains a small model little on a quiet machine, and on a busy one it can cost ten times
    the time.
    """
    small = device.type == "cpu" and _block_weights(model) < FIXED_ONE_THREAD_WEIGHTS
    return config.threads or (1 if small else available_processors())


def _threads(count: int) -> str:
    return plural(count, "thread")


def _seconds_per_step(
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    windows: Windows,
    device: torch.device,
    dtype: str,
    batch_size: int,
    micro_batch: int,
    *,
    most: float,
) -> float:
    """Seconds of a step; one that takes longer than `most` is not tried twice."""
    step = 0

    def work() -> None:
        nonlocal step
        batch = windows.batch_at(seed=0, step=step, batch_size=batch_size)
        train_step(
            model,
            optimizers,
            batch,
            micro_batch=micro_batch,
            factor=0.0,
            clip=1.0,
            dtype=dtype_of(dtype),
            seed=0,
            step=step,
        )
        step += 1

    began = time.perf_counter()
    work()
    synchronise(device)
    first = time.perf_counter() - began
    return first if first > most else time_of(work, device=device, seconds=0.8, least=2)


def _most_epochs(train_bytes: int) -> float:
    """Epochs after which the same text teaches nothing more: measured on books of 20 KB, 85 KB and 1 MB.

    The worth of the R-th repetition falls as exp(-R / 15.4) (Muennighoff 2023, 3.1): after 40 of them
    thirteen fourteenths of all that repeating can give are there. A short story, with its small model,
    bears a few more.
    """
    return 60.0 if train_bytes < 50_000 else 40.0


def _drop_rate(epochs: float) -> float:
    """Dropout against learning by heart: the more often the text is seen, the more of it."""
    for most, rate in ((1.0, 0.0), (6.0, 0.1), (15.0, 0.15)):
        if epochs <= most:
            return rate
    return 0.2


def _validation_sizes(
    corpus: Corpus, model: GPTConfig, device: torch.device, deadline_s: float | None
) -> tuple[int, int]:
    """Tokens of each validation's samples, and of the evaluation at the end, by what there is time for."""
    if deadline_s is None:
        return min(16_384, max(corpus.validation_tokens, 2)), corpus.validation_tokens
    with torch.random.fork_rng():
        copy = GPT(model).to(device)
    probe = next(train_documents(corpus))[: 4 * model.context_length]
    seconds = time_of(
        lambda: evaluate_documents(copy, corpus.tokenizer, [probe]), device=device, seconds=0.3, least=2
    )
    tokens_per_s = len(probe) / seconds
    # Two samples a validation, and one validation before the first step.
    each = VALIDATING_SHARE * deadline_s * tokens_per_s / (2 * (VALIDATIONS + 1))
    # Under a thousand tokens a validation says too little to choose a step by.
    return max(FEW_TOKENS, min(32_768, int(each))), max(
        FEW_TOKENS, int(FINAL_SHARE * deadline_s * tokens_per_s)
    )


def baseline_bytes(minutes: float | None) -> int:
    """Bytes of training text that a run gives its baselines: more where it had more minutes.

    They take about a fortieth of its time.
    """
    return min(BASELINE_BYTES, max(LEAST_BYTES, int(BYTES_PER_MINUTE * (minutes or 20))))


def memory_bytes(plan: Plan, device: torch.device, *, given: int) -> int:
    """What the run will hold at most: on a CPU the whole process, on a GPU the device alone.

    `given` are the bytes of training text that the baselines get at the end. A CPU's process holds what it
    holds now, after the speed trial has trained a copy of this very model (freed memory is kept), and later
    the best weights, those of a checkpoint, and the baselines. On a GPU it is arithmetic.
    """
    model = plan.model
    if device.type == "cpu":
        judging = BASELINES_BYTES + BASELINES_BYTES_A_BYTE * given
        if plan.float32 == "onednn":
            judging = max(judging, ONEDNN_BYTES)
        later = 2 * 4 * model.n_parameters + LOOP_BYTES + judging
        return max(peak_memory_bytes(device), resident_bytes() + later)
    return training_bytes(
        model,
        plan.optim.name,
        micro_batch=plan.micro_batch,
        batch_size=plan.batch_size,
        device=device.type,
        dtype=plan.dtype,
    )


def _lines(
    plan: Plan,
    corpus: Corpus,
    *,
    why: str,
    speed: _Speed,
    epochs: float,
    minutes: float | None,
    capped: bool,
    memory: int,
    predicted: Prediction | None,
) -> tuple[str, ...]:
    """The plan for a person to read."""
    model = plan.model
    optimizer = {"muon": "Muon and AdamW", "adamw": "AdamW"}[plan.optim.name]
    budget = f" (--minutes {minutes:g})" if minutes else ""
    stop = "; more epochs of this text would teach nothing new" if capped and minutes else ""
    return (
        f"text: {plural(corpus.train_tokens, 'token')} to train on, {corpus.heldout_tokens:,} held out "
        f"({corpus.train_bytes:,} and {plural(corpus.validation_bytes, 'byte')})",
        f"tokenizer: {corpus.tokenizer.name}, {plural(corpus.tokenizer.vocab_size, 'token')}; "
        f"{corpus.manifest['tokenizer']['reason']}",
        f"model: {plural(model.n_parameters, 'parameter')}, {why} ({model.family}, "
        f"{plural(model.n_layers, 'layer')}, {model.emb_dim} wide, context {model.context_length}, "
        f"dropout {model.drop_rate:g})",
        f"speed: {speed.line}",
        f"plan: {plural(plan.steps, 'step')} of {plural(plan.batch_tokens, 'token')}, {epochs:.1f} epochs, "
        f"{optimizer}; about {duration(speed.seconds_per_step * plan.steps)} of training{budget}, "
        f"{memory / 2**30:.2f} GiB of memory{stop}",
        *(() if predicted is None else (f"predicted: {predicted}",)),
    )
