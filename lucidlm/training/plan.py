"""Minutes, a text and a machine come in; a plan comes out: shape, batch, steps and rates.

The rules are few, and docs/plan.md has the runs that their constants come from. The plan is written to
run.toml; from there on nothing depends on the clock.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import GPT2, MUON, PLAIN, Recipe, preset
from lucidlm.report.assessment import BASELINE_BYTES
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.distributed import ALONE, World
from lucidlm.runtime.memory import peak_memory_bytes, resident_bytes
from lucidlm.runtime.process import available_processors, set_threads
from lucidlm.text.corpus import FEW_TOKENS, Corpus
from lucidlm.text.windows import Windows
from lucidlm.training.footprint import (
    activation_bytes,
    check_fits,
    judging_bytes,
    memory_bytes,
    training_bytes,
)
from lucidlm.training.pace import Pace
from lucidlm.training.prediction import Compressibility, Prediction, compressibility, predict
from lucidlm.training.schedule import trapezoid
from lucidlm.training.shapes import block_weights, shape_for, trainable_flops
from lucidlm.training.speed import (
    SMALL_WEIGHTS,
    Machine,
    Speed,
    fixed_dtype,
    measure_speed,
    threads_for,
    workers_for,
)
from lucidlm.training.spread import arranged

VALIDATIONS = 12
"""In a run: enough to see a curve turn, few enough to be of a useful size each."""
VALIDATING_SHARE = 0.06
"""Validations take about this share of a run with --minutes."""
FINAL_SHARE = 0.03
"""The evaluation of the validation text at the end takes at most this; a longer text is sampled."""
SAVING_SHARE = 0.02
"""Checkpoints and the report take about this."""
COMPRESSING_SHARE = 0.1
"""Measuring the text's compressibility takes at most this: of a longer text the last part is taken."""
UNTIMED_VALIDATION_TOKENS, MOST_VALIDATION_TOKENS = 16_384, 32_768
"""Tokens of each sample: beyond this its standard error is far below the noise from step to step."""

LEAST_BASELINE_BYTES, BASELINE_BYTES_PER_MINUTE, UNTIMED_BASELINE_MINUTES = 1_000_000, 500_000, 20
"""Training text that the baselines get: they read it in about a fortieth of the run's time."""

SHORT_STORY_BYTES, EPOCHS_OF_A_STORY, EPOCHS_OF_A_BOOK = 50_000, 60.0, 40.0
"""Passes over a text after which repeating it teaches nothing new: books of 20 KB, 85 KB and 1 MB.

The worth of the R-th repetition falls as exp(-R / 15.4) (Muennighoff 2023, 3.1): after 40 of them thirteen
fourteenths of all that repeating can give are there. A short story, with its small model, bears a few more.
"""
EPOCHS_FROM_WEIGHTS, EPOCHS_FROM_SMALL_WEIGHTS = 20.0, 40.0
"""The same for weights that are trained already: after them they learn the text by heart (docs/numbers.md).

Small models, with fewer block weights than SMALL_WEIGHTS, have room for more.
"""
DROPOUT = ((2.0, 0.0), (9.0, 0.05), (16.0, 0.1), (30.0, 0.15), (math.inf, 0.2))
"""Up to this many epochs, this rate of dropout: the more often a text is seen, the more (docs/plan.md)."""
REMEMBERED_EPOCHS, LEAST_REMEMBERED_STEPS = 2.0, 14.0
"""At the peak rate, what a step added to a matrix falls to 1/e in so many epochs, or steps if that is more.

What is seen again and again is learnt by heart, unless weights that only one passage needs shrink meanwhile.
Each step takes rate x decay from the weights, so that they remember the last 1 / (rate x decay) steps. On six
texts of 20 KB to 1 MB the best decays differ by a factor of 25, this number of epochs by about two (the
search in docs/plan.md; Wang 2024 for AdamW).
"""

BATCH_TOKENS, BATCH_WEIGHTS = 2048, 4e6
"""Tokens of a step, up to this many block weights; twice as many for each four times as many weights."""
GPU_TOKENS, GPU_SHARE = 32_768, 0.8
"""Tokens at once on a GPU, and the share of its free memory that a step may take: PyTorch's parts need room.

1558M was at 27 % of the peak with 2,048 tokens on an H100, at 43 % with 4,096 on an H200. 124M was at 35 %
with 22,528 there, at 38 % with 44,032 here (docs/numbers.md).
"""
CPU_TOKENS, CPU_ACTIVATIONS = 8192, 2**31
"""Tokens and bytes of activations at once on a CPU: larger micro-batches were no faster."""

