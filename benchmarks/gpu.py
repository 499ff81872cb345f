"""On a GPU: tokens a second, share of the peak and memory of training, of the loss layer and of generation.

python benchmarks/gpu.py [--only training loss generation] [--seconds 280] [--write]: training of GPT-2's
shapes of 124, 355 and 1558 million weights at context 1024, without dropout, in bfloat16, as they are, with
--compile and with --checkpointing. What does not begin within --seconds is left out, and its row says so.
--write puts the tables into docs/numbers.md.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from recipes import Unmeasured
from tables import ROOT, machine, revision, table, write
from texts import text_of

from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate_batch
from lucidlm.model.gpt import GPT
from lucidlm.model.linear import for_generation, form_for
from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.model.loss import cross_entropy
from lucidlm.model.presets import preset
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.device import synchronise
from lucidlm.runtime.probes import probe_matmul
from lucidlm.runtime.progress import SILENT
from lucidlm.text.corpus import Corpus
from lucidlm.text.preparation import prepare
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.windows import Windows
from lucidlm.training.optim import make_optimizers
from lucidlm.training.pace import Pace
from lucidlm.training.plan import make_plan
from lucidlm.training.step import train_step
from lucidlm.training.workers import gradient_of

GPU = torch.device("cuda")
STEPS = 8
"""Steps that are timed, after two that are not."""
TOKENS = 200
"""Of a generated text."""


@dataclass(frozen=True, slots=True)
class Size:
    """A preset and the tokens of its steps: enough that the optimizer's share is small."""

    preset: str
    batch_tokens: int
    compile: bool = False
    checkpointing: bool = False

    def __str__(self) -> str:
        """As in tables."""
        flags = [flag for flag in ("compile", "checkpointing") if getattr(self, flag)]
        return ", --".join([self.preset, *flags])


SIZES = (
    Size("gpt2-124m", 131_072),
    Size("gpt2-355m", 65_536),
    Size("gpt2-1558m", 32_768),
    Size("gpt2-1558m", 32_768, checkpointing=True),
    Size("gpt2-124m", 131_072, compile=True),
    Size("gpt2-355m", 65_536, compile=True),
)


def training(size: Size, corpus: Corpus, peak: float) -> list[str]:
    """A row: tokens a second, share of the peak, memory, seconds until the first step was done."""
    config = TrainConfig(
        preset=size.preset,
        steps=STEPS,
        device=GPU.type,
        dtype="bfloat16",
        batch_tokens=size.batch_tokens,
        drop_rate=0.0,
        compile=size.compile,
        checkpointing=size.checkpointing,
    )
    plan = make_plan(config, corpus, GPU, pace=Pace(), machine=Unmeasured()).plan
    forget()
    torch.manual_seed(0)
    with GPU:
        model = GPT(plan.model).train()
    began = time.perf_counter()
    optimizers = make_optimizers(model, plan.optim)
    gradient = gradient_of(model, plan, config=config, progress=SILENT)
    windows = Windows(corpus.train, plan.model.context_length)

    def step(number: int) -> float:
        begin = time.perf_counter()
        batch = windows.batch_at(seed=1, step=number, batch_size=plan.batch_size)
        train_step(model, optimizers, batch, gradient=gradient, plan=plan, seed=1, step=number)
        synchronise(GPU)
        return time.perf_counter() - begin

    step(0)
    first = time.perf_counter() - began
    step(1)
    seconds = [step(number) for number in range(2, 2 + STEPS)]
    tokens = plan.batch_size * plan.model.context_length
    flops = plan.model.flops_per_token() * tokens / statistics.median(seconds)
    return [
        str(size),
        f"{plan.batch_size} x {plan.model.context_length}, {plan.micro_batch} at once",
        f"{tokens / statistics.median(seconds):,.0f}",
        f"{(max(seconds) - min(seconds)) / statistics.median(seconds):.0%}",
        f"{flops / peak:.0%}",
        f"{most_bytes() / 2**30:.1f}",
        f"{first:.0f}",
    ]


