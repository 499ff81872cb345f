"""Random command lines: every verb and flag that the parser knows, odd values, odd files; no traceback."""

import functools
import gc
import os
import random
import re
import shlex
import shutil
import signal
import socket
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import SMALLEST

from lucidlm.cli import app, main
from lucidlm.edge import END_OF_FLAGS
from lucidlm.model.presets import PLAIN
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.signals import Interrupted
from lucidlm.training.schedule import trapezoid

VERBS = [name for name in app if not name.startswith("-")]
PLACES = {"--out", "--html", "--csv", "--svg"}
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "-0",
    "+5",
    "0.5",
    "1.0",
    "2.5",
    "1e-300",
    "1e308",
    "1e400",
    "-1e308",
    "nan",
]
NUMBERS += [
    "inf",
    "-inf",
    "9" * 30,
    "1" + "0" * 12,
    str(2**31),
    str(2**63),
    str(2**64),
    "1_000",
    "0x10",
    "1e3",
]
NUMBERS += ["٣", "½", " 5", "5 ", "true", "None"]
WORDS = [
    "",
    " ",
    "-",
    "---",
    "- item",
    "-5 degrees",
    "\x1b[31m",
    "a\nb",
    "a\tb",
    "\r",
    "☃",
    "\udcff",
    "\u202e",
    "a,b",
]
WORDS += [
    "x" * 300,
    "x" * 5000,
    "{}",
    '{"a": 1}',
    "[1]",
    "%s",
    "{0}",
    "auto",
    "none",
    "utf-16",
    "rot13",
    "base64",
]
WORDS += [
    "bpe:300",
    "bpe:1",
    "bpe:-1",
    "bpe:x",
    "bpe:" + "9" * 30,
    "bytes",
    "gpt2",
    "cpu",
    "cuda:99",
    "cpu:7",
    "meta",
]
FILES = [
    "book.txt",
    "empty.txt",
    "latin.txt",
    "binary.bin",
    "text.bin",
    "page.html",
    "lines.jsonl",
    "odd.jsonl",
]
FILES += [
    "broken.epub",
    "broken.pdf",
    "broken.txt.gz",
    "folder",
    "nothing",
    "loop",
    "dangling",
    "no\nline.txt",
]
FILES += [
    "\x1b[2J.txt",
    os.fsdecode(b"caf\xe9.txt"),
    "settings.toml",
    "wrong.toml",
    "base.json",
    "squeezed.lucz",
]
FILES += [
    "run/run.toml",
    "run/metrics.jsonl",
    "run/model.safetensors",
    "prepared",
    "*.txt",
    "**",
    "[",
    "no/such.txt",
]
FILES += [
    ".",
    "..",
    "~",
    "book.txt/x",
    "http://127.0.0.1:9/a.txt",
    "http://nowhere.invalid/a",
    "https://[",
    "ftp://a/b",
]
MODELS = [
    "run",
    "run/checkpoints/step_000002",
    "model",
    "damaged",
    "modern-1m",
    "lecture-2",
    "gpt2",
    "owner/name",
    "gpt9",
]
NEW = [
    "new",
    "new/deep/er",
    "new.gguf",
    ".",
    "",
    "book.txt",
    "book.txt/x",
    "run",
    "folder",
    "-",
    "a\nb",
    "x" * 300,
]
NEW += ["\x1b[31m", "\udcff", "no/../such", "~", "dangling", "loop"]
QUICK = {"train": ["--steps", "1", "--tokenizer", "bytes", "--preset", "modern-1m", "--context-length", "8"]}
QUICK["train"] += ["--batch-tokens", "8"]
QUICK["plan"] = QUICK["train"]
LEFT_OPEN = "ignore::pytest.PytestUnraisableExceptionWarning"
"""The alarm's exception can come while a file or socket is opened, which then nobody closes."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A folder with a run, models and texts, good ones and odd ones."""
    from lucidlm.text.tokenizer import Tokenizer
    from lucidlm.training.loop import train
    from lucidlm.weights.export import export
    from lucidlm.weights.load import load

    here = tmp_path_factory.mktemp("pristine")
    before = os.getcwd()
    os.chdir(here)
    try:
        _write_texts(here)
        optim = replace(PLAIN, name="adamw", lr=1e-3, matrix_lr=0.02, weight_decay=0.1)
        plan = Plan(
            model=SMALLEST, optim=optim, batch_size=2, micro_batch=2, steps=2, validate_every=2, threads=1,
            schedule=trapezoid(2, warmup_steps=1, decay_fraction=0.5), dtype="float32", early_stop=False,
            validation_tokens=64,
        )  # fmt: skip
        train(TrainConfig(text="book.txt", out="run", tokenizer="bytes", device="cpu", threads=1), plan=plan)
        export(*load("run")[:1], Tokenizer.from_spec("bytes"), "model")
        shutil.copytree("model", "damaged")
        (here / "damaged" / "config.json").write_text('{"model_type": "gpt2", "n_layer": "many"}')
        assert main(["prepare", "book.txt", "--out", "prepared", "--tokenizer", "bytes"]) == 0
        assert main(["compress", "run", "empty.txt", "--out", "squeezed.lucz", "--threads", "1"]) == 0
    finally:
        os.chdir(before)
    return here


