"""No flag is ignored: each flag of each verb changes what the verb does, or is refused.

The flags are read from the parser, so that a new one without a line here fails.
"""

import ast
import contextlib
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models import BYTES, END_OF_TEXT, SMALLEST, lively
from trainings import judge_little

import lucidlm
from lucidlm.cli import app, main
from lucidlm.runs.settings import TrainConfig
from lucidlm.weights.huggingface import save_model

VERBS = [verb for verb in app if not verb.startswith("-")]
TEXT = "Nobody knew the house. " * 4
READS = {
    "--encoding": "evaluate tiny latin.txt --encoding latin-1",
    "--field": "evaluate tiny rows.jsonl --field body",
    "--raw": "evaluate tiny framed.txt --raw",
}
COMPUTES = {
    "--device": "evaluate tiny text.txt --device abacus",
    "--threads": "evaluate tiny text.txt --threads 3",
    "--seed": "evaluate modern-1m text.txt --context-length 8 --seed 5",
    "--dtype": "evaluate tiny text.txt --dtype bfloat16",
}
WINDOWS = {
    "--context-length": "evaluate tiny text.txt --context-length 8",
    "--stride": "evaluate tiny text.txt --stride 1",
    "--prefix": "evaluate tiny text.txt --prefix none",
}


def of(verb: str, flags: dict[str, str], text: str = "text.txt") -> dict[str, str]:
    """The same commands with another verb in place of evaluate, and what it takes in place of the text."""
    of_verb = {"explain": "explain tiny --file", "compare": "compare tiny other", "compress": "compress tiny"}
    commands = {}
    for flag, command in flags.items():
        start = of_verb[verb].replace("tiny", command.split()[1], 1)
        commands[flag] = command.replace(" ".join(command.split()[:2]), start, 1)
    return commands


