"""How much better a loss looks because its step was chosen on the same text: runs in, bits per byte out.

`python benchmarks/choice.py TEXT [SEEDS]`: trains small models of bytes on the first 70 % of TEXT and keeps
the losses of pieces of the rest at a dozen validations. Of many random halves of the pieces, one chooses the
step and the other evaluates it too: how much lower the chosen step is on its own half than on the other, less
how far the halves lie apart at all steps of the last third.
"""

import contextlib
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.progress import SILENT
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.training.loop import train_steps
from lucidlm.training.start import start_run

PIECE, HALVES = 500, 2000


def checkpoints(text: Path, *, share: float, steps: int, seed: int) -> np.ndarray:
    """Nats of each piece at each validation: (K, n)."""
    data = text.read_bytes()
    cut = int(0.7 * len(data))
    ids = np.frombuffer(data[cut:], np.uint8).astype(np.uint16)
    pieces = [ids[start : start + PIECE] for start in range(0, min(len(ids), 20_000) - PIECE + 1, PIECE)]
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source = Path(folder) / "text.txt"
        source.write_bytes(data[: int(share * cut)])
        config = TrainConfig(
            text=str(source), out=f"{folder}/run", tokenizer="bytes", context_length=64, batch_tokens=1024,
            steps=steps, validate_every=max(1, steps // 12), early_stop=False, seed=seed, device="cpu",
            threads=1, dtype="float32",
        )  # fmt: skip
        run = start_run(config, stack, SILENT)
        for report in train_steps(run):
            if report.validation is not None and report.step.step:
                with torch.inference_mode():
                    run.model.eval()
                    result = evaluate_documents(run.model, Tokenizer.bytes(), pieces)
                    run.model.train()
                rows.append(result.units[:, 0])
    return np.array(rows)


def flattery(nats: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Mean of the effect over random halves of the pieces, and its standard deviation, bits per byte."""
    draw = np.random.default_rng(seed)
    count = nats.shape[1]
    first = np.argsort(draw.random((HALVES, count)), 1) < count // 2  # (R, n)
    per_byte = 1 / (math.log(2) * PIECE)
    chosen = per_byte * (nats @ first.T) / first.sum(1)  # (K, R)
    other = per_byte * (nats @ ~first.T) / (~first).sum(1)
    step = chosen.argmin(0)
    apart = other - chosen
    usual = apart[-(-2 * len(nats) // 3) :].mean(0)
    effects = apart[step, np.arange(HALVES)] - usual
    return float(effects.mean()), float(effects.std())


def main() -> None:
    """A line for each regime and seed."""
    text, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    for name, share, steps in (("a few epochs", 1.0, 180), ("many epochs of a tenth", 0.1, 240)):
        for seed in range(seeds):
            nats = checkpoints(text, share=share, steps=steps, seed=seed)
            mean, spread = flattery(nats)
            losses = nats.mean(1) / (math.log(2) * PIECE)
            print(
                f"{text.name}, {name}, seed {seed}: {losses[0]:.3f} to {losses[-1]:.3f} bits per byte, "
                f"best {losses.min():.3f} at {int(losses.argmin()) + 1} of {len(losses)}; choice flatters by "
                f"{mean:+.4f} (sd over halves {spread:.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
