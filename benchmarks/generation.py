"""Tokens a second of generation by gpt2-124m on a CPU: ours, transformers', llama.cpp's, the course's loop.

python benchmarks/generation.py [--tokens 200] [--rounds 5] [--write]: greedy, random weights, 1 and 8 texts;
three to ten minutes, without the course's loop (--no-course) one to three. --cpu takes CPU time, for a busy
machine: use it with OMP_NUM_THREADS=1. --write puts the table into docs/numbers.md.

transformers has its cache. It and llama.cpp (one text; its int8 is Q8_0) are measured where they are
installed; llama-cpp-python compiles llama.cpp, to be fair with all instructions of this CPU (CMAKE_ARGS). The
course's model and loop are those of llms-from-scratch where that is installed, else that loop with our model.
Times of ours do not include the preparation of short weights, which is once for a model and has a row of its
own.
"""

import argparse
import importlib
import importlib.util
import itertools
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tables import ROOT, load, machine, revision, table, write
from timing import Clock, Times, interleaved, timed

from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate_batch
from lucidlm.model.gpt import GPT
from lucidlm.model.linear import for_generation, form_for
from lucidlm.model.presets import preset
from lucidlm.runtime.process import keep_freed_memory, set_threads
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.gguf import Kind, export_gguf

PROMPT = "Every effort moves you"
SEVERAL = 8
LLAMA: dict[str, Kind] = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}
"""What llama.cpp calls them. In the file; it computes in its own way."""
Work = Callable[[], object]


def ours(model: GPT, rows: int, tokens: int) -> Work:
    """generate_batch of `rows` equal prompts."""
    tokenizer, decoding = Tokenizer.gpt2(), Decoding(max_new_tokens=tokens, temperature=0)

    def work() -> None:
        texts = generate_batch(model, tokenizer, [PROMPT] * rows, decoding, seed=0)
        assert all(len(text.tokens) == tokens for text in texts), "a text ended early"

    return work


def transformers(dtype: torch.dtype, rows: int, tokens: int) -> Work:
    """Its generate with its cache, on a GPT-2 of the same shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).to(dtype).eval()
    ids = torch.tensor([Tokenizer.gpt2().encode(PROMPT)] * rows)
    length: dict[str, Any] = {"min_new_tokens": tokens, "max_new_tokens": tokens}

    def work() -> None:
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=50256, **length
            )

    return work


def llama_cpp(model: GPT, kind: Kind, tokens: int) -> Work:
    """llama.cpp's own greedy sampling, of one text, from the file that `lucidlm export` writes."""
    tokenizer = Tokenizer.gpt2()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        export_gguf(model, tokenizer, file, kind=kind)
        llama = importlib.import_module("llama_cpp").Llama(
            str(file), n_ctx=256, n_threads=threads, n_threads_batch=threads, use_mmap=False, verbose=False
        )
    ids = tokenizer.encode(PROMPT)

    def work() -> None:
        llama.reset()
        drawn = sum(1 for _ in itertools.islice(llama.generate(ids, temp=0.0), tokens))
        assert drawn == tokens, "the text ended early"

    return work


def course(model: GPT, tokens: int) -> tuple[str, Work]:
    """The course's generate_text_simple: each token runs the whole text again, in float32."""
    ids = torch.tensor([Tokenizer.gpt2().encode(PROMPT)])
    predict: Callable[[torch.Tensor], torch.Tensor] = model
    name = "the course's loop, our model"
    if importlib.util.find_spec("llms_from_scratch"):
        made = importlib.import_module("llms_from_scratch.ch04").GPTModel
        shape = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768, "n_heads": 12}
        predict = made(shape | {"n_layers": 12, "drop_rate": 0.0, "qkv_bias": True}).eval()
        name = "llms-from-scratch"

    def work() -> None:
        text = ids
        for _ in range(tokens):
            with torch.no_grad():
                logits = predict(text)[:, -1]
            text = torch.cat((text, logits.softmax(-1).argmax(-1, keepdim=True)), dim=1)

    return name, work


def works_of(model: GPT, tokens: int, clock: Clock) -> tuple[dict[str, Work], list[list[str]]]:
    """Each piece of work by name, and rows about how ours was prepared."""
    works: dict[str, Work] = {}
    prepared = []
    for dtype in ("float32", "bfloat16", "int8"):
        for rows in (1, SEVERAL):
            began = clock()
            form = form_for(model, dtype, rows=rows)
            quick = for_generation(model, form)
            prepared.append([f"ours {dtype}, {rows}", str(form), f"{clock() - began:.2f}"])
            works[f"ours {dtype}, {rows}"] = ours(quick, rows, tokens)
    if importlib.util.find_spec("transformers"):
        for dtype in (torch.float32, torch.bfloat16):
            for rows in (1, SEVERAL):
                name = f"transformers {str(dtype).removeprefix('torch.')}, {rows}"
                works[name] = transformers(dtype, rows, tokens)
    if importlib.util.find_spec("llama_cpp"):
        works |= {f"llama.cpp {dtype}, 1": llama_cpp(model, kind, tokens) for dtype, kind in LLAMA.items()}
    return works, prepared


