"""Losses of three tiny trainings and what is measured of them, to the last bit: no refactor changes one.

    python benchmarks/golden.py --write golden.json     before
    python benchmarks/golden.py --check golden.json     after, on the same machine

Another CPU, another PyTorch or another number of threads may round otherwise: the file is not a fixture.
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import torch

from lucidlm.cli import main
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import PLAIN, Recipe
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.training.loop import train
from lucidlm.training.schedule import trapezoid

WORDS = ["the", "river", "ran", "past", "a", "house", "and", "nobody", "knew", "why", "it", "was", "late"]
SHAPES = {
    "modern": GPTConfig(
        family="modern",
        vocab_size=257,
        context_length=32,
        emb_dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        hidden_dim=64,
    ),
    "classic": GPTConfig(
        vocab_size=300, context_length=24, emb_dim=24, n_layers=2, n_heads=3, qkv_bias=True, drop_rate=0.1
    ),
    "tied": GPTConfig(
        vocab_size=257, context_length=16, emb_dim=32, n_layers=3, n_heads=2, tied_head=True, drop_rate=0.2
    ),
}
TOKENIZERS = {"modern": "bytes", "classic": "bpe:300", "tied": "bytes"}


def made_up_text(sentences: int, seed: int) -> str:
    """Sentences of nine random words, the same everywhere."""
    draw = random.Random(seed)
    return "".join(
        " ".join(draw.choice(WORDS) for _ in range(9)).capitalize() + ".\n" for _ in range(sentences)
    )


def plan_of(name: str) -> Plan:
    """30 steps of the shape, Muon for one and AdamW for two, in several micro batches."""
    optim = Recipe(
        name="muon" if name == "modern" else "adamw", lr=3e-3, matrix_lr=0.02, weight_decay=0.1, clip=1.0
    ).filled(PLAIN)
    return Plan(
        model=SHAPES[name],
        optim=optim,
        batch_size=8,
        micro_batch=4,
        steps=30,
        schedule=trapezoid(30, warmup_steps=3, decay_fraction=0.4),
        validate_every=10,
        validation_tokens=1024,
        dtype="float32",
        threads=1,
        workers=2,
        early_stop=False,
    )


def answer_of(*arguments: str) -> dict:
    """What a verb prints with --json."""
    out, notes = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(notes):
        code = main([*arguments, "--json", "--device", "cpu", "--threads", "1"])
    assert code == 0, (arguments, notes.getvalue())
    return json.loads(out.getvalue())


def exact(value: object) -> object:
    """Numbers in hexadecimal: equal to the last bit, or not equal."""
    return value.hex() if isinstance(value, float) else value


def figures_of(name: str) -> dict[str, object]:
    """Every number of one training and of what is measured of it."""
    settings = TrainConfig(
        text="book.txt", out=name, tokenizer=TOKENIZERS[name], device="cpu", threads=1, dtype="float32"
    )
    train(settings, plan=plan_of(name))
    found: dict[str, object] = {}
    for line in Path(name, "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        for key, value in event.items():
            if "loss_nats" in key and "step" in event:
                found[f"{key} {event['step']}"] = value
    for protocol in ("lucid", "hf-guide", "batch-mean"):
        answer = answer_of("evaluate", name, "other.txt", "--protocol", protocol, "--no-baselines")
        found |= {f"{protocol} {key}": answer[key] for key in ("loss_nats", "nats", "tokens_scored")}
        found[f"{protocol} interval"] = str(answer.get("loss_interval"))
    answer = answer_of("evaluate", name, "--stride", "5")
    found |= {f"own text {key}": answer[key] for key in ("loss_nats", "nats", "bits_per_byte")}
    answer = answer_of("explain", name, "The river ran past a house and nobody knew.")
    found["explained"] = answer["loss_nats"]
    for place, token in enumerate(answer["texts"][0]["tokens"]):
        found[f"explained {place}"] = token["nats"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert (
            main(["generate", name, "The river", "--max-new-tokens", "40", "--seed", "7", "--threads", "1"])
            == 0
        )
    found["generated"] = out.getvalue()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["compress", name, "short.txt", "--out", f"{name}.lucz", "--threads", "1"]) == 0
    found["compressed"] = Path(f"{name}.lucz").stat().st_size
    return {key: exact(value) for key, value in found.items()}


def all_figures() -> dict[str, dict[str, object]]:
    """Of all three, and a comparison of two of them."""
    Path("book.txt").write_text(made_up_text(300, 1), encoding="utf-8")
    Path("other.txt").write_text(made_up_text(60, 2), encoding="utf-8")
    Path("short.txt").write_text(made_up_text(3, 3), encoding="utf-8")
    figures = {name: figures_of(name) for name in SHAPES}
    answer = answer_of("compare", "modern", "classic", "other.txt")
    figures["compared"] = {key: exact(value) for key, value in answer.items() if not isinstance(value, list)}
    return figures


def run() -> int:
    """The exit code: 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write")
    parser.add_argument("--check")
    given = parser.parse_args()
    torch.set_num_threads(1)
    written, stored = (
        {k: v and Path(v).resolve() for k, v in vars(given).items()}[k] for k in ("write", "check")
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with contextlib.redirect_stderr(io.StringIO()):
            figures = json.loads(json.dumps(all_figures()))
        os.chdir("/")
    if written:
        written.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if stored:
        before = json.loads(stored.read_text(encoding="utf-8"))
        differ = [
            f"{part} {key}: {before.get(part, {}).get(key)!r} before, {now.get(key)!r} now"
            for part, now in figures.items()
            for key in {**before.get(part, {}), **now}
            if before.get(part, {}).get(key) != now.get(key)
        ]
        print(
            "\n".join(differ) or f"all {sum(map(len, figures.values())):,} numbers are equal to the last bit"
        )
        return 1 if differ else 0
    return 0


if __name__ == "__main__":
    sys.exit(run())