GO_ON = replace(
    PLAIN, name="adamw", lr=1e-4, matrix_lr=1e-4, weight_decay=0.01,
    warmup_steps=20, decay_fraction=1.0, clip=1.0,
)  # fmt: skip
"""For weights that are trained already: small steps, and a decay from the end of the warm-up.

The learning rate is for GPT-2's 768 channels; it grows as the width falls, up to 1e-3.
"""
ADAMW_FOR_MUON = replace(GPT2, lr=2e-3)
"""AdamW where Muon would be taken: small models bear a higher learning rate than GPT-2's."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, what it was made from, and what only the run itself needs to know."""

    plan: Plan
    deadline_s: float | None
    """Seconds for everything; None for a run without a time limit."""
    most_steps: int
    """More steps than these would teach nothing new, however much time is left."""
    final_tokens: int
    """Tokens of validation text that there is time to evaluate at the end."""
    text: Compressibility
    """From which the prediction is renewed where the clock takes steps away."""
    speed: Speed
    epochs: float
    size_limit: Literal["text", "time", "preset", "weights"]
    """What decided the size of the model."""
    memory_bytes: int
    predicted: Prediction | None

    @property
    def capped(self) -> bool:
        """Whether there is time for more steps than the text bears."""
        return self.deadline_s is not None and self.plan.steps == self.most_steps


def make_plan(
    config: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    *,
    pace: Pace,
    float32: Literal["stock", "onednn"] = "stock",
    base: GPTConfig | None = None,
    machine: Machine | None = None,
    world: World = ALONE,
) -> Planned:
    """All that the request leaves open, chosen for this text on this machine; takes a few seconds.

    `pace` has the deadline, and `base` is the shape of the weights that the run starts from, if it does.
    With other processes in the `world`, a step is shared; only with --minutes does the plan depend on them.
    Raises ConfigError where what was asked for is impossible.
    """
    machine = machine or Machine()
    model, size_limit = _model(config, corpus, device, base=base, machine=machine, size=world.size)
    world.shards = arranged(world, model, device)[1]
    draft = _draft(config, model, device, float32=float32, shards=world.shards)
    later = judging_bytes(min(corpus.train_bytes, baseline_bytes(config)))
    check_fits(config, draft, device, later=later, shards=world.shards)
    speed = measure_speed(config, corpus, draft, device, machine, world)
    set_threads(draft.threads)  # as the run will: what is measured from here on is measured on these
    validation_tokens, final_tokens = _validation_sizes(config, corpus, model, device, machine)
    n_windows = Windows(corpus.train, model.context_length).n_windows
    most_steps = _steps_of(_most_epochs(corpus, base), n_windows, draft)
    steps = _steps(config, draft, n_windows, most_steps, pace, speed)
    epochs = steps * draft.batch_size / n_windows
    model, recipe = _regularised(
        config, model, draft.optim, epochs=epochs, steps_per_epoch=n_windows / draft.batch_size
    )
    plan = replace(
        draft,
        model=model,
        optim=recipe,
        steps=steps,
        schedule=trapezoid(steps, warmup_steps=recipe.warmup_steps, decay_fraction=recipe.decay_fraction),
        validate_every=config.validate_every or max(1, round(steps / VALIDATIONS)),
        validation_tokens=validation_tokens,
        dtype=speed.dtype,
    )
    seconds = None if config.seconds is None else COMPRESSING_SHARE * config.seconds
    text = compressibility(corpus, seconds=seconds)
    held, peak = resident_bytes(), peak_memory_bytes(device)
    return Planned(
        plan=plan,
        deadline_s=config.seconds,
        most_steps=most_steps,
        final_tokens=min(final_tokens, corpus.validation_tokens),
        text=text,
        speed=speed,
        epochs=epochs,
        size_limit=size_limit,
        memory_bytes=memory_bytes(plan, device, later=later, held=held, peak=peak, shards=world.shards),
        predicted=predict(text, plan),
    )


