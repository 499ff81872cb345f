"""The name of a program comes in; its training steps of GPT-2's smallest shape, one after the other, go out.

python benchmarks/contestants.py ours --windows 2 --length 256 --seconds 8: one line of JSON, in a process of
its own, so that the peak memory is of this program alone. benchmarks/steps.py runs them in turn.

768 channels, 12 heads, 12 blocks, 50,257 tokens, dropout 0.1. Each program is imported from its package and
used as its own training script uses it.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from memory import peak_bytes
from timing import canary
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, LAYERS, DROPOUT = 50257, 768, 12, 12, 0.1

Step = Callable[[], object]
Opened = tuple[Step, str]
"""A step, and what a program has chosen by itself."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of inputs and targets (B, T), as one number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A program and how it is used."""

    title: str
    """In tables."""
    package: str
    """On PyPI, for the version."""
    module: str
    """What is imported before memory is measured."""
    model: Callable[[int], tuple[nn.Module, Loss]] | None = None
    """Model and loss for a context length; None for ours."""
    autocast: bool = False
    """Whether forward and loss run under bfloat16 autocast."""
    fused: bool = False
    """Whether AdamW is PyTorch's fused one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Ours alone: --dtype."""


def course(length: int) -> tuple[nn.Module, Loss]:
    """The course's GPT and its loss, as in its chapters 4 and 5."""
    chapter = importlib.import_module("llms_from_scratch.ch04")
    settings = {"vocab_size": VOCABULARY, "context_length": length, "emb_dim": WIDTH, "n_heads": HEADS}
    model = chapter.GPTModel({**settings, "n_layers": LAYERS, "drop_rate": DROPOUT, "qkv_bias": False})
    return model, lambda inputs, targets: F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def transformers(length: int) -> tuple[nn.Module, Loss]:
    """transformers' GPT-2, which computes the loss itself; the head is the embedding's matrix."""
    gpt2 = importlib.import_module("transformers.models.gpt2")
    model = gpt2.GPT2LMHeadModel(gpt2.GPT2Config(n_positions=max(1024, length)))
    return model, lambda inputs, targets: model(inputs, labels=inputs).loss


def litgpt(length: int) -> tuple[nn.Module, Loss]:
    """litgpt's GPT in this shape, with its loss in pieces; it has no dropout, and RoPE for positions."""
    config = importlib.import_module("litgpt.config").Config(
        name="124m",
        block_size=length,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=WIDTH,
        intermediate_size=4 * WIDTH,
        rotary_percentage=1.0,
        parallel_residual=False,
    )
    model = importlib.import_module("litgpt.model").GPT(config)
    loss = importlib.import_module("litgpt.utils").chunked_cross_entropy
    return model, lambda inputs, targets: loss(model(inputs), targets)


CONTESTANTS = {
    "course": Contestant(
        title="the course's code, float32",
        package="llms-from-scratch",
        module="llms_from_scratch.ch04",
        model=course,
    ),
    "course-autocast": Contestant(
        title="the course's code, autocast",
        package="llms-from-scratch",
        module="llms_from_scratch.ch04",
        model=course,
        autocast=True,
    ),
    "transformers": Contestant(
        title="transformers, autocast, fused AdamW",
        package="transformers",
        module="transformers.models.gpt2.modeling_gpt2",
        model=transformers,
        autocast=True,
        fused=True,
    ),
    "litgpt": Contestant(
        title="litgpt, autocast, fused AdamW, no dropout",
        package="litgpt",
        module="litgpt.utils",
        model=litgpt,
        autocast=True,
        fused=True,
    ),
    "ours": Contestant(title="ours", package="lucidlm", module="lucidlm.training.loop", dtype="bfloat16"),
    "ours-float32": Contestant(
        title="ours, float32", package="lucidlm", module="lucidlm.training.loop", dtype="float32"
    ),
}


@contextlib.contextmanager
def peer(contestant: Contestant, *, windows: int, length: int) -> Generator[Opened]:
    """A step of another program: forward, backward, AdamW."""
    assert contestant.model is not None
    model, loss_of = contestant.model(length)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1, fused=contestant.fused)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        ids = torch.randint(VOCABULARY, (windows, length + 1), generator=generator)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=contestant.autocast):
            loss = loss_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()

    yield step, ""


@contextlib.contextmanager
def ours(contestant: Contestant, *, windows: int, length: int) -> Generator[Opened]:
    """A step of `lucidlm train --preset lecture`: of the run that it starts, by its own loop."""
    from lucidlm.runs.settings import TrainConfig
    from lucidlm.runtime.progress import SILENT
    from lucidlm.runtime.wording import plural
    from lucidlm.training.loop import train_steps
    from lucidlm.training.start import start_run

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = TrainConfig(
            out=str(Path(folder, "run")),
            preset="lecture",
            minutes=5,
            context_length=length,
            batch_tokens=windows * length,
            dtype=contestant.dtype,
            validate_every=10**6,
            checkpoint_seconds=1e9,
        )
        run = start_run(config, stack, SILENT)
        run.validation_pending = False  # the one before the first step
        assert run.plan.batch_size == windows
        steps = train_steps(run)
        plan = run.plan
        chosen = f"{plural(plan.workers, 'worker')}, {plural(plan.threads, 'thread')}"
        yield lambda: next(steps), f"{chosen}, float32 kernels: {plan.float32}"


def measured(contestant: Contestant, *, windows: int, length: int, seconds: float) -> dict[str, object]:
    """Each step's seconds, the lower canary of the two around it, its CPU seconds; the memory of all.

    As many steps as begin within `seconds`. The first is not counted, unless it takes all that time.
    """
    importlib.import_module(contestant.module)
    before, times = peak_bytes(), []
    with (peer if contestant.model else ours)(contestant, windows=windows, length=length) as (step, chosen):
        began, speed = time.perf_counter(), canary()
        while time.perf_counter() - began < seconds or len(times) < 1:
            start, used = time.perf_counter(), time.process_time()
            step()
            took, used = time.perf_counter() - start, time.process_time() - used
            last, speed = speed, canary()
            times.append((took, min(last, speed), used))
        return {
            "times": times[1:] or times,
            "chosen": chosen,
            "peak_mib": (peak_bytes() - before) >> 20,
            "version": importlib.metadata.version(contestant.package),
        }


def main() -> None:
    """Prints the measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    with contextlib.suppress(OSError):  # where memory runs out, this process ends and no other
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    contestant = CONTESTANTS[given.name]
    found = measured(contestant, windows=given.windows, length=given.length, seconds=given.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
