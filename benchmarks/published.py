"""Published trainings in; the constants of the rule for the MFU, and what it says of each run, out.

python benchmarks/published.py [--write]: published.csv has the runs. Of llm-foundry's tables it has all rows
with 8 GPUs or more, contexts of 1,024 to 8,192 tokens and at least 8,192 tokens at once on a GPU: with fewer
the GPUs wait for each other. The constants are those of least relative error; they stand in training/gpus.py.
The table shows what the rule says of each run when it is fitted without that run's model on that GPU, and
without all that its program has published. --write puts it into docs/scale.md.
"""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tables import ROOT, table, write

from lucidlm.model.config import GPTConfig
from lucidlm.training.gpus import ATTENTION, GPUS, MATMUL, TRAFFIC, work_of_a_token

CSV = Path(__file__).with_suffix(".csv")
AGAIN = {"none": 0.0, "half": 0.5, "all": 1.0}
"""Part of each block that is computed again; torchtitan's selective checkpointing: every second matmul."""
SHAPE = ("emb_dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "vocab_size", "context_length")
CONSTANTS = (*(f"matmul {name}" for name in MATMUL), *(f"attention {name}" for name in ATTENTION), *TRAFFIC)
FITTED = (*MATMUL.values(), *ATTENTION.values(), *TRAFFIC.values())


class Run(NamedTuple):
    """A published speed."""

    name: str
    source: str
    gpu: str
    gpus: int
    program: str
    context_length: int
    seconds: float
    """Of a token, on one of the GPUs."""
    at_peak: float
    """Seconds of a token at the peak."""
    work: np.ndarray
    """What the constants are multiplied by: seconds are their scalar product."""

    @property
    def mfu(self) -> float:
        """Share of the peak."""
        return self.at_peak / self.seconds

    def twin_of(self, other: "Run") -> bool:
        """Whether both are one model on one kind of GPU, published together."""
        same = self.name, self.source, self.gpu, self.context_length
        return same == (other.name, other.source, other.gpu, other.context_length)


def published() -> list[Run]:
    """All runs of published.csv."""
    with CSV.open(encoding="utf-8", newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def _run(row: dict[str, str]) -> Run:
    gpu = GPUS[row["gpu"]]
    # A GPU of another make than the data sheet's has its own peak and bandwidth in the file.
    flops = 1e12 * float(row["tflops"] or gpu.tflops)
    bytes_per_s = 1e9 * float(row["gb_per_s"] or gpu.gb_per_s)
    llama = row["run"].startswith("Llama")  # three matrices in the feed-forward, a head of its own
    shape = {name: int(row[name]) for name in SHAPE}
    model = GPTConfig(family="modern" if llama else "gpt2", tied_head=not llama, **shape)  # ty: ignore[invalid-argument-type]
    matmuls, attention, traffic = work_of_a_token(
        model, flops_per_s=flops, bytes_per_s=bytes_per_s, again=AGAIN[row["recomputed"]]
    )
    work = dict.fromkeys(CONSTANTS, 0.0)
    work[f"matmul {gpu.generation}"] = matmuls
    work[f"attention {gpu.generation}"] = attention
    work[row["program"]] = traffic
    return Run(
        row["run"], row["source"], gpu.name, int(row["gpus"]), row["program"], model.context_length,
        1 / float(row["tokens_per_s"]), model.flops_per_token() / flops, np.array([*work.values()]),
    )  # fmt: skip


def fitted(runs: list[Run]) -> np.ndarray:
    """The constants with the least squares of relative errors; 0 where no run has a part in one."""
    shares = np.array([run.work / run.seconds for run in runs])
    known = shares.any(axis=0)
    constants = np.zeros(len(CONSTANTS))
    constants[known] = np.linalg.lstsq(shares[:, known], np.ones(len(runs)), rcond=None)[0]
    return constants


def error(run: Run, others: list[Run]) -> float | None:
    """How much longer than it took the rule says that a run takes; None where the others do not fix it."""
    constants = fitted(others)
    if not constants[run.work > 0].all():
        return None
    return float(run.work @ constants / run.seconds) - 1


def without_twins(run: Run, runs: list[Run]) -> list[Run]:
    """The runs but this one, and but the same model on the same GPU."""
    return [other for other in runs if not other.twin_of(run)]


def without_program(run: Run, runs: list[Run]) -> list[Run]:
    """The runs of other programs."""
    return [other for other in runs if other.source.split()[0] != run.source.split()[0]]


def main() -> None:
    """Prints the constants and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    runs = published()
    constants = dict(zip(CONSTANTS, fitted(runs).tolist(), strict=True))
    print(", ".join(f"{name} {value:.4g}" for name, value in constants.items()))
    head = ["run", "context", "GPUs", "program", "MFU", "time, without it", "time, without its program"]
    shown = [run for run in runs if not run.source.startswith("llm-foundry")]
    text = table(head, [_cells(run, runs) for run in shown])
    foundry = [abs(error(run, without_twins(run, runs)) or 0) for run in runs if run not in shown]
    text += (
        f"\n\nThe {len(foundry)} rows of llm-foundry: {np.median(foundry):.0%} off in the median, "
        f"{np.mean(np.array(foundry) <= 0.15):.0%} of them within 15 %, {max(foundry):.0%} off at most."
    )
    print(text)
    if given.write:
        write(
            "published", constants, text, folder=ROOT / "build" / "bench", numbers=ROOT / "docs" / "scale.md"
        )


def _cells(run: Run, runs: list[Run]) -> list[str]:
    errors = [error(run, others(run, runs)) for others in (without_twins, without_program)]
    return [
        f"{run.name} ({run.source})", f"{run.context_length:,}", f"{run.gpus} {run.gpu}", run.program,
        f"{run.mfu:.1%}", *("-" if each is None else f"{each:+.0%}" for each in errors),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