def _write_texts(here: Path) -> None:
    (here / "book.txt").write_text("Nobody knew why the river ran past a house.\n" * 30)
    (here / "empty.txt").touch()
    (here / "latin.txt").write_bytes("Größe und Güte. ".encode("latin-1") * 20)
    (here / "binary.bin").write_bytes(bytes(range(256)) * 4)
    (here / "text.bin").write_bytes(b"plain text in a file called bin\n" * 20)
    (here / "page.html").write_text("<title>A</title><p>Nobody &amp; knew." * 20)
    (here / "lines.jsonl").write_text('{"text": "Nobody knew."}\n' * 20)
    (here / "odd.jsonl").write_text('{"text": 5}\n[]\n{"text": null}\n')
    for name in ("broken.epub", "broken.pdf", "broken.txt.gz"):
        (here / name).write_bytes(b"\x1f\x8b\x08PK\x03\x04%PDF-1.4" * 9)
    for name in ("no\nline.txt", "\x1b[2J.txt", os.fsdecode(b"caf\xe9.txt")):
        (here / name).write_text("Nobody knew why.\n" * 20)
    (here / "nothing").mkdir()
    (here / "folder").mkdir()
    (here / "folder" / "a.txt").write_text("The light fell. " * 30)
    (here / "folder" / "b.log").write_text("log")
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("no/such/file")
    (here / "settings.toml").write_text('steps = 1\ntext = "book.txt"\n')
    (here / "wrong.toml").write_text("steps = 1e400\nseed = true\noptim = 5\n")
    (here / "base.json").write_text('{"protocol": 5, "units": [[1, 2]], "bits_per_byte": "x"}')


