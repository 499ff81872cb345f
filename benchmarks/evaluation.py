"""What evaluate and explain cost: speed against the plain forward pass on the same windows, and memory.

python benchmarks/evaluation.py [TEXT]: 300 KB of it, a 124M model of random weights, context 1024, stride 512
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.explanation import explain
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import evaluating
from lucidlm.measure.windows import lucid_windows
from lucidlm.runtime.process import keep_freed_memory, set_threads
from lucidlm.text.excerpts import Excerpt
from lucidlm.weights.load import load

CONTEXT, STRIDE, BYTES = 1024, 512, 300_000


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepared(path: str, size: int):
    keep_freed_memory()
    set_threads(0)
    model, tokenizer = load("gpt2-124m")
    with open(path, "rb") as file:
        text = file.read(size).decode("utf-8", errors="ignore")
    return model, tokenizer, text


def windows(model, tokenizer, text):
    ids = np.array(tokenizer.encode(text))
    return list(lucid_windows([Excerpt(ids)], context_length=CONTEXT, stride=STRIDE, prefix_id=None))


def plain(path: str) -> str:
    """Logits of every place of every window, a window at a time, and nothing else."""
    model, tokenizer, text = prepared(path, BYTES)
    tokens, began = 0, time.perf_counter()
    for window in windows(model, tokenizer, text):
        with evaluating(model, torch.float32):
            model(torch.from_numpy(window.ids[:-1])[None])
        tokens += len(window.ids) - 1
    return f"{tokens / (time.perf_counter() - began):.1f}"


def ours(path: str) -> str:
    model, tokenizer, text = prepared(path, BYTES)
    inputs = sum(len(window.ids) - 1 for window in windows(model, tokenizer, text))
    ids, before = np.array(tokenizer.encode(text)), peak_mib()
    began = time.perf_counter()
    result = evaluate_documents(
        model, tokenizer, [ids], protocol=Protocol(context_length=CONTEXT, stride=STRIDE)
    )
    seconds = time.perf_counter() - began
    return f"{inputs / seconds:.1f} {peak_mib() - before:.0f} {result.loss_nats:.4f} {seconds:.1f}"


def explaining(path: str, size: int) -> str:
    model, tokenizer, text = prepared(path, size)
    before = peak_mib()
    began = time.perf_counter()
    lines = sum(len(line) for line in explain(model, tokenizer, text).json_lines())
    return f"{peak_mib() - before:.0f} {lines} {time.perf_counter() - began:.1f}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("text", nargs="?", default="lucidlm/text/assets/story.txt")
    arguments.add_argument("--part")
    given = arguments.parse_args()
    if given.part:
        name, _, size = given.part.partition(":")
        work = {"plain": plain, "ours": ours}.get(name)
        print(work(given.text) if work else explaining(given.text, int(size)))
        return
    for part in ("plain", "ours", "plain", "ours", "explain:10000", "explain:100000"):
        done = subprocess.run(
            [sys.executable, __file__, given.text, "--part", part], capture_output=True, text=True, check=True
        )
        print(f"{part:<16} {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