def loss_layer(rows: int) -> list[str]:
    """A row: milliseconds and memory beyond the inputs of the plain loss and of ours, GPT-2's head."""
    generator = torch.Generator(GPU).manual_seed(0)
    hidden = torch.randn(rows, 768, device=GPU, generator=generator).requires_grad_()
    weight = (torch.randn(50257, 768, device=GPU, generator=generator) * 0.02).requires_grad_()
    targets = torch.randint(50257, (rows,), device=GPU, generator=generator)

    def plain() -> None:
        with torch.autocast(GPU.type, torch.bfloat16):
            loss = cross_entropy(hidden @ weight.T, targets).sum()
        torch.autograd.grad(loss, (hidden, weight))

    def lean() -> None:
        with torch.autocast(GPU.type, torch.bfloat16):
            loss = linear_cross_entropy(hidden, weight, targets)
        torch.autograd.grad(loss, (hidden, weight))

    (slow, much), (fast, little) = measured(plain), measured(lean)
    return [
        f"{rows:,}", f"{1e3 * slow:.1f}", f"{1e3 * fast:.1f}", f"{fast / slow:.2f}",
        f"{much / 2**20:,.0f}", f"{little / 2**20:,.0f}", f"1/{much / max(1, little):.1f}",
    ]  # fmt: skip


def measured(work: Callable[[], None]) -> tuple[float, int]:
    """Median seconds of ten, and the most bytes held beyond what was held before."""
    work()
    synchronise(GPU)
    before = torch.cuda.memory_allocated() if GPU.type == "cuda" else 0
    forget()
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        work()
        synchronise(GPU)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), most_bytes() - before


def forget() -> None:
    """Frees what nothing holds, and counts the most bytes from here on."""
    gc.collect()
    if GPU.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def most_bytes() -> int:
    """The most that was allocated at once on the GPU; 0 on a CPU, where the tests run this."""
    return torch.cuda.max_memory_allocated() if GPU.type == "cuda" else 0


def generation(dtype: str, rows: int) -> list[str]:
    """A row: tokens a second of `rows` equal prompts, greedy, gpt2-124m with random weights."""
    torch.manual_seed(0)
    with GPU:
        model = GPT(preset("gpt2-124m").shape).eval()
    quick = for_generation(model, form_for(model, dtype, rows=rows))
    tokenizer, decoding = Tokenizer.gpt2(), Decoding(max_new_tokens=TOKENS, temperature=0)
    prompts = ["Every effort moves you"] * rows
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        generate_batch(quick, tokenizer, prompts, decoding, seed=0)
        seconds.append(time.perf_counter() - began)
    return [f"{dtype}, {rows}", f"{rows * TOKENS / min(seconds):,.0f}"]


PARTS = ("training", "loss", "generation")


def main() -> None:
    """Prints the tables, each row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU that PyTorch can use here; lucidlm doctor shows what there is")
    began = time.perf_counter()

    def rows_of(works: dict[str, Callable[[], list[str]]]) -> list[list[str]]:
        rows = []
        for name, work in works.items():
            late = time.perf_counter() - began > given.seconds
            rows.append([name, "left out: no time"] if late else work())
            forget()
            print(*rows[-1], sep="; ", flush=True)
        return rows

    peak = max(probe_matmul(GPU, torch.bfloat16, size=size).flops_per_s for size in (4096, 8192))
    tables, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for part in given.only:
            head, works = part_of(part, peak, Path(folder))
            results[part] = rows_of(works)
            tables.append(table(head, results[part]))
    title = (
        f"{torch.cuda.get_device_name()}; {machine()}. Revision {revision()}. "
        f"The peak, by the faster of two square matmuls in bfloat16: {peak / 1e12:.0f} TFLOP/s."
    )
    text = "\n\n".join((title, *tables))
    print(text)
    if given.write:
        write("gpu", results, text, folder=ROOT / "build" / "bench")


def part_of(name: str, peak: float, folder: Path) -> tuple[list[str], dict[str, Callable[[], list[str]]]]:
    """The head of a part's table, and what makes each of its rows; `folder` is for the text."""
    if name == "training":
        head = ["training", "windows of a step", "tokens/s", "spread", "of the peak", "GiB", "first step, s"]
        corpus = story(folder)
        return head, {str(size): partial(training, size, corpus, peak) for size in SIZES}
    if name == "loss":
        head = ["rows", "plain, ms", "ours, ms", "ours / plain", "plain, MiB", "ours, MiB", "ours / plain"]
        return head, {f"{rows:,}": partial(loss_layer, rows) for rows in (8192, 32_768)}
    pairs = [(dtype, rows) for dtype in ("float32", "bfloat16") for rows in (1, 8)]
    return ["generation, texts", "tokens/s"], {f"{pair}": partial(generation, *pair) for pair in pairs}


def story(folder: Path) -> Corpus:
    """The bundled story in GPT-2's tokens."""
    source = folder / "story.txt"
    source.write_bytes(text_of("story").train)
    return prepare(source, folder / "data", tokenizer="gpt2")


if __name__ == "__main__":
    main()