def _steps(
    config: TrainConfig, draft: Plan, n_windows: int, most_steps: int, pace: Pace, speed: Speed
) -> int:
    """The steps of the run: what was asked for, or what fits into the time that is left."""
    if config.epochs is not None:
        return _steps_of(config.epochs, n_windows, draft)
    if config.seconds is not None:
        share = 1 - VALIDATING_SHARE - FINAL_SHARE - SAVING_SHARE
        return max(1, min(most_steps, int(share * pace.left_s() / speed.seconds_per_step)))
    return config.steps or most_steps


def _draft(
    config: TrainConfig,
    model: GPTConfig,
    device: torch.device,
    *,
    float32: Literal["stock", "onednn"],
    shards: int = 1,
) -> Plan:
    """The plan as far as nothing is measured for it: one step, in the dtype of a run without a time limit."""
    batch_size = _batch_size(config, model)
    workers = workers_for(config, device, batch_size=batch_size)
    share = math.ceil(batch_size / max(1, workers))
    recipe, dtype = recipe_for(config, model), fixed_dtype(config, device)
    need = partial(training_bytes, model, recipe.name, device=device.type, dtype=dtype, shards=shards)
    checkpointing = _checkpointing(config, device, need)
    need = partial(need, batch_size=share, checkpointing=checkpointing)
    most = config.micro_batch or _micro_batch(
        model, device, need, workers=workers, share=share, checkpointing=checkpointing
    )
    return Plan(
        model=model,
        optim=recipe,
        batch_size=batch_size,
        micro_batch=min(share, most),
        steps=1,
        schedule=((0, 1.0),),
        validate_every=1,
        validation_tokens=1,
        dtype=dtype,
        threads=threads_for(config, model, device),
        workers=workers,
        early_stop=config.early_stop,
        compile=config.compile,
        checkpointing=checkpointing,
        moving_windows=config.preset is None or preset(config.preset).moving_windows,
        float32=float32,
    )


def _model(
    config: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    *,
    base: GPTConfig | None,
    machine: Machine,
    size: int,
) -> tuple[GPTConfig, Literal["text", "time", "preset", "weights"]]:
    """The shape, and what decided its size."""
    vocab_size = corpus.tokenizer.vocab_size
    if base is not None:
        shape, size_limit = base, "weights"
        if config.context_length is not None and config.context_length > base.context_length:
            raise ConfigError(
                f"--context-length {config.context_length}: {config.from_} has a context of "
                f"{base.context_length}; give at most that"
            )
    elif config.preset is not None:
        shape, size_limit = replace(preset(config.preset).shape, vocab_size=vocab_size), "preset"
    else:
        flops = None
        if config.seconds is not None:
            speed = machine.flops_per_s(device, cores=config.threads or available_processors())
            flops = trainable_flops(device.type, size * speed, config.seconds)
        shape, size_limit = shape_for(corpus.train_bytes, vocab_size, flops=flops)
    # A window has a target more than it has inputs.
    context_length = min(config.context_length or shape.context_length, len(corpus.train) - 1)
    drop_rate = shape.drop_rate if config.drop_rate is None else config.drop_rate
    return replace(shape, context_length=context_length, drop_rate=drop_rate), size_limit


def recipe_for(config: TrainConfig, model: GPTConfig) -> Recipe:
    """The optimizer's settings: the request's where it has them, else the preset's or the plan's own."""
    if config.from_ is not None:
        lr = min(1e-3, GO_ON.lr * 768 / model.emb_dim)
        recipe = replace(GO_ON, lr=lr, matrix_lr=lr)
    else:
        recipe = MUON if config.preset is None else preset(config.preset).recipe
    if config.optim.name not in (None, recipe.name):
        recipe = MUON if config.optim.name == "muon" else ADAMW_FOR_MUON
    return config.optim.filled(recipe)


def _regularised(
    config: TrainConfig, model: GPTConfig, recipe: Recipe, *, epochs: float, steps_per_epoch: float
) -> tuple[GPTConfig, Recipe]:
    """Dropout by the run's epochs, weight decay by an epoch's steps, unless the request or a preset has them.

    Weights that are trained already keep their recipe's decay: it would pull them away from what they know.
    """
    if config.preset is not None:
        return model, recipe
    if config.drop_rate is None:
        model = replace(model, drop_rate=next(rate for most, rate in DROPOUT if epochs <= most))
    if config.optim.weight_decay is None and config.from_ is None and recipe.name == "muon":
        remembered = max(LEAST_REMEMBERED_STEPS, REMEMBERED_EPOCHS * steps_per_epoch)
        if rate := max(recipe.matrix_lr, recipe.lr):  # no step may take more than a part of a weight
            decay = max(recipe.weight_decay, 1 / (rate * remembered))
            recipe = replace(recipe, weight_decay=round(decay, 3))
    return model, recipe


