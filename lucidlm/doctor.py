"""What this machine can do, checked: versions, device, speeds, and a small model computed twice."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lucidlm import __version__
from lucidlm.model.attention import attention_by_matmuls
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.linear import fastest_form
from lucidlm.model.loss import cross_entropy
from lucidlm.runtime.device import autocast, choose_device, dtype_name
from lucidlm.runtime.files import free_bytes
from lucidlm.runtime.probes import fastest_exact_float32, probe_matmul, time_of
from lucidlm.runtime.process import available_processors, keep_freed_memory, set_threads

LIMITS = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest difference of a loss in nats that rounding explains; a wrong kernel differs by much more."""

PACKAGES = ("torch", "numpy", "tiktoken", "tokenizers", "safetensors", "transformers")


@dataclass(frozen=True, slots=True)
class Check:
    """The loss of a small model on the device, compared with the same on a CPU in float32."""

    what: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains the difference."""
        return self.difference <= self.limit  # False for NaN too


@dataclass(frozen=True, slots=True)
class Findings:
    """What the doctor found."""

    versions: dict[str, str]
    machine: dict[str, str]
    choices: tuple[str, ...]
    speeds: dict[str, float]
    """GFLOP/s of a matmul of two 1024 x 1024 matrices, by dtype."""
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        """Whether the device computes what the CPU computes."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        values = asdict(self) | {"sound": self.sound}
        return values | {"checks": [asdict(check) | {"passed": check.passed} for check in self.checks]}

    def __str__(self) -> str:
        """One line per finding; the last one says whether the device is right."""
        lines = [f"{name:<22} {value}" for name, value in (self.versions | self.machine).items()]
        lines += [f"{name:<22} {rest}" for name, _, rest in (line.partition(": ") for line in self.choices)]
        lines += [f"{f'speed of {name}':<22} {speed:,.0f} GFLOP/s" for name, speed in self.speeds.items()]
        lines += [
            f"{'check':<22} {check.what}: difference {check.difference:.1e} nats, "
            f"limit {check.limit:.0e}: {'ok' if check.passed else 'WRONG'}"
            for check in self.checks
        ]
        judgement = "this device computes correctly" if self.sound else (
            "this device computes wrong numbers: use --device cpu --dtype float32, and report it to PyTorch"
        )  # fmt: skip
        return "\n".join([*lines, judgement])


def examine(device_name: str = "auto") -> Findings:
    """Findings of this machine; it computes for about two seconds."""
    device = choose_device(device_name)
    threads = set_threads(0)
    choices = (
        f"device: {device}",
        f"threads: {threads}",
        keep_freed_memory(),
        fastest_exact_float32(device)[1],
    )
    if device.type == "cpu":
        choices += (f"generation: large models in {fastest_form('auto')}", _attention_in_training(device))
    speeds = {
        dtype_name(dtype): probe_matmul(device, dtype).flops_per_s / 1e9
        for dtype in (torch.float32, torch.bfloat16)
    }
    return Findings(_versions(), _machine(), choices, speeds, tuple(_checks(device)))


def _attention_in_training(device: torch.device) -> str:
    """Attention in training on a CPU: what it and PyTorch's kernel take on one thread, as in a worker."""
    q = torch.randn(2, 4, 256, 64, dtype=torch.bfloat16, device=device, requires_grad=True)

    def milliseconds(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
        work = lambda: attend(q, q, q).sum().backward()  # noqa: E731
        return 1000 * time_of(work, device=device, seconds=0.1)

    threads = torch.get_num_threads()
    set_threads(1)
    ours = milliseconds(attention_by_matmuls)
    theirs = milliseconds(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    set_threads(threads)
    return f"attention in training: matmuls ({ours:.1f} ms; PyTorch's fused kernel: {theirs:.1f} ms)"


def _versions() -> dict[str, str]:
    found = {"lucidlm": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed (only needed to open runs in it)"
    return found


def _machine() -> dict[str, str]:
    found = {
        "system": platform.platform(),
        "processors": f"{available_processors()} of {os.cpu_count()} for this process",
        "free disk here": f"{free_bytes('.') / 2**30:.1f} GiB",
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _checks(device: torch.device) -> list[Check]:
    """The loss of a small model of each family, on the device and on the CPU."""
    checks = []
    for family in ("gpt2", "modern"):
        config = GPTConfig(
            family=family, vocab_size=257, context_length=64, emb_dim=128, n_layers=2, n_heads=2
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = GPT(config)
            ids = torch.randint(0, 257, (4, 65))
        expected = _loss(model.cpu(), ids, torch.device("cpu"), torch.float32)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            found = _loss(model.to(device), ids, device, dtype)
            checks.append(Check(f"{family} in {name} on {device}", abs(found - expected), LIMITS[name]))
    return checks


@torch.no_grad()
def _loss(model: GPT, ids: torch.Tensor, device: torch.device, dtype: torch.dtype) -> float:
    ids = ids.to(device)
    with autocast(device, dtype):
        return cross_entropy(model(ids[:, :-1]), ids[:, 1:]).mean().item()
