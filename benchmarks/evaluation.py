"""What evaluate and explain cost, beside the transformers guide's recipe for perplexity: time and memory.

python benchmarks/evaluation.py [TEXT]: gpt2-124m of random weights, context 1024, stride 512, 12 KB in turn;
ten minutes. --cpu takes CPU time instead, for a busy machine: use it with OMP_NUM_THREADS=1.
--whole SIZE: evaluate alone, of so many bytes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from memory import growth_bytes
from timing import interleaved, timed

from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import Dtype, Protocol
from lucidlm.model.gpt import GPT
from lucidlm.runtime.process import keep_freed_memory, set_threads
from lucidlm.weights.load import load

CONTEXT, STRIDE = 1024, 512
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def recipe(model, ids: torch.Tensor) -> float:
    """Nats a token as the guide has it, with its names: https://huggingface.co/docs/transformers/perplexity."""
    nll_sum, n_tokens, prev_end_loc, seq_len = 0.0, 0, 0, ids.size(1)
    for begin_loc in range(0, seq_len, STRIDE):
        end_loc = min(begin_loc + CONTEXT, seq_len)
        trg_len = end_loc - prev_end_loc
        input_ids = ids[:, begin_loc:end_loc]
        target_ids = input_ids.clone()
        target_ids[:, :-trg_len] = -100
        with torch.no_grad():
            neg_log_likelihood = model(input_ids, labels=target_ids).loss
        num_loss_tokens = int((target_ids != -100).sum()) - target_ids.size(0)
        nll_sum += float(neg_log_likelihood) * num_loss_tokens
        n_tokens += num_loss_tokens
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return nll_sum / n_tokens


def theirs(dtype: Dtype, ids: np.ndarray) -> Callable[[], float]:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).to(getattr(torch, dtype)).eval()
    return lambda: recipe(model, torch.from_numpy(ids)[None])


def ours(dtype: Dtype, ids: np.ndarray) -> Callable[[], float]:
    model, tokenizer = load("gpt2-124m")
    assert isinstance(model, GPT)
    protocol = Protocol(context_length=CONTEXT, stride=STRIDE, dtype=dtype)
    return lambda: evaluate_documents(model, tokenizer, [ids], protocol=protocol).loss_nats


PROGRAMS = {"recipe": theirs, "ours": ours}


def beginning(path: str, size: int) -> str:
    with open(path, "rb") as file:
        return file.read(size).decode("utf-8", errors="ignore")


def ids_of(path: str, size: int) -> np.ndarray:
    return np.array(load("gpt2-124m")[1].encode(beginning(path, size)))


def explaining(path: str, size: int) -> dict[str, float]:
    model, tokenizer = load("gpt2-124m")
    text, began, characters = beginning(path, size), time.perf_counter(), 0

    def work() -> None:
        nonlocal characters
        characters = sum(len(line) for line in explain(model, tokenizer, text).json_lines())

    bytes_more = growth_bytes(work)
    return {"MiB": bytes_more >> 20, "characters": characters, "s": time.perf_counter() - began}


def part(path: str, name: str) -> dict[str, float]:
    """One piece of work in this process: ours:bfloat16:BYTES, recipe:float32:BYTES or explain:BYTES."""
    program, *rest = name.split(":")
    if program == "explain":
        return explaining(path, int(rest[0]))
    dtype, ids = rest[0], ids_of(path, int(rest[1]))
    work = PROGRAMS[program]("bfloat16" if dtype == "bfloat16" else "float32", ids)
    began, nats = time.perf_counter(), 0.0

    def measured() -> None:
        nonlocal nats
        nats = work()

    bytes_more = growth_bytes(measured)
    return {"MiB": bytes_more >> 20, "nats": nats, "tokens/s": len(ids) / (time.perf_counter() - began)}


def compared(path: str, *, size: int, rounds: int, clock: Callable[[], float]) -> None:
    ids = ids_of(path, size)
    works = {
        f"{name} {dtype}": timed(program(dtype, ids), clock=clock)
        for dtype in DTYPES
        for name, program in PROGRAMS.items()
    }
    times = interleaved(works, rounds=rounds, warm_up=False)
    for name, each in times.items():
        print(f"{len(ids):,} tokens, {name:<16} {each}; {len(ids) / each.least:.0f} tokens/s", flush=True)
    for mine, other in (
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
    ):
        a, b = times[f"ours {mine}"], times[f"recipe {other}"]
        print(
            f"ours {mine} is {b.median / a.median:.2f} times as fast as the recipe in {other} "
            f"({b.least / a.least:.2f} by least times)"
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("text", nargs="?", default="lucidlm/text/assets/story.txt")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--bytes", type=int, default=12_000)
    arguments.add_argument("--cpu", action="store_true")
    arguments.add_argument("--whole", type=int, help="evaluate of so many bytes, in both dtypes")
    arguments.add_argument("--part", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    keep_freed_memory()
    set_threads(0)
    if given.part:
        print(json.dumps(part(given.text, given.part)))
        return
    clock = time.process_time if given.cpu else time.perf_counter
    if not given.whole:
        compared(given.text, size=given.bytes, rounds=given.rounds, clock=clock)
    size = given.whole or given.bytes
    parts = [f"{name}:{dtype}:{size}" for name in PROGRAMS for dtype in DTYPES]
    for name in parts[2:] if given.whole else [*parts, "explain:10000", "explain:20000"]:
        command = [sys.executable, __file__, given.text, "--part", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{name:<24} {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
