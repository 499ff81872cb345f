"""A small shape comes in; steps of its training go out, a slice of them for each line on standard input.

python benchmarks/small_steps.py --width 192 --layers 6 --tokenizer bpe:1024: each line is the seconds of a
slice; the answer is one line of JSON. With PYTHONPATH=CHECKOUT it runs the lucidlm of another revision, with
names that both have. benchmarks/small_models.py runs two of them in turn.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from lucidlm.model.presets import PRESETS
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.progress import SILENT
from lucidlm.runtime.wording import plural
from lucidlm.training.loop import train_steps
from lucidlm.training.start import start_run

LENGTH, WINDOWS, DROPOUT = 256, 8, 0.1


def main() -> None:
    """Plans as `lucidlm train --minutes` does and says what, then answers each line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--tokenizer", required=True)
    given = parser.parse_args()
    small = PRESETS["modern-3m"]
    heads = given.width // 64
    shape = replace(
        small.shape,
        emb_dim=given.width,
        n_layers=given.layers,
        n_heads=heads,
        n_kv_heads=heads,
        hidden_dim=None,
    )
    PRESETS["of this benchmark"] = replace(small, shape=shape)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = TrainConfig(
            out=str(Path(folder, "run")),
            minutes=60,
            preset="of this benchmark",
            tokenizer=given.tokenizer,
            context_length=LENGTH,
            batch_tokens=WINDOWS * LENGTH,
            drop_rate=DROPOUT,
            validate_every=10**6,
            checkpoint_seconds=1e9,
        )
        run = start_run(config, stack, SILENT)
        run.validation_pending = False  # the one before the first step
        steps = train_steps(run)
        next(steps)
        workers = getattr(run.plan, "workers", 0)  # which earlier revisions did not have
        chosen = f"{run.plan.dtype}, {plural(workers, 'worker')}, {plural(run.plan.threads, 'thread')}"
        print(json.dumps({"plan": chosen}), flush=True)
        for line in sys.stdin:
            print(json.dumps(part(steps, seconds=float(line))), flush=True)


def part(steps, *, seconds: float) -> dict[str, float]:
    """Tokens and seconds of the steps that begin within `seconds`, at least one."""
    tokens, began = 0, time.perf_counter()
    while not tokens or time.perf_counter() - began < seconds:
        next(steps)
        tokens += WINDOWS * LENGTH
    return {"tokens": tokens, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main()