# Each flag's command; the same without the flag and its value must do something else.
SHOWN: dict[str, dict[str, str]] = {
    "evaluate": READS | COMPUTES | WINDOWS | {
        "--protocol": "evaluate tiny text.txt --protocol batch-mean",
        "--batch-size": "evaluate tiny text.txt --protocol batch-mean --batch-size 1",
        "--baselines": "evaluate tiny text.txt --baselines",
        "--no-baselines": "evaluate run text.txt --no-baselines",
        "--max-bits": "evaluate tiny text.txt --max-bits 0.1",
        "--baseline": "evaluate tiny text.txt --baseline missing.json",
        "--html": "evaluate tiny text.txt --html page.html",
        "--json": "evaluate tiny text.txt --json",
        "--by": "evaluate tiny text.txt --by document",
        "--csv": "evaluate tiny text.txt --by document --csv table.csv",
    },
    "explain": of("explain", READS | COMPUTES | WINDOWS) | {
        "--file": "explain tiny house --file text.txt",
        "--top-k": "explain tiny house --top-k 2",
        "--html": "explain tiny house --html page.html",
        "--json": "explain tiny house --json",
    },
    "compare": of("compare", READS | COMPUTES | WINDOWS) | {
        "--html": "compare tiny other text.txt --html page.html",
        "--json": "compare tiny other text.txt --json",
    },
    "generate": {
        "--max-new-tokens": "generate tiny A --seed 1 --max-new-tokens 3",
        "--temperature": "generate tiny A --seed 1 --temperature 2",
        "--top-k": "generate tiny A --seed 1 --top-k 2",
        "--top-p": "generate tiny A --seed 1 --top-p 0.1",
        "--min-p": "generate tiny A --seed 1 --min-p 0.9",
        "--repetition-penalty": "generate tiny A --seed 1 --repetition-penalty 9",
        "--stop": "generate tiny A --seed 1 --stop P",
        "--num": "generate tiny A --seed 1 --num 2",
        "--seed": "generate tiny A --seed 1",
        "--dtype": "generate tiny A --seed 1 --json --dtype bfloat16",
        "--val": "generate tiny A --seed 1 --dtype int8 --val text.txt",
        "--device": "generate tiny A --seed 1 --device abacus",
        "--threads": "generate tiny A --seed 1 --threads 3",
        "--json": "generate tiny A --seed 1 --json",
    },
    "compress": {
        "--out": "compress tiny text.txt --out a.lucz",
        "--json": "compress tiny text.txt --out a.lucz --json",
        **{
            flag: f"{command} --out a.lucz"
            for flag, command in of("compress", COMPUTES | WINDOWS).items()
            if flag != "--dtype"
        },
    },
    "decompress": {
        "--out": "decompress tiny text.lucz --out back.txt",
        "--device": "decompress tiny text.lucz --out back.txt --device abacus",
        "--threads": "decompress tiny text.lucz --out back.txt --threads 3",
        "--seed": "decompress tiny text.lucz --out back.txt --seed 5",
    },
    "serve": {
        "--host": "serve tiny --host 127.0.0.2",
        "--port": "serve tiny --port 8123",
        "--api-key": "serve tiny --api-key secret",
        "--open": "serve tiny --open",
        "--runs": "serve tiny --runs many",
        "--device": "serve tiny --device abacus",
        "--threads": "serve tiny --threads 3",
        "--dtype": "serve tiny --dtype bfloat16",
        "--seed": "serve modern-1m --seed 5",
    },
    "info": {"--json": "info tiny --json"},
    "runs": {
        "--sort": "runs many --json --sort name",
        "--csv": "runs many --csv table.csv",
        "--json": "runs many --json",
    },
    "report": {
        "--svg": "report run --svg curves.svg",
        "--csv": "report run --csv curves.csv",
        "--html": "report run --html curves.html",
        "--unit": "report run --svg curves.svg --unit bits",
    },
    "import": {
        "--out": "import tiny --out imported",
        "--dtype": "import tiny --out imported --dtype bfloat16",
        "--seed": "import modern-1m --out imported --seed 5",
    },
    "export": {
        "--out": "export tiny --out exported",
        "--format": "export tiny --out exported --format gguf",
        "--kind": "export tiny --out exported --format gguf --kind f32",
        "--dtype": "export tiny --out exported --dtype bfloat16",
        "--seed": "export modern-1m --out exported --seed 5",
    },
    "prepare": {
        "--out": "prepare text.txt --tokenizer bytes --out prepared",
        "--tokenizer": "prepare text.txt --out prepared --tokenizer bpe:260",
        "--val": "prepare text.txt --tokenizer bytes --out prepared --val held.txt",
        "--val-fraction": "prepare text.txt --tokenizer bytes --out prepared --val-fraction 0.4",
        "--split": "prepare text.txt --tokenizer bytes --out prepared --split end",
        "--workers": "prepare text.txt --tokenizer bytes --out prepared --workers 600",
        "--encoding": "prepare latin.txt --tokenizer bytes --out prepared --encoding latin-1",
        "--field": "prepare rows.jsonl --tokenizer bytes --out prepared --field body",
        "--raw": "prepare framed.txt --tokenizer bytes --out prepared --raw",
    },
    "doctor": {"--device": "doctor --device abacus", "--json": "doctor --json"},
    "learn": {
        "--answer": "learn 1 --answer 8",
        "--out": "learn 1 --answer 8 --out elsewhere",
        "--json": "learn 1 --answer 8 --json",
    },
    "plan": {
        "--gpus": "plan --preset gpt2-124m --gpus 2",
        "--gpu": "plan --preset gpt2-124m --gpus 2 --gpu a100-80g",
        "--params": "plan --gpus 2 --params 7b",
        "--tokens": "plan --gpus 2 --params 7b --tokens 1b",
        "--replicas": "plan --gpus 4 --params 7b --replicas 2",
        "--shards": "plan --gpus 4 --params 7b --shards 4",
        "--mfu": "plan --gpus 4 --params 7b --mfu 0.5",
        "--verbose": "plan text.txt --verbose",
        "-v": "plan text.txt -v",
        "--json": "plan text.txt --json",
    },
    "train": {
        "--config": "train text.txt --config run/run.toml",
        "--resume": "train --out run --resume",
        "--overwrite": "train text.txt --overwrite",
        "--seeds": "train text.txt --seeds 2",
        "--replicas": "train text.txt --replicas 2",
        "--shards": "train text.txt --shards 2",
        "--patience": "train text.txt --patience 60",
        "--verbose": "train text.txt --verbose",
        "-v": "train text.txt -v",
        "--json": "train text.txt --json",
    },
}  # fmt: skip
SETTINGS = {
    "text": "text.txt", "out": "new", "minutes": "2", "steps": "3", "epochs": "2", "preset": "modern-1m",
    "from": "tiny", "tokenizer": "bytes", "context-length": "8", "drop-rate": "0.1", "batch-tokens": "64",
    "micro-batch": "2", "val": "held.txt", "val-fraction": "0.2", "split": "end", "encoding": "latin-1",
    "field": "body", "raw": "", "optim.name": "adamw", "optim.lr": "0.1", "optim.matrix-lr": "0.1",
    "optim.weight-decay": "0.5", "optim.beta1": "0.5", "optim.beta2": "0.5", "optim.momentum": "0.5",
    "optim.row-beta": "0.5", "optim.warmup-steps": "3", "optim.decay-fraction": "0.5", "optim.clip": "2",
    "validate-every": "3", "no-early-stop": "", "sample-prompt": "Once", "checkpoint-seconds": "9",
    "seed": "5", "device": "cpu", "dtype": "bfloat16", "threads": "3", "compile": "",
    "checkpointing": "", "no-checkpointing": "",
    "tensorboard": "", "track": "trackio",
}  # fmt: skip
"""A value of each setting of train that is not its default; the negatives of switches show in a --config."""
SHOWN["train"] |= {
    f"--{name}": f"train text.txt --{name} {value}".strip() for name, value in SETTINGS.items()
}
DEFAULTS = {"--early-stop", "--no-raw", "--no-compile", "--no-tensorboard"}
"""Switches of train and plan in the position of their default, which a flag can restore over a --config."""
UNPLANNED = {"out", "sample-prompt", "checkpoint-seconds", "seed", "tensorboard", "track"}
"""Settings that no plan depends on, which plan does not take."""
SHOWN["plan"] |= {
    f"--{name}": f"plan text.txt --{name} {value}".strip()
    for name, value in SETTINGS.items()
    if name not in UNPLANNED
}


