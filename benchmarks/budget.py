"""How good a model is after a few minutes: trains on the first 90 % of a text's bytes, measures the rest.

python benchmarks/budget.py TEXT [--minutes 3] [--repeats 3]: prints one row of a Markdown table a run, for
docs/numbers.md, with the machine it was measured on.
"""

import argparse
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from texts import cut

import lucidlm as lm


def cut_files(text: Path, folder: Path) -> tuple[Path, Path]:
    """The first 90 % of the bytes and the rest, as files."""
    train, test = folder / "train.txt", folder / "test.txt"
    for path, data in zip((train, test), cut(text.read_bytes()), strict=True):
        path.write_bytes(data)
    return train, test


def measure(
    train: Path, test: Path, run: Path, *, minutes: float, val_fraction: float
) -> tuple[float, float, float]:
    """Seconds that training took, and bits per byte of the test text at the default stride and at S = T."""
    began = time.perf_counter()
    settings = ["--out", str(run), "--minutes", str(minutes), "--val-fraction", str(val_fraction)]
    command = [sys.executable, "-m", "lucidlm", "train", str(train), *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    model, tokenizer = lm.load(run)
    half = lm.evaluate(model, tokenizer, path=str(test))
    whole = lm.evaluate(model, tokenizer, path=str(test), protocol=lm.Protocol(stride=model.context_length))
    assert half.bytes_scored == half.bytes_total == test.stat().st_size
    return seconds, half.bits_per_byte, whole.bits_per_byte


def main() -> None:
    parser = argparse.ArgumentParser(description="How good a model is after a few minutes.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--val-fraction", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| text | minutes | wall s | bits/byte, stride T/2 | stride T |\n|---|---|---|---|---|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        train, test = cut_files(asked.text, Path(folder))
        for number in range(asked.repeats):
            seconds, half, whole = measure(
                train,
                test,
                Path(folder) / f"run{number}",
                minutes=asked.minutes,
                val_fraction=asked.val_fraction,
            )
            results.append(half)
            row = (asked.text.name, f"{asked.minutes:g}", f"{seconds:.0f}", f"{half:.4f}", f"{whole:.4f}")
            print(f"| {' | '.join(row)} |", flush=True)
    spread = statistics.stdev(results) if len(results) > 1 else math.nan
    print(f"mean {statistics.mean(results):.4f}, standard deviation {spread:.4f}")


if __name__ == "__main__":
    main()
