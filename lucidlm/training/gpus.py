"""A GPU and a model come in; seconds per token and the share of the peak (MFU) come out, by one rule.

    seconds = MATMUL x flops of matmuls / peak + ATTENTION x flops of attention / peak
            + TRAFFIC x layers x width / bandwidth

Matmuls reach a part of the peak, attention a smaller part; other operations are bound by memory bandwidth.
The constants are fitted to published runs in benchmarks/published.csv (python benchmarks/published.py).
docs/scale.md shows the error of the rule on each run when that run is left out of the fit.
"""

from dataclasses import dataclass
from typing import Literal

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig

Program = Literal["fused", "eager", "lucidlm"]

MATMUL = {"ampere": 1.20, "hopper": 1.37}
"""Time of matmuls divided by their time at the peak of the data sheet, by generation of the GPU."""
ATTENTION = {"ampere": 3.8, "hopper": 7.0}
"""The same for attention, whose flops count only the half that the causal mask leaves."""
TRAFFIC: dict[Program, float] = {"fused": 204, "eager": 487, "lucidlm": 504}
"""Memory traffic of the operations between matmuls, in bytes for each token, layer and channel.

fused: programs with kernels that are written by hand or compiled (llm.c, nanochat, torchtitan compiled).
eager: PyTorch's own operations. lucidlm: this trainer, measured on one H100 and one H200 (docs/numbers.md).
"""
AGAIN = 1 / 3
"""Share of the forward pass in the flops of a block: activation checkpointing computes it twice."""
USABLE = 0.97
"""Share of a GPU's memory for a training: PyTorch and the libraries of CUDA take the rest."""


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU, with the figures of its data sheet."""

    name: str
    tflops: float
    """Peak in bfloat16 with sums in float32, without sparsity, in 10^12 operations per second."""
    gigabytes: float
    """Memory, in 10^9 bytes."""
    gb_per_s: float
    """Memory bandwidth, in 10^9 bytes per second."""
    generation: Literal["ampere", "hopper"]
    """Its constants in MATMUL and ATTENTION."""
    source: str
    checked: bool = False
    """Whether the rule was fitted to a published run on this GPU."""

    @property
    def constants_of(self) -> str:
        """The GPU that the constants of its generation were fitted to."""
        return {"ampere": "A100", "hopper": "H100"}[self.generation]

    @property
    def flops_per_s(self) -> float:
        """Peak in operations per second."""
        return 1e12 * self.tflops

    @property
    def usable_bytes(self) -> int:
        """Memory for a training."""
        return int(USABLE * 1e9 * self.gigabytes)


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("a100-40g", 312, 40, 1555, "ampere", "NVIDIA A100 data sheet (SXM)"),
        GPU("a100-80g", 312, 80, 2039, "ampere", "NVIDIA A100 data sheet (SXM)", checked=True),
        GPU("h100", 989.4, 80, 3350, "hopper", "NVIDIA H100 data sheet (SXM)", checked=True),
        GPU("h200", 989.4, 141, 4800, "hopper", "NVIDIA H200 data sheet (SXM)"),
        GPU("b200", 2250, 180, 8000, "hopper", "NVIDIA DGX B200 data sheet, an eighth"),
        GPU("l40s", 362, 48, 864, "ampere", "NVIDIA L40S data sheet"),
        GPU("rtx3090", 71, 24, 936, "ampere", "NVIDIA Ampere GA102 white paper"),
        GPU("rtx4090", 165.2, 24, 1008, "ampere", "NVIDIA Ada white paper"),
    )
}


def gpu_named(name: str) -> GPU:
    """The GPU of that name, upper or lower case; ConfigError lists the names where it is unknown.

    >>> gpu_named("H100").gigabytes
    80
    """
    if (gpu := GPUS.get(name.lower())) is None:
        raise ConfigError(f"--gpu {name}: unknown; there are {', '.join(GPUS)}")
    return gpu


def work_of_a_token(
    model: GPTConfig, *, flops_per_s: float, bytes_per_s: float, again: float = 0.0
) -> tuple[float, float, float]:
    """The factors of the rule's three constants: two in seconds, the last in seconds per byte.

    `again`: the share of each block that the backward pass computes again. Attention is computed again only
    where this is 1: selective checkpointing keeps the output of attention.
    """
    more = 1 + AGAIN * again
    attention = 6 * model.n_layers * model.n_heads * model.head_dim * model.context_length
    matmuls = model.flops_per_token() - attention
    return (
        more * matmuls / flops_per_s,
        (1 + AGAIN * (again == 1)) * attention / flops_per_s,
        more * model.n_layers * model.emb_dim / bytes_per_s,
    )


def seconds_per_token(
    model: GPTConfig, gpu: GPU, *, program: Program = "lucidlm", checkpointing: bool = False
) -> float:
    """Seconds that one GPU takes to train on one token."""
    matmuls, attention, traffic = work_of_a_token(
        model, flops_per_s=gpu.flops_per_s, bytes_per_s=1e9 * gpu.gb_per_s, again=float(checkpointing)
    )
    return (
        MATMUL[gpu.generation] * matmuls + ATTENTION[gpu.generation] * attention + TRAFFIC[program] * traffic
    )


def mfu(model: GPTConfig, gpu: GPU, seconds: float) -> float:
    """Share of the GPU's peak at this many seconds per token; what is computed twice does not count."""
    return model.flops_per_token() / (gpu.flops_per_s * seconds)