def flags_of(verb: str) -> set[str]:
    """The flags that the parser takes, without the names of what is given by position."""
    return {
        name
        for argument in app[verb].assemble_argument_collection()
        if argument.index is None and argument.parameter.parse is not False and argument.show
        for name in argument.names
        if name not in ("*", "--optim")
    }


@pytest.mark.parametrize("verb", VERBS)
def test_each_flag_of_the_parser_has_a_command_that_shows_what_it_does(verb):
    assert flags_of(verb) - (DEFAULTS if verb in ("train", "plan") else set()) == set(SHOWN[verb])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, home: Path, trained: object) -> Path:
    """A folder with two tiny models, a run and texts of each kind."""
    here = tmp_path_factory.mktemp("flags")
    for seed, name in enumerate(("tiny", "other")):
        save_model(lively(SMALLEST.changed(document_prefix_id=END_OF_TEXT), seed=seed), BYTES, here / name)
    (here / "run").symlink_to(home / "run")
    for age, name in enumerate(("b", "a")):  # the newest first is not the order of their names
        (here / "many" / name).mkdir(parents=True)
        (here / "many" / name / "run.toml").touch()
        os.utime(here / "many" / name / "run.toml", (99 - age, 99 - age))
    (here / "text.txt").write_text(TEXT)
    (here / "held.txt").write_text("It was late. " * 4)
    (here / "latin.txt").write_bytes("Größe. ".encode("latin-1") * 9)
    (here / "rows.jsonl").write_text(json.dumps({"body": TEXT}))
    frame = "*** {0} OF THE PROJECT GUTENBERG EBOOK A ***\n"
    (here / "framed.txt").write_text(frame.format("START") + TEXT + "\n" + frame.format("END"))
    before = os.getcwd()
    os.chdir(here)
    main(["compress", "tiny", "text.txt", "--out", "text.lucz", "--threads", "1"])
    os.chdir(before)
    return here


@pytest.fixture(scope="module")
def seen() -> dict[tuple[str, ...], tuple]:
    """Outcomes by command: several flags are compared with the same one."""
    return {}