def report(
    times: dict[str, Times], tokens: int, read_gb_s: float, weights_gb: dict[str, float]
) -> list[list[str]]:
    """A row for each piece of work: tokens a second of all texts together, and of the memory's speed."""
    lines = []
    for name, taken in times.items():
        dtype, rows = name.split()[-2].rstrip(","), int(name.split()[-1])
        speeds = [rows * tokens / seconds for seconds in (taken.median, taken.least)]
        share = weights_gb[dtype] * tokens / taken.least / read_gb_s
        kept = f"{len(taken.seconds)} of {taken.taken}"
        lines.append(
            [name, *(f"{speed:.1f}" for speed in speeds), f"{taken.spread:.0%}", kept, f"{share:.0%}"]
        )
    return lines


RATIOS = [
    ("ours bfloat16, 1", "transformers bfloat16, 1", 1),
    ("ours int8, 1", "ours bfloat16, 1", 1),
    (f"ours bfloat16, {SEVERAL}", "ours bfloat16, 1", SEVERAL),
    (f"ours bfloat16, {SEVERAL}", f"transformers bfloat16, {SEVERAL}", 1),
    *((f"ours {dtype}, 1", f"llama.cpp {dtype}, 1", 1) for dtype in LLAMA),
]
"""Fast, slow, and how many times the tokens of slow are in fast."""


def ratio(times: dict[str, Times], fast: str, slow: str, factor: int = 1) -> list[str]:
    """How many times the tokens a second, by medians and by least times."""
    new, old = times[fast], times[slow]
    by = (factor * old.median / new.median, factor * old.least / new.least)
    return [f"{fast} against {slow}", *(f"{each:.2f}" for each in by)]


def main() -> None:
    """Measures and prints, or writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-course", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    clock: Clock = time.process_time if given.cpu else time.perf_counter
    keep_freed_memory()
    set_threads(0)
    before = load()
    torch.manual_seed(0)
    model = GPT(preset("gpt2-124m").shape).eval()
    works, prepared = works_of(model, given.tokens, clock)
    large = torch.ones(125_000_000)  # 500 MB
    reads = interleaved({"read": timed(large.sum, clock=clock)}, rounds=10)["read"]
    del large
    times = interleaved({name: timed(work, clock=clock) for name, work in works.items()}, rounds=given.rounds)
    ratios = [ratio(times, *pair) for pair in RATIOS if pair[1] in times]
    if not given.no_course:
        name, work = course(model, given.tokens)
        pair = {
            name: timed(work, clock=clock),
            "ours bfloat16, 1": timed(works["ours bfloat16, 1"], clock=clock),
        }
        with_course = interleaved(pair, rounds=2, warm_up=False)
        times[f"{name} float32, 1"] = with_course[name]
        ratios.append(ratio(with_course, "ours bfloat16, 1", name))
    n_weights = model.n_parameters - model.config.context_length * model.config.emb_dim
    weights_gb = {"float32": 4e-9 * n_weights, "bfloat16": 2e-9 * n_weights, "int8": 1e-9 * n_weights}
    text = "\n\n".join((
        f"Options: {shlex.join(sys.argv[1:]) or 'none'}. {revision()}, {machine()}, "
        f"{'CPU' if given.cpu else 'wall-clock'} time, load {before}; "
        f"read bandwidth {0.5 / reads.least:.1f} GB/s (median {0.5 / reads.median:.1f}), canary kept "
        f"{statistics.mean(len(each.seconds) / each.taken for each in times.values()):.0%} of the rounds.",
        table(
            ["program, texts", "tokens/s, median", "best", "spread", "rounds kept", "of the read bandwidth"],
            report(times, given.tokens, 0.5 / reads.least, weights_gb),
        ),
        table(["ratio", "by medians", "by least times"], ratios),
        table(["prepared", "form", "s"], prepared),
    ))  # fmt: skip
    print(text)
    if given.write:
        record = {name: [list(taken.seconds), taken.taken] for name, taken in times.items()}
        write("generation", record, text, folder=ROOT / "build" / "bench")


if __name__ == "__main__":
    main()
