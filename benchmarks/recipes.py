"""Texts and settings come in; the bits per byte of runs of a fixed number of steps go out, a row of CSV each.

python benchmarks/recipes.py TEXT [KEY=VALUE ...] [--seeds 1 2 3] [--test] [--out benchmarks/recipes.csv]

TEXT is a file, FILE:BYTES, story or a text that is made on this machine (benchmarks/texts.py). KEY is steps
or epochs, tokenizer, shape (128x4), drop_rate, context_length, batch_tokens, a setting of the optimizer
(weight_decay, matrix_lr, lr, warmup_steps ...), or average: the part of the steps at the end whose weights
are averaged. What is not given is the plan's choice.

The last 10 % of the bytes are cut off before anything else. Of the rest a run holds out its own pieces, as
the product does: settings are chosen by these. The part that was cut off is scored with --test only, once
for each of the settings that are reported.
"""

import argparse
import contextlib
import csv
import dataclasses
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from texts import Text, text_of

import lucidlm as lm
from lucidlm.model.presets import Recipe
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.process import keep_freed_memory
from lucidlm.runtime.progress import SILENT
from lucidlm.text.corpus import Corpus
from lucidlm.text.preparation import prepare
from lucidlm.text.vocabulary import suggest
from lucidlm.training.loop import train_steps
from lucidlm.training.pace import Pace
from lucidlm.training.plan import make_plan
from lucidlm.training.shapes import modern_shape
from lucidlm.training.speed import Dtype, Machine
from lucidlm.training.start import start_run
from lucidlm.training.state import TrainingRun
from lucidlm.training.validation import validate
from lucidlm.weights.load import load

RESULTS = Path(__file__).with_suffix(".csv")
VALIDATIONS = 5
COLUMNS = (
    "text", "bytes", "kind", "tokenizer", "shape", "steps", "epochs", "settings", "seed",
    "heldout", "training", "best_step", "test",
)  # fmt: skip
NUMBERS = {"steps": int, "epochs": float, "drop_rate": float, "context_length": int, "batch_tokens": int}
"""Settings that a request has a field for, and their types."""
RECIPE = {field.name for field in dataclasses.fields(Recipe)} - {"name"}
KNOWN = {"tokenizer", "shape", "average", *NUMBERS, *RECIPE}


class Unmeasured(Machine):
    """A machine on which nothing is timed: steps are counted here, and no clock decides anything."""

    def flops_per_s(self, device: torch.device, *, cores: int) -> float:
        return 1e11

    def seconds_per_step(self, trial: object, plan: Plan, *, most: float) -> float:
        return 1.0


def main() -> None:
    """A row for each seed, as soon as its run is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    keep_freed_memory()
    settings = dict(setting.split("=", 1) for setting in asked.settings)
    if unknown := settings.keys() - KNOWN:
        parser.error(f"{', '.join(sorted(unknown))}: not known; there are {', '.join(sorted(KNOWN))}")
    for seed in asked.seeds:
        row = measure(text_of(asked.text), settings, seed=seed, dtype=asked.dtype, test=asked.test)
        append(asked.out, row)
        print(" ".join(str(row[name]) for name in COLUMNS), flush=True)


def append(path: Path, row: dict) -> None:
    """Adds a row to the file, which is made with its header if it is not there."""
    begins = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if begins:
            writer.writeheader()
        writer.writerow(row)


def measure(text: Text, settings: dict[str, str], *, seed: int, dtype: Dtype, test: bool) -> dict:
    """One run; its best weights on all held-out pieces and, if asked for, on the test part."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source = Path(folder) / "text.txt"
        source.write_bytes(text.train)
        tokenizer = settings.get("tokenizer") or suggest(len(text.train.decode()))[0]
        corpus = prepare(source, Path(folder) / "data", tokenizer=tokenizer)
        config = TrainConfig(
            text=str(corpus.folder), out=f"{folder}/run", seed=seed, device="cpu", threads=1, dtype=dtype,
            early_stop=False, checkpoint_seconds=1e9, **_requested(settings),
        )  # fmt: skip
        plan = plan_for(config, corpus, shape=settings.get("shape"))
        run = start_run(config, stack, SILENT, plan=plan)
        average = train(run, float(settings.get("average", 0)))
        best = run.best
        assert best is not None
        row = {
            "text": text.name, "bytes": len(text.train), "kind": text.kind, "tokenizer": tokenizer,
            "shape": f"{plan.model.emb_dim}x{plan.model.n_layers}", "steps": plan.steps,
            "epochs": f"{run.windows.epoch_at(plan.steps, plan.batch_size):.1f}",
            "settings": _shown(plan, settings), "seed": seed, "test": "",
            "heldout": f"{best.validation_bits_per_byte:.4f}",
            "training": f"{run.validations[-1].training_bits_per_byte:.4f}", "best_step": best.step,
        }  # fmt: skip
        if average:
            run.model.load_state_dict(average)
            row["heldout"] = f"{_heldout(run):.4f}"
        elif run.best_state is not None:
            run.model.load_state_dict(run.best_state)
        else:
            run.model.load_state_dict(load(run.folder)[0].state_dict())
        if test:
            found = lm.evaluate(run.model.eval(), corpus.tokenizer, text=text.test.decode())
            row["test"] = f"{found.bits_per_byte:.4f}"
        return row


