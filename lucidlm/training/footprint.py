"""What a training run needs of memory: shape and batch in, bytes out, and a line where they are not free."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.linear_loss import rows_at_once
from lucidlm.model.presets import PRESETS
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.memory import Free, free_on, size

KEPT_A_TOKEN = 34
"""Numbers of the model's width that a token and layer keep for the backward pass (Korthikanti 2022, 4.1).

On a CPU, where attention keeps its weights, or makes them again. On a GPU it keeps none: see _kept_on_a_gpu.
"""
GATHERED_BLOCKS = 2
"""Blocks whose weights are whole at once where they are sharded: the one that computes, and the next."""
LOOP_BYTES = 10_000_000
"""Samples, metrics and what PyTorch sets up at the first step of the run itself."""
BASELINES_BYTES, BASELINES_BYTES_A_BYTE = 133_000_000, 16
"""Memory of the baselines at the end, xz's most of all: docs/numbers.md."""
ONEDNN_BYTES = 250_000_000
"""oneDNN keeps a kernel for each shape, and generated text has a new one with each token. Measured; the
baselines, which come later, need less.
"""


def training_bytes(
    model: GPTConfig,
    optim: str,
    *,
    micro_batch: int,
    batch_size: int,
    device: str,
    dtype: str,
    workers: int = 0,
    checkpointing: bool = False,
    shards: int = 1,
) -> int:
    """The bytes that a step holds at its fullest, without what the process holds before it begins.

    On a CPU with the copy of the best weights, which of a model on a GPU is kept on the CPU. Gradients of all
    weights stand beside a window's activations only where a step adds up those of several micro-batches. Each
    worker holds the activations and the gradients of its share, in bfloat16 beside weights of that dtype.
    """
    n = model.n_parameters
    embedding = model.vocab_size * model.emb_dim
    if device != "cpu":
        return memory_on_a_gpu(
            model,
            optim,
            tokens=min(micro_batch, batch_size) * model.context_length,
            dtype=dtype,
            checkpointing=checkpointing,
            shards=shards,
            several=batch_size > micro_batch,
        ).bytes
    kept = 4 * (2 * n + _moments(model, optim))
    width = 2 if dtype == "bfloat16" and workers else 4
    at_once = max(1, workers)
    tokens = min(at_once * micro_batch, batch_size) * model.context_length
    rows = min(tokens // at_once, rows_at_once(model.vocab_size, gpu=False, width=width))
    activations = activation_bytes(model, tokens, width=width, checkpointing=checkpointing)
    # Logits, in whose place gradients come, and the head's, in each worker.
    loss = at_once * (width * rows * model.vocab_size + 4 * embedding)
    gradients, copies = 4 * n, workers * width * n + (width * n if workers and width == 2 else 0)
    once = activations + loss
    several = batch_size > at_once * micro_batch
    kept, gradients = -(-kept // shards), -(-gradients // shards)
    return kept + copies + (gradients + once if several else max(gradients, once))


def activation_bytes(model: GPTConfig, tokens: int, *, width: int, checkpointing: bool = False) -> int:
    """Bytes that all layers keep of these tokens for the backward pass, in numbers of `width` bytes.

    With checkpointing it is each block's input, in float32, and the whole of the one that is computed again.
    """
    of_a_block = KEPT_A_TOKEN * width * tokens * model.emb_dim
    if checkpointing:
        return 4 * tokens * model.emb_dim * model.n_layers + of_a_block
    return of_a_block * model.n_layers


@dataclass(frozen=True, slots=True)
class GPUMemory:
    """Bytes of one GPU at the fullest moment of a step."""

    weights: int
    gradients: int
    moments: int
    gathered: int
    """Weights that are sharded, while they are whole, and the gradients of a block before they are shared."""
    copies: int
    """Of the blocks' matrices in bfloat16, which autocast makes and the backward pass reads, where kept."""
    activations: int
    logits: int
    """Of a chunk of tokens, with their logarithms, and the head's gradient."""
    several: bool = True
    """Whether all gradients stand beside activations: of an earlier micro-batch, or to be shared."""

    @property
    def bytes(self) -> int:
        """All of it. Gradients of a lone micro-batch come as its activations go."""
        once = self.gathered + self.copies + self.activations + self.logits
        return (
            self.weights
            + self.moments
            + (self.gradients + once if self.several else max(self.gradients, once))
        )


def memory_on_a_gpu(
    model: GPTConfig,
    optim: str,
    *,
    tokens: int,
    dtype: str = "bfloat16",
    checkpointing: bool = False,
    shards: int = 1,
    several: bool = True,
) -> GPUMemory:
    """What a step holds on a GPU that takes this many tokens at once, and 1/shards of the weights.

    Weights, gradients and moments are float32: 16 bytes a weight with AdamW. docs/scale.md compares the sum
    with what was measured.
    """
    n, embedding = model.n_parameters, model.vocab_size * model.emb_dim
    block = _in_blocks(model) // model.n_layers
    width = 2 if dtype == "bfloat16" else 4
    held = 1 if checkpointing else model.n_layers
    # In float32: of each block that is computed again, of the last norm and of the head, and its gradient.
    inputs = 3 + (model.n_layers if checkpointing else 0)
    rows = min(tokens, rows_at_once(model.vocab_size, gpu=True, width=4))
    whole = 4 * (n - _in_blocks(model) + (GATHERED_BLOCKS + 1) * block)
    return GPUMemory(
        weights=-(-4 * n // shards),
        gradients=-(-4 * n // shards),
        moments=-(-4 * _moments(model, optim) // shards),
        gathered=whole if shards > 1 else 0,
        copies=width * held * block if tokens and width == 2 else 0,
        activations=tokens * (held * _kept_on_a_gpu(model, width) + 4 * model.emb_dim * inputs),
        # Logits and their logarithms in float32; the head in the dtype of matmuls, and its gradient.
        logits=rows * model.vocab_size * (4 + 4) + (4 + width) * embedding if tokens else 0,
        several=several or shards > 1,
    )


def _kept_on_a_gpu(model: GPTConfig, width: int) -> int:
    """Bytes that a block keeps of a token for the backward pass, where a fused kernel computes attention."""
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    norms = 2 * (4 + width) * model.emb_dim  # float32 in, and what matmuls read of what comes out
    heads = 2 * width * (queries + keys)  # queries, keys, values, and what attention makes of them
    if width == 2:
        heads += width * queries  # what attention makes is cast once more, from float32
    if model.qk_norm:
        heads += 4 * (queries + keys)  # before their norms
    # Before the nonlinearity and after it; SwiGLU: the gate before and after, what it scales, and the result.
    inner = (4 if model.family == "modern" else 2) * width * model.hidden_dim
    dropped = 2 * model.emb_dim if model.drop_rate else 0  # a byte for each, twice
    return norms + heads + inner + dropped


def _in_blocks(model: GPTConfig) -> int:
    return model.n_parameters - (1 if model.tied_head else 2) * model.vocab_size * model.emb_dim


def _moments(model: GPTConfig, optim: str) -> int:
    """Numbers that the optimizer keeps: two a weight, one for the matrices of Muon."""
    return 2 * model.n_parameters - (_in_blocks(model) if optim == "muon" else 0)


def check_preset(config: TrainConfig, device: torch.device) -> None:
    """ConfigError for a preset whose blocks alone do not fit: before a text is read, or a token learnt."""
    if config.preset in PRESETS and (free := free_on(device)) is not None:
        chosen = PRESETS[config.preset]
        shape, optim = replace(chosen.shape, vocab_size=1), config.optim.name or chosen.recipe.name
        need = training_bytes(shape, optim, micro_batch=0, batch_size=0, device=device.type, dtype="float32")
        if need > free.bytes:
            raise _refusal(f"--preset {config.preset}", need, free, _smaller_presets(config, shape, free))


def check_fits(
    config: TrainConfig,
    plan: Plan,
    device: torch.device,
    *,
    later: int = 0,
    resumed: bool = False,
    shards: int = 1,
) -> None:
    """ConfigError for a plan that needs more memory than is free; its advice fits, where anything does.

    `later` are bytes that are needed when training has ended and a step's own are free again. The plan of a
    run that is resumed cannot be changed. `shards`: processes that the weights are divided among.
    """
    free = free_on(device)
    if free is None:
        return

    def need(
        shape: GPTConfig,
        windows: int,
        batch_size: int = plan.batch_size,
        *,
        checkpointing: bool = plan.checkpointing,
    ) -> int:
        return training_bytes(
            shape,
            plan.optim.name,
            micro_batch=windows,
            batch_size=batch_size,
            device=device.type,
            dtype=plan.dtype,
            workers=0 if checkpointing else plan.workers,
            checkpointing=checkpointing,
            shards=shards,
        )

    # At the end: the model, its gradients and moments, and the best weights, but no activations.
    least = need(plan.model, 0, batch_size=0) + (later if device.type == "cpu" else 0)
    if (most := max(need(plan.model, plan.micro_batch), least)) <= free.bytes:
        return
    advice = None if least > free.bytes else _less_at_once(config, plan, free, need)
    if resumed:
        advice = "make memory free, as a resumed run keeps its plan"
    advice = advice or _smaller_presets(config, plan.model, free, later=later)
    raise _refusal(f"a model of {plan.model.n_parameters:,} parameters", most, free, advice)


def judging_bytes(baseline_bytes: int) -> int:
    """What the baselines hold at the end, given this many bytes of training text."""
    return BASELINES_BYTES + BASELINES_BYTES_A_BYTE * baseline_bytes


def memory_bytes(
    plan: Plan, device: torch.device, *, later: int, held: int, peak: int, shards: int = 1
) -> int:
    """What the run will hold at most: on a CPU the whole process, on a GPU the device alone.

    `held` and `peak` are what this process holds now, after the speed trial has trained a copy of this very
    model (freed memory is kept), and the most it has held. Later come the best weights, the ones of a
    checkpoint, and the baselines with `later` bytes; the first process has those weights whole, however many
    `shards` there are. On a GPU it is arithmetic, of a process that holds 1/shards of the weights.
    """
    if device.type == "cpu":
        judging = max(later, ONEDNN_BYTES) if plan.float32 == "onednn" else later
        # A step of the run takes what the trial's took, beside the best weights and a checkpoint's.
        return 2 * 4 * plan.model.n_parameters + LOOP_BYTES + max(peak, held + judging)
    return training_bytes(
        plan.model,
        plan.optim.name,
        micro_batch=plan.micro_batch,
        batch_size=plan.batch_size,
        device=device.type,
        dtype=plan.dtype,
        checkpointing=plan.checkpointing,
        shards=shards,
    )


def _less_at_once(config: TrainConfig, plan: Plan, free: Free, need: Callable[..., int]) -> str | None:
    """The most windows at once that fit, blocks computed again, or the longest context; else None."""
    for windows in range(plan.micro_batch - 1, 0, -1):
        if need(plan.model, windows) <= free.bytes:
            return f"--micro-batch {windows} fits"
    if config.checkpointing is None and not plan.checkpointing:
        for windows in range(plan.micro_batch, 0, -1):
            if need(plan.model, windows, checkpointing=True) <= free.bytes:
                return f"--checkpointing --micro-batch {windows} fits"
    context = plan.model.context_length // 2
    while context >= 64:
        shorter = replace(plan.model, context_length=context)
        if need(shorter, 1) <= free.bytes:
            return f"--context-length {context} --micro-batch 1 fits"
        context //= 2
    return None


def _smaller_presets(config: TrainConfig, model: GPTConfig, free: Free, *, later: int = 0) -> str:
    """The largest preset that fits with its own vocabulary, of the same family where there is one."""
    if config.from_ is not None:
        return "start from a smaller model (--from), or make memory free"

    def fits(shape: GPTConfig) -> bool:
        need = later + training_bytes(
            shape, "adamw", micro_batch=1, batch_size=2, device="cpu", dtype="float32"
        )
        # A tenth for what the estimate leaves out, and for what is allocated until the plan is made.
        return shape.n_parameters < model.n_parameters and 1.1 * need <= free.bytes

    fitting = [
        (preset.shape.family == model.family, preset.shape.n_parameters, name)
        for name, preset in PRESETS.items()
        if fits(preset.shape) and not preset.for_study
    ]
    if not fitting:
        return "no preset is small enough: make memory free"
    return f"--preset {max(fitting)[2]} --micro-batch 1 fits"


def _refusal(what: str, need: int, free: Free, advice: str) -> ConfigError:
    return ConfigError(
        f"{what}: training needs at least {size(need)} of memory, {size(free.bytes)} are free "
        f"({free.limit}); {advice}"
    )
