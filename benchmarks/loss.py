"""What the head and the loss cost, forward and backward: time and memory of GPT-2's head, and of small ones.

python benchmarks/loss.py [ROWS ...]: 768 channels, 50,257 tokens, 8,192 and 2,048 rows by default. About
three minutes. --cpu takes CPU time instead, for a busy machine: use it with OMP_NUM_THREADS=1.

floor: the three matmuls in bfloat16 and nothing else. plain: F.cross_entropy of the head's logits in float32,
under bfloat16 autocast, as nanoGPT and transformers have it.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from memory import growth_bytes
from timing import interleaved, timed
from torch import Tensor

from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.runtime.process import set_threads

HEAD = (768, 50257)
SMALL = {"257 tokens, 128 channels": (128, 257), "1,024 tokens, 192 channels": (192, 1024)}
Case = tuple[Tensor, Tensor, Tensor]
"""Hidden states (N, C) and head (V, C), both with gradients, and targets (N,)."""


def case_of(rows: int, width: int, vocab_size: int) -> Case:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = (torch.randn(vocab_size, width) * width**-0.5).requires_grad_()
    return hidden, weight, torch.randint(vocab_size, (rows,))


def floor(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Logits, and two gradients of the sizes of the real ones; its operands are bfloat16 already."""
    logits = hidden @ weight.T
    logits @ weight
    logits.T @ hidden


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(F.linear(hidden, weight).float(), targets).backward()


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        total = linear_cross_entropy(hidden, weight, targets)
    (total / len(targets)).backward()


LOSSES = {"floor": floor, "plain": plain, "ours": ours}


def work_of(name: str, case: Case) -> Callable[[], None]:
    """One pass from fresh gradients, as each step of a training has it."""
    hidden, weight, targets = case
    if name == "floor":
        hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()

    def work() -> None:
        hidden.grad = weight.grad = None
        LOSSES[name](hidden, weight, targets)

    return work


def memory(name: str, rows: int) -> int:
    """Bytes that a pass takes beyond its inputs, among them the two gradients that are asked for."""
    case = case_of(rows, *HEAD)
    work_of(name, case_of(8, 8, 8))()  # what PyTorch sets up on first use
    return growth_bytes(work_of(name, case))


def memory_apart(name: str, rows: int) -> int:
    command = [sys.executable, __file__, str(rows), "--memory", name]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("rows", nargs="*", type=int, default=[8192, 2048])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--cpu", action="store_true")
    arguments.add_argument("--memory", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    set_threads(0)
    if given.memory:
        print(memory(given.memory, given.rows[0]))
        return
    clock = time.process_time if given.cpu else time.perf_counter
    cases = [(f"{rows} rows", (rows, *HEAD), given.rounds) for rows in given.rows]
    cases += [(f"2048 rows, {name}", (2048, *shape), 10 * given.rounds) for name, shape in SMALL.items()]
    for title, sizes, rounds in cases:
        case = case_of(*sizes)
        times = interleaved({name: timed(work_of(name, case), clock=clock) for name in LOSSES}, rounds=rounds)
        for name, each in times.items():
            print(f"{title}, {name:<5} {each}", flush=True)
        for other in ("floor", "plain"):
            median, least = (
                getattr(times["ours"], kind) / getattr(times[other], kind) for kind in ("median", "least")
            )
            print(f"{title}, ours / {other}: {median:.2f} by medians, {least:.2f} by least times", flush=True)
    for rows in given.rows:
        plain_bytes, own_bytes = (memory_apart(name, rows) for name in ("plain", "ours"))
        print(
            f"{rows} rows, memory beyond the inputs: plain {plain_bytes / 2**20:,.0f} MiB, "
            f"ours {own_bytes / 2**20:,.0f} MiB: 1 / {plain_bytes / own_bytes:.1f}"
        )


if __name__ == "__main__":
    main()
