"""A GPU and a model come in; the seconds of a token and the share of the peak (MFU) come out, by one rule.

    seconds = MATMUL x flops of matmuls / peak + ATTENTION x flops of attention / peak
            + TRAFFIC x layers x width / bandwidth

Matmuls run at a part of the peak, attention at a smaller one, and what is between them waits for the memory.
The constants are fitted to published runs in benchmarks/published.csv (python benchmarks/published.py), and
docs/scale.md shows what the rule says of each run where it is left out of the fit.
"""

from dataclasses import dataclass
from typing import Literal

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig

Program = Literal["fused", "eager", "lucidlm"]

MATMUL = {"ampere": 1.20, "hopper": 1.37}
"""Times as long as at the peak of the data sheet that matmuls take, by the generation of the GPU."""
ATTENTION = {"ampere": 3.8, "hopper": 7.0}
"""The same for attention, of whose pairs the half that the mask leaves is counted."""
TRAFFIC: dict[Program, float] = {"fused": 204, "eager": 487, "lucidlm": 1250}
"""Bytes for each token, layer and channel that go through the GPU's memory between the matmuls.

fused: programs whose kernels are written by hand or compiled (llm.c, nanochat, torchtitan compiled). eager:
PyTorch's own operations. lucidlm: this trainer as it was measured on one H100 (docs/numbers.md).
"""
AGAIN = 1 / 3
"""Of the work of a block, what its forward pass is: activation checkpointing does that again."""
USABLE = 0.97
"""Of a GPU's memory: PyTorch and the libraries of CUDA take the rest."""


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU as its maker's data sheet has it."""

    name: str
    tflops: float
    """Peak in bfloat16 with sums in float32, without sparsity, in 10^12 operations a second."""
    gigabytes: float
    """Memory, in 10^9 bytes."""
    gb_per_s: float
    """Bandwidth of the memory."""
    generation: Literal["ampere", "hopper"]
    """Whose constants are taken."""
    source: str
    checked: bool = False
    """Whether a published run on this GPU is among those that the rule is fitted to."""

    @property
    def constants_of(self) -> str:
        """The GPU that the constants of its generation were fitted to."""
        return {"ampere": "A100", "hopper": "H100"}[self.generation]

    @property
    def flops_per_s(self) -> float:
        """The peak in operations a second."""
        return 1e12 * self.tflops

    @property
    def usable_bytes(self) -> int:
        """Memory that a training can have."""
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
    """The GPU of that name, in any case; ConfigError lists the names where there is none.

    >>> gpu_named("H100").gigabytes
    80
    """
    if (gpu := GPUS.get(name.lower())) is None:
        raise ConfigError(f"--gpu {name}: unknown; there are {', '.join(GPUS)}")
    return gpu


def work_of_a_token(
    model: GPTConfig, *, flops_per_s: float, bytes_per_s: float, again: float = 0.0
) -> tuple[float, float, float]:
    """What the rule's three constants are multiplied by, in seconds (the last: in seconds for each byte).

    `again`: the part of each block that is computed again in the backward pass. Attention is only where that
    is all of it: selective checkpointing keeps what attention has made.
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
    """Seconds in which one of many GPUs trains on a token."""
    matmuls, attention, traffic = work_of_a_token(
        model, flops_per_s=gpu.flops_per_s, bytes_per_s=1e9 * gpu.gb_per_s, again=float(checkpointing)
    )
    return (
        MATMUL[gpu.generation] * matmuls + ATTENTION[gpu.generation] * attention + TRAFFIC[program] * traffic
    )


def mfu(model: GPTConfig, gpu: GPU, seconds: float) -> float:
    """Share of the GPU's peak where a token takes so long; what is computed again does not count."""
    return model.flops_per_token() / (gpu.flops_per_s * seconds)