@pytest.fixture
def outcome(place, seen, monkeypatch, capsys, tmp_path):
    """outcome(words): exit code, output, written files and threads of a command in a copy of the place."""

    def run(words: list[str]) -> tuple:
        if tuple(words) in seen:
            return seen[tuple(words)]
        here = tmp_path / str(len(seen)) / "here"
        here.mkdir(parents=True)
        for path in place.iterdir():
            (here / path.name).symlink_to(path.resolve())
        monkeypatch.chdir(here)
        capsys.readouterr()
        code = main(words)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        said = capsys.readouterr()
        written = {
            str(path.relative_to(here)): path.read_bytes()
            for path in sorted(here.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        return seen.setdefault(tuple(words), (code, said.out, said.err, written, threads))

    return run


@pytest.fixture(autouse=True)
def stubbed(monkeypatch):
    """train and serve print what they would do, and doctor tries the device alone: all take too long."""
    judge_little(monkeypatch)

    def train(config, *, resume, overwrite, verbose, layout=None, **named):
        print(config, resume, overwrite, verbose, layout)
        return SimpleNamespace(
            run=Path("new"),
            step=1,
            time_s=1.0,
            best=None,
            assessment=None,
            verdict="",
            interrupted=0,
            problems=(),
        )

    def preview(config, folder, progress):
        print(config)

    def train_seeds(config, seeds, **named):
        print(seeds)
        return SimpleNamespace(results=[train(config, resume=False, overwrite=False, verbose=False)])

    def examine(device):
        from lucidlm.runtime.device import choose_device

        choose_device(device)
        return SimpleNamespace(sound=True, to_dict=dict)

    @contextlib.contextmanager
    def listen(settings):
        yield SimpleNamespace(getsockname=lambda: (settings.host, settings.port))

    def serve(guard, sock, ready):
        ready()
        (each,) = guard.app.state.engine.served.values()
        print(guard.settings.api_key, next(each.model.parameters()).sum().item(), guard.app.state.runs.folder)

    monkeypatch.setattr("lucidlm.serve.listening.listen", listen)
    monkeypatch.setattr("lucidlm.serve.listening.serve", serve)
    monkeypatch.setattr("webbrowser.open", lambda address: print("opened", address) is None)
    monkeypatch.setattr("lucidlm.training.loop.train", train)
    monkeypatch.setattr("lucidlm.training.preview.preview", preview)
    monkeypatch.setattr("lucidlm.training.preview.lines", lambda shown, config, *, verbose: (str(verbose),))
    monkeypatch.setattr("lucidlm.training.preview.to_dict", lambda shown: {"json": True})
    monkeypatch.setattr("lucidlm.training.seeds.train_seeds", train_seeds)
    monkeypatch.setattr("lucidlm.doctor.examine", examine)


@pytest.mark.parametrize(
    ("flag", "command"), [pair for verb in VERBS for pair in SHOWN[verb].items()], ids=lambda text: text
)
def test_a_flag_changes_what_the_verb_does_or_is_refused(outcome, flag, command):
    words = command.split()
    place = words.index(flag)
    end = next((n for n, word in enumerate(words) if n > place and word.startswith("--")), len(words))
    assert outcome(words) != outcome(words[:place] + words[end:])


REFUSED = [
    "evaluate tiny text.txt --seed 5",
    "generate tiny A --seed 1 --protocol lucid",
    "compare tiny other text.txt --seed 5",
    "explain tiny house --batch-size 2",
    "serve tiny --seed 5",
    "serve tiny --runs text.txt",
    "compress tiny text.txt --out a.lucz --dtype bfloat16",
    "decompress tiny text.lucz --out back.txt --dtype bfloat16",
    "decompress tiny text.lucz --out back.txt --seed 5",
    "export tiny --out exported --kind f32",
    "import tiny --out imported --seed 5",
    "evaluate run text.txt --baselines --protocol hf-guide",
    "evaluate tiny text.txt --baselines",
    "report run --html curves.html --unit bits",
    "train --raw",
    "train --config run/run.toml --verbose",
    "train --resume --out run --verbose",
    "train --field body",
    "plan --field body",
    "plan text.txt --gpus 2 --preset gpt2-124m",
    "plan text.txt --mfu 0.5",
]


@pytest.mark.parametrize("command", REFUSED)
def test_a_flag_that_would_be_ignored_is_refused_and_nothing_is_written(outcome, command):
    code, out, err, written, _ = outcome(command.split())
    assert (code, out, written) == (2, "", {})
    assert err.splitlines()[-1].startswith("lucidlm: ")


def test_each_setting_of_train_is_read_by_the_training():
    read = {
        node.attr
        for room in ("training", "runs", "text", "report")
        for path in (Path(lucidlm.__file__).parent / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert {field.name for field in dataclasses.fields(TrainConfig)} - read == set()