def plan_for(config: TrainConfig, corpus: Corpus, *, shape: str | None) -> Plan:
    """The plan of this request, with the shape that was asked for; all held-out text is evaluated."""
    plan = make_plan(config, corpus, torch.device("cpu"), pace=Pace(), machine=Unmeasured()).plan
    model = plan.model
    if shape is not None:
        width, layers = map(int, shape.split("x"))
        model = modern_shape(width, layers, model.vocab_size)
        model = replace(model, drop_rate=plan.model.drop_rate, context_length=plan.model.context_length)
    return replace(
        plan,
        model=model,
        validate_every=max(1, -(-plan.steps // VALIDATIONS)),
        validation_tokens=max(plan.validation_tokens, min(40_000, corpus.validation_tokens)),
    )


def train(run: TrainingRun, average: float) -> dict[str, torch.Tensor]:
    """Runs the plan to its end; the mean of the weights over the last part `average` of the steps."""
    mean: dict[str, torch.Tensor] = {}
    count = 0
    for report in train_steps(run):
        if report.step.step > (1 - average) * run.plan.steps:
            count += 1
            for name, weight in run.model.state_dict().items():
                mean[name] = mean[name].lerp_(weight, 1 / count) if name in mean else weight.clone()
    return mean


def _heldout(run: TrainingRun) -> float:
    tokenizer = run.corpus.tokenizer
    found = validate(run.model.eval(), tokenizer, run.samples, step=run.step, epoch=0.0, time_s=0.0)
    return found.validation_bits_per_byte


def _requested(settings: dict[str, str]) -> dict:
    """The settings that a request has a field for, in its types."""
    found: dict[str, Any] = {
        name: number(settings[name]) for name, number in NUMBERS.items() if name in settings
    }
    recipe: dict[str, Any] = {
        name: int(settings[name]) if name == "warmup_steps" else float(settings[name])
        for name in sorted(RECIPE & settings.keys())
    }
    return found | {"optim": Recipe(**recipe)}


def _shown(plan: Plan, settings: dict[str, str]) -> str:
    """What decides the result besides shape and steps, in short."""
    usual = {"steps", "epochs", "tokenizer", "shape"}
    usual |= {"lr", "matrix_lr", "weight_decay", "drop_rate", "row_beta"}
    rest = [f"{name}={value}" for name, value in settings.items() if name not in usual]
    optim = plan.optim
    first = [f"lr={optim.lr:g}", f"matrix_lr={optim.matrix_lr:g}", f"weight_decay={optim.weight_decay:g}"]
    return " ".join([*first, f"drop_rate={plan.model.drop_rate:g}", f"row_beta={optim.row_beta:g}", *rest])


if __name__ == "__main__":
    main()
