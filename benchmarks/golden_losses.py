"""The losses of 20 steps of three tiny configurations, to the last bit: no refactor moves one unseen.

    python benchmarks/golden_losses.py                     prints them
    python benchmarks/golden_losses.py --store             writes those of this kind of machine into the file

tests/test_golden_losses.py compares them with tests/golden_losses.json, which has them by the kind of machine
that computed them, as another CPU adds in another order. On such a machine each bit must be equal. Elsewhere
losses in float64 must agree to 1e-6; Muon rounds to bfloat16 on its way, which magnifies a last bit: 1e-2.
"""

import argparse
import contextlib
import json
import platform
import random
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PLAIN, Recipe
from lucidlm.runs.settings import Plan
from lucidlm.text.windows import Windows
from lucidlm.training.gradient import Gradient, WholeBatch
from lucidlm.training.optim import make_optimizers
from lucidlm.training.schedule import trapezoid
from lucidlm.training.step import train_step
from lucidlm.training.workers import Workers

STORED = Path(__file__).parents[1] / "tests" / "golden_losses.json"
STEPS = 20
SEED = 123
SHAPES = {
    "modern, Muon": GPTConfig(
        family="modern",
        vocab_size=257,
        context_length=32,
        emb_dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        hidden_dim=64,
        drop_rate=0.1,
    ),
    "classic, AdamW": GPTConfig(
        vocab_size=257, context_length=24, emb_dim=24, n_layers=2, n_heads=3, qkv_bias=True, drop_rate=0.1
    ),
    "tied, AdamW": GPTConfig(
        vocab_size=257, context_length=16, emb_dim=32, n_layers=3, n_heads=2, tied_head=True, drop_rate=0.2
    ),
}
"""Sizes that nothing divides evenly: 3 heads, 257 ids."""
TOLERANCE = {"float64": {"AdamW": 1e-6, "Muon": 1e-2}, "float32": {"AdamW": 1e-4, "Muon": 5e-2}}
"""How far losses may be from those of another kind of machine, where no bug moves them."""


def kind_of_machine() -> dict[str, str]:
    """What decides the last bits: the CPU, and the libraries that choose their kernels by it."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    named = [
        re.search(rf"^{key}\s*:\s*(.+)$", info, re.MULTILINE) for key in ("vendor_id", "cpu family", "model")
    ]
    return {
        "cpu": " ".join([platform.machine(), *(found[1] for found in named if found)]),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": "1",
    }


def plan_of(name: str, *, workers: int) -> Plan:
    """20 steps of a shape: the warm-up, the flat part and the decay are all in them."""
    optim = Recipe(
        name="muon" if "Muon" in name else "adamw", lr=3e-3, matrix_lr=0.02, weight_decay=0.1, clip=1.0
    ).filled(PLAIN)
    return Plan(
        model=SHAPES[name] if workers else SHAPES[name].changed(drop_rate=0.0),
        optim=optim,
        batch_size=6,
        micro_batch=2,
        steps=STEPS,
        schedule=trapezoid(STEPS, warmup_steps=3, decay_fraction=0.4),
        validate_every=STEPS,
        validation_tokens=1,
        dtype="float32",
        threads=1,
        workers=workers,
        early_stop=False,
    )


def losses_of(name: str, dtype: str, *, steps: int = STEPS) -> list[float]:
    """float32: as a run on a CPU trains, by two copies of the model, with dropout.

    float64: the whole batch at once, from weights that are the same on every machine (PyTorch's own normal
    numbers differ in the last bits), and without dropout, which PyTorch draws differently on each machine.
    """
    torch.manual_seed(SEED)
    plan = plan_of(name, workers=2 if dtype == "float32" else 0)
    model = GPT(plan.model).train()
    if dtype == "float64":
        _draw_weights(model.double())
    windows = Windows(tokens(), plan.model.context_length)
    way: Gradient = Workers(model, plan, seed=SEED, threads=1) if plan.workers else WholeBatch(model, plan)
    optimizers = make_optimizers(model, plan.optim)
    return [
        train_step(
            model,
            optimizers,
            windows.batch_at(seed=SEED, step=step, batch_size=plan.batch_size),
            gradient=way,
            plan=plan,
            seed=SEED,
            step=step,
        ).loss_nats
        for step in range(steps)
    ]


@torch.no_grad()
def _draw_weights(model: GPT) -> None:
    """Matrices of NumPy's normal numbers; the same added to gains and biases, so that each one matters."""
    draw = np.random.Generator(np.random.PCG64(SEED))
    for weight in model.parameters():
        drawn = torch.from_numpy(draw.normal(0, 0.05, tuple(weight.shape)))
        weight.copy_(drawn if weight.dim() > 1 else weight + drawn)


