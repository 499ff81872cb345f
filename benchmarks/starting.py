"""How long a command takes to begin: wall-clock and CPU seconds of whole processes, taken in turn.

python benchmarks/starting.py [--rounds 7]: about a minute. The model is a random one of the shape modern-1m.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tables import load, machine, revision, table

from lucidlm.model.gpt import GPT
from lucidlm.model.presets import preset
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.huggingface import save_model

COMMANDS = {
    "Python alone": ["-c", "pass"],
    "import lucidlm": ["-c", "import lucidlm"],
    "lucidlm --help": ["-m", "lucidlm", "--help"],
    "import torch": ["-c", "import torch"],
    "lucidlm generate MODEL, one token": ["-m", "lucidlm", "generate", "model", "A", "--max-new-tokens", "1"],
}


def taken(arguments: list[str], folder: str) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a Python process."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{arguments} failed"
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    before = load()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_model(GPT(preset("modern-1m").shape), Tokenizer.from_spec("bytes"), Path(folder) / "model")
        for number in range(given.rounds + 1):
            for name, arguments in COMMANDS.items():
                found = taken(arguments, folder)
                if number:  # the first round fills the system's cache of files
                    times[name].append(found)
    rows = []
    for name, found in times.items():
        walls, used = zip(*found, strict=True)
        cells = (f"{median:.3f} ({min(each):.3f} to {max(each):.3f})" for median, each in (
            (statistics.median(walls), walls), (statistics.median(used), used),
        ))  # fmt: skip
        rows.append([name, *cells])
    print(f"{revision()}, {machine()}, load {before}\n")
    print(table(["command", "wall-clock s, median (least to most)", "CPU s"], rows))


if __name__ == "__main__":
    main()