@pytest.fixture
def place(pristine, tmp_path, monkeypatch, capsys) -> Iterator[Path]:
    """A copy of it as the current folder, without a network, where no probe takes long."""
    from lucidlm.runtime import web
    from lucidlm.training import start

    def no_network(*arguments, **flags):
        raise socket.gaierror(-2, "Name or service not known")

    here = tmp_path / "here"
    shutil.copytree(pristine, here, symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(web.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(start, "fastest_exact_float32", lambda device: ("stock", "float32: stock"))
    monkeypatch.setattr("sys.stdin", None)
    return here


@functools.cache
def flags_of(verb: str) -> dict[str, typing.Any]:
    """Every flag of a verb, --no-... and all, with the type of its value."""
    found: dict[str, typing.Any] = {"--help": bool, "--version": bool}
    for argument in app[verb].assemble_argument_collection():
        for name in argument.names:
            if name.startswith("--"):
                found[name] = bool if name.startswith(("--no-", "--empty-")) else argument.hint
    return found


def odd_command(draw: random.Random) -> list[str]:
    """A verb with sound arguments, some of which are made odd, and some flags that may exist."""
    verb = draw.choice(VERBS)
    flags = flags_of(verb)
    oddness = draw.choice((0, 0, 0.1, 0.5))
    words = [verb]
    for place in places_of(verb):
        good, odd = (MODELS[:3], MODELS) if "model" in place or place == "--source" else (FILES[:1], FILES)
        words.append(draw.choice(good if draw.random() >= oddness else [*odd, *FILES, *WORDS]))
    if draw.random() < oddness:
        words.append(draw.choice([*FILES, *WORDS]))
    if "--out" in flags and draw.random() < 0.97:
        words += ["--out", draw.choice(NEW if draw.random() < oddness else NEW[:3])]
    words += QUICK.get(verb, []) if draw.random() < 0.7 else []
    for name in draw.sample(
        sorted(flags.keys() - {"--out"}), k=min(len(flags) - 1, draw.choice((0, 1, 1, 1, 2, 3)))
    ):
        value, shape = odd_value(name, flags[name], draw), draw.random()
        if name in ("--help", "--version") and shape < 0.9:
            continue
        if flags[name] is bool and shape < 0.95:
            words.append(name)
        elif shape < 0.2 or value.startswith("-"):
            words.append(f"{name}={value}")
        else:
            words += [name, value] if shape < 0.98 else [name]
    if draw.random() < 0.03:
        words.insert(
            draw.randrange(len(words) + 1), draw.choice([END_OF_FLAGS, "--nonsense", "-q", "--optim", "-"])
        )
    return words


@functools.cache
def places_of(verb: str) -> list[str]:
    """The names of the arguments of a verb that have a place instead of a flag."""
    return [
        argument.names[0]
        for argument in app[verb].assemble_argument_collection()
        if argument.field_info.kind.name != "KEYWORD_ONLY" and "." not in argument.names[0]
    ]


def odd_value(name: str, hint: typing.Any, draw: random.Random) -> str:
    """A value that a flag of this type might be given."""
    kinds = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    if name in PLACES:
        return draw.choice(NEW)
    if draw.random() < 0.1:
        return draw.choice([*WORDS, *NUMBERS, *FILES])
    if int in kinds or float in kinds:
        return draw.choice(NUMBERS)
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            return draw.choice([*typing.get_args(kind), "", "AUTO"])
    return draw.choice([*WORDS, *FILES, *MODELS])


class Alarm:
    """Interrupts a command that is right and would run for long, as Ctrl-C does."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.rang = seconds, False

    def __enter__(self) -> "Alarm":
        self.before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, 10.0)
        return self

    def _ring(self, *_: object) -> None:
        self.rang = True
        raise Interrupted(signal.SIGINT)  # no true signal: a second one would end the tests

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        if self.rang:  # perhaps just before the command put it back: later commands would fail
            signal.set_wakeup_fd(-1)


def answer(command: list[str], capsys, seconds: float) -> tuple[int, bool, str]:
    """Exit code, whether it was interrupted, standard error."""
    capsys.readouterr()
    with Alarm(seconds) as alarm:
        try:
            code = main(command)
        except KeyboardInterrupt:  # just before or after all of main
            code = 130
    torch.set_num_threads(1)
    return code, alarm.rang, capsys.readouterr().err


def fault_of(code: int, rang: bool, err: str) -> str:
    """What is wrong with an answer; "" of a good one."""
    if "Traceback" in err or "internal error" in err:
        return "a traceback"
    if code not in (0, 1, 2) and not (rang and code == 130):
        return f"exit code {code}"
    if any(not letter.isprintable() and letter not in "\n\t" for letter in err):
        return "a control character"
    if code == 1 and "lucidlm: " in err:
        return "an error without a way out"
    lines = [line for line in err.splitlines() if line.startswith("lucidlm: ")]
    if code == 2 and (len(lines) != 1 or err.splitlines()[-1] != lines[0]):
        return "no single line at the end"
    return ""


def faults_of(commands: Iterable[list[str]], pristine: Path, capsys, seconds: float) -> list[str]:
    """The faults that these commands show."""
    faults = []
    for command in commands:
        code, rang, err = answer(command, capsys, seconds)
        if what := fault_of(code, rang, err):
            kept = re.search(r"which is in (\S+)", err)
            trace = Path(kept[1]).read_text(encoding="utf-8")[-900:] if kept else ""
            faults.append(f"{what} ({code}): {shlex.join(command)[:600]}\n{err[-500:]}{trace}")
        _tidy(Path.cwd(), pristine)
    gc.collect()  # what the alarm left open is noticed here, where that is allowed
    return faults


def _tidy(here: Path, pristine: Path) -> None:
    """What a command made is deleted, what it changed is put back."""
    for made in {path.name for path in here.iterdir()} - {path.name for path in pristine.iterdir()}:
        (shutil.rmtree if (here / made).is_dir() and not (here / made).is_symlink() else os.unlink)(
            here / made
        )
    for old in pristine.rglob("*"):
        if old.is_file() and not old.is_symlink():
            new = here / old.relative_to(pristine)
            if not new.is_file() or new.stat().st_mtime_ns != old.stat().st_mtime_ns:
                shutil.rmtree(here / old.relative_to(pristine).parts[0], ignore_errors=True)
                shutil.copytree(pristine, here, symlinks=True, dirs_exist_ok=True)
                return


def test_every_verb_and_flag_comes_up():
    draw = random.Random(0)
    commands = [odd_command(draw) for _ in range(6000)]
    for verb in VERBS:
        given = {word.partition("=")[0] for command in commands if command[0] == verb for word in command}
        assert flags_of(verb).keys() - given <= {"--help", "--version"}, verb


@pytest.mark.filterwarnings(LEFT_OPEN)
def test_random_commands_show_no_traceback(place, pristine, capsys):
    draw = random.Random(11)
    assert not faults_of((odd_command(draw) for _ in range(32)), pristine, capsys, 0.25)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings(LEFT_OPEN)
def test_two_thousand_random_commands_show_no_traceback(place, pristine, capsys):
    draw = random.Random(int(os.environ.get("LUCIDLM_SEED", "12")))
    faults = faults_of((odd_command(draw) for _ in range(2000)), pristine, capsys, 1.5)
    assert not faults, "\n\n".join(faults)