def _hex(loss: float) -> str:
    return float(loss).hex()


def tokens() -> np.ndarray:
    """Bytes of made-up words: the last window of an epoch is short."""
    draw = random.Random(SEED)
    words = ["the", "river", "ran", "past", "a", "house", "and", "nobody", "knew", "why", "it", "was", "late"]
    return np.frombuffer(" ".join(draw.choice(words) for _ in range(400)).encode(), np.uint8).astype(
        np.uint16
    )


@contextlib.contextmanager
def settled() -> Generator[None]:
    """One thread, and matmuls as PyTorch has them: another test may have chosen others."""
    threads, precision = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision  # ty: ignore
    torch.set_num_threads(1)
    torch.backends.mkldnn.matmul.fp32_precision = "none"  # ty: ignore
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = precision  # ty: ignore
        torch.set_num_threads(threads)


def all_losses() -> dict[str, list[float]]:
    """Of each shape in both dtypes."""
    with settled():
        return {f"{name}, {dtype}": losses_of(name, dtype) for name in SHAPES for dtype in TOLERANCE}


def stored(path: Path = STORED) -> list[dict[str, Any]]:
    """The entries of the file: kind of machine and losses in hexadecimal."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def differences(losses: dict[str, list[float]], entries: list[dict[str, Any]]) -> tuple[bool, list[str]]:
    """Whether this kind of machine is stored, so that bits were compared; and each loss that moved."""
    kind = kind_of_machine()
    same = next((entry for entry in entries if entry["kind"] == kind), None)
    before_it = (same or entries[0])["losses"]
    expected = {name: list(map(float.fromhex, each)) for name, each in before_it.items()}
    found = []
    for name in sorted({*losses, *expected}):
        now, before = losses.get(name, []), expected.get(name, [])
        if len(now) != len(before):
            found.append(f"{name}: {len(now)} losses, {len(before)} stored")
        limit = 0.0 if same else next(v for k, v in TOLERANCE[name.rpartition(", ")[2]].items() if k in name)
        found += [
            f"{name}, step {step}: {_hex(a)} now, {_hex(b)} stored, {a - b:.1e} apart (limit {limit:g})"
            for step, (a, b) in enumerate(zip(now, before))
            if not abs(a - b) <= limit
        ]
    return same is not None, found


def main() -> int:
    """The exit code: 1 where a loss differs from those stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", action="store_true", help="write the losses of this kind of machine")
    given = parser.parse_args()
    kind, losses = kind_of_machine(), all_losses()
    for name, each in losses.items():
        print(name, *(_hex(loss) for loss in each), sep="\n  ")
    if given.store:
        kept = [entry for entry in stored() if entry["kind"] != kind]
        now = {"kind": kind, "losses": {name: [_hex(loss) for loss in each] for name, each in losses.items()}}
        STORED.write_text(json.dumps([*kept, now], indent=1) + "\n", encoding="utf-8")
        return 0
    compared, moved = differences(losses, stored())
    print(
        "compared bit by bit"
        if compared
        else f"this machine is not stored ({kind}): compared with a tolerance"
    )
    print("\n".join(moved) or "no loss has moved")
    return 1 if moved else 0


if __name__ == "__main__":
    sys.exit(main())