def _batch_size(config: TrainConfig, model: GPTConfig) -> int:
    """Windows of a step."""
    if config.batch_tokens is not None:
        if config.batch_tokens < model.context_length:
            raise ConfigError(
                f"--batch-tokens {config.batch_tokens} is less than one window of {model.context_length} "
                "tokens; raise it or lower --context-length"
            )
        return config.batch_tokens // model.context_length
    if config.preset is not None and (batch_size := preset(config.preset).batch_size) is not None:
        return batch_size
    doublings = round(math.log2(max(1, block_weights(model)) / BATCH_WEIGHTS) / 2)
    return max(1, BATCH_TOKENS * 2 ** max(0, doublings) // model.context_length)


def _checkpointing(config: TrainConfig, device: torch.device, need: Callable[..., int]) -> bool:
    """What was asked for; else whether, on a GPU, not even one window would fit without.

    `need` is training_bytes, which lacks the sizes of the batch and of its parts.
    """
    if config.checkpointing is not None:
        return config.checkpointing
    if device.type != "cuda":
        return False
    windows = config.micro_batch or 1
    free, _ = torch.cuda.mem_get_info(device)
    return need(micro_batch=windows, batch_size=windows) > free


def _micro_batch(
    model: GPTConfig,
    device: torch.device,
    need: Callable[..., int],
    *,
    workers: int,
    share: int,
    checkpointing: bool,
) -> int:
    """Windows of its share that a worker takes at once: what fits, and no more than make a step faster.

    `need` is training_bytes, which lacks the size of the micro-batch.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        most = min(share, GPU_TOKENS // model.context_length)
        while most > 1 and need(micro_batch=most) > GPU_SHARE * free:
            most -= 1
        most = max(1, most)
    else:
        bytes_per_window = activation_bytes(model, model.context_length, width=4, checkpointing=checkpointing)
        at_once = min(CPU_TOKENS // model.context_length, CPU_ACTIVATIONS // bytes_per_window)
        most = max(1, at_once // max(1, workers))
    return math.ceil(share / math.ceil(share / most))  # of 4 windows 2 and 2, not 3 and 1


def _most_epochs(corpus: Corpus, base: GPTConfig | None) -> float:
    """Epochs after which the same text teaches nothing more."""
    if base is not None:
        small = block_weights(base) < SMALL_WEIGHTS
        return EPOCHS_FROM_SMALL_WEIGHTS if small else EPOCHS_FROM_WEIGHTS
    return EPOCHS_OF_A_STORY if corpus.train_bytes < SHORT_STORY_BYTES else EPOCHS_OF_A_BOOK


def _steps_of(epochs: float, n_windows: int, plan: Plan) -> int:
    return max(1, math.ceil(epochs * n_windows / plan.batch_size))


def _validation_sizes(
    config: TrainConfig, corpus: Corpus, model: GPTConfig, device: torch.device, machine: Machine
) -> tuple[int, int]:
    """Tokens of each validation's samples, and of the evaluation at the end, by what there is time for."""
    if config.seconds is None:
        return min(UNTIMED_VALIDATION_TOKENS, max(corpus.validation_tokens, 2)), corpus.validation_tokens
    tokens = config.seconds * machine.evaluated_per_s(corpus, model, device)
    # Two samples, held-out and training text, and one validation before the first step.
    each = VALIDATING_SHARE * tokens / (2 * (VALIDATIONS + 1))
    # With fewer than FEW_TOKENS a validation says too little to choose a step by.
    return max(FEW_TOKENS, min(MOST_VALIDATION_TOKENS, int(each))), max(FEW_TOKENS, int(FINAL_SHARE * tokens))


def baseline_bytes(config: TrainConfig) -> int:
    """Bytes of training text that a run gives its baselines: more where it had more time."""
    minutes = UNTIMED_BASELINE_MINUTES if config.seconds is None else config.seconds / 60
    return min(BASELINE_BYTES, max(LEAST_BASELINE_BYTES, int(BASELINE_BYTES_PER_MINUTE * minutes)))
