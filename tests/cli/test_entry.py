"""The way in: help, slips, streams, places, and names of any kind; a slip is one line and exit code 2."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from command_line import QUICK, Answer

import lucidlm
from lucidlm.errors import ConfigError
from lucidlm.runtime.places import path_text
from lucidlm.text.pipes import spooled_stdin


def test_version_is_the_packages(call):
    assert call("--version") == Answer(0, f"{lucidlm.__version__}\n", "")


VERBS = ("train", "evaluate", "explain", "generate", "compare", "compress", "decompress")


VERBS += ("import", "export", "prepare", "info", "runs", "report", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_goes_to_stdout(call, verb):
    helped = call(verb, "--help")
    assert (helped.code, helped.err) == (0, "")
    assert f"lucidlm {verb}" in helped.out


def test_help_names_every_verb(call):
    assert all(verb in call("--help").out for verb in VERBS)


def test_help_of_every_verb_needs_no_torch():
    program = f"""
import sys
from lucidlm.cli import main
for verb in {VERBS!r}:
    try:
        main([verb, "--help"])
    except SystemExit as stopped:
        assert not stopped.code
    assert "torch" not in sys.modules, verb
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


SLIPS = {
    "missing file": (("train", "nowhere.txt", "--out", "new"), "nowhere.txt"),
    "empty file": (("train", "empty.txt", "--out", "new"), "empty.txt"),
    "binary file": (("train", "binary.txt", "--out", "new"), "binary.txt"),
    "other encoding": (("train", "latin.txt", "--out", "new"), "--encoding"),
    "folder without text": (("train", "nothing", "--out", "new"), "nothing"),
    "unknown preset": (("train", "book.txt", "--preset", "gigantic", "--out", "new"), "gigantic"),
    "unknown tokenizer": (("train", "book.txt", "--tokenizer", "runes", "--out", "new"), "runes"),
    "unknown device": (("train", "book.txt", "--device", "abacus", "--out", "new"), "abacus"),
    "two budgets": (("train", "book.txt", "--steps", "5", "--minutes", "1"), "--minutes and --steps"),
    "no steps": (("train", "book.txt", "--steps", "0"), "--steps 0"),
    "batch under a window": (("train", "book.txt", "--out", "new", *QUICK[:-6], "8", "--steps", "1"), "8"),
    "existing run": (("train", "book.txt", "--out", "run", "--steps", "1"), "--overwrite"),
    "unknown key": (("train", "book.txt", "--config", "wrong.toml"), "stepz"),
    "broken settings": (("train", "book.txt", "--config", "broken.toml"), "broken.toml"),
    "missing settings": (("train", "book.txt", "--config", "nowhere.toml"), "nowhere.toml"),
    "nothing to resume": (("train", "--resume", "--out", "nothing"), "nothing"),
    "resume without a run": (("train", "--resume"), "--out"),
    "unknown model": (("evaluate", "nowhere", "book.txt"), "nowhere"),
    "folder that is no model": (("evaluate", "nothing", "book.txt"), "nothing"),
    "preset without a text": (("evaluate", "modern-1m"), "text"),
    "missing text": (("evaluate", "run", "nowhere.txt"), "nowhere.txt"),
    "stride over the context": (("evaluate", "run", "book.txt", "--stride", "33"), "33"),
    "stride with the harness's windows": (
        ("evaluate", "run", "book.txt", "--protocol", "lm-eval", "--stride", "4"),
        "--stride 4",
    ),
    "context over the model's": (("evaluate", "run", "book.txt", "--context-length", "33"), "1 to 32"),
    "empty text to evaluate": (("evaluate", "run", "empty.txt"), "empty.txt"),
    "text that is no UTF-8": (("evaluate", "run", "latin.txt"), "--encoding"),
    "nothing to explain": (("explain", "run"), "--file"),
    "an empty text to explain": (("explain", "run", ""), "0 tokens"),
    "stride over the context in explain": (("explain", "run", "a", "--stride", "99"), "--stride 99"),
    "unknown model to compare": (("compare", "run", "nowhere", "book.txt"), "nowhere"),
    "no model to compare": (("compare", "run", ",", "book.txt"), "','"),
    "one run for two seeds": (("compare", "run,run", "modern-1m", "book.txt"), "run and run"),
    "missing file to compress": (("compress", "run", "nowhere.txt", "--out", "new"), "nowhere.txt"),
    "what was never compressed": (("decompress", "run", "book.txt", "--out", "new"), "lucidlm compress"),
    "another model to decompress": (
        ("decompress", "modern-1m", "other.lucz", "--out", "new"),
        "another model",
    ),
    "negative temperature": (("generate", "run", "A", "--temperature", "-1"), "-1"),
    "no tokens": (("generate", "run", "A", "--max-new-tokens", "-1"), "-1"),
    "missing text to prepare": (("prepare", "nowhere.txt", "--out", "new"), "nowhere.txt"),
    "unknown model to inform about": (("info", "nowhere"), "nowhere"),
}


@pytest.mark.parametrize(("arguments", "named"), SLIPS.values(), ids=list(SLIPS))
def test_a_slip_is_one_line_that_names_it_and_exit_code_2(call, squeezed, home, arguments, named):
    slipped = call(*arguments)
    assert slipped.code == 2
    assert slipped.out == ""
    assert "Traceback" not in slipped.err
    errors = [line for line in slipped.lines if line.startswith("lucidlm: ")]
    assert len(errors) == 1
    assert slipped.lines[-1] == errors[0]
    assert named in errors[0]
    assert not (home / "new").exists()


PARSING = {
    "unknown flag": (("train", "book.txt", "--stepz", "5"), "--stepz"),
    "unknown verb": (("trane", "book.txt"), "trane"),
    "words for a number": (("train", "book.txt", "--steps", "many"), "many"),
    "unknown choice": (("train", "book.txt", "--dtype", "float8"), "float8"),
    "missing model": (("evaluate",), "MODEL"),
    "missing value": (("train", "book.txt", "--config"), "--config"),
}


@pytest.mark.parametrize(("arguments", "named"), PARSING.values(), ids=list(PARSING))
def test_what_cannot_be_parsed_is_named_on_stderr_with_exit_code_2(call, arguments, named):
    slipped = call(*arguments)
    assert slipped.code == 2
    assert slipped.out == ""
    assert named.lower() in slipped.err.lower()
    assert "Traceback" not in slipped.err


def test_debug_shows_where_an_error_came_from(call):
    with pytest.raises(ConfigError, match="--steps 0"):
        call("train", "book.txt", "--steps", "0", "--debug")


def test_debug_prints_the_traceback_and_still_fails(home):
    done = subprocess.run(
        [sys.executable, "-m", "lucidlm", "train", "--steps", "0", "--debug"],
        cwd=home, capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_a_reader_that_has_enough_is_no_error(home, tmp_path):
    command = ["prepare", str(home / "book.txt"), "--tokenizer", "bytes", "--out", "new"]  # without PyTorch
    program = f"import sys; from lucidlm.cli import main; sys.exit(main({command}))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def _command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "lucidlm", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_no_verb_shows_the_help(tmp_path):
    done = _command(cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "train" in done.stdout + done.stderr


SLIPS = [("train", "--stepz", "5"), ("trane",), ("train", "--steps", "many"), ("evaluate",), ("--nonsense",)]


@pytest.mark.parametrize("arguments", SLIPS)
def test_what_cannot_be_parsed_is_one_line(tmp_path, arguments):
    done = _command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"lucidlm: .*\n", done.stderr)


@pytest.mark.parametrize("arguments", [("--seed", str(10**20)), ("--out", "book.txt/run")])
def test_more_slips_are_one_line_and_exit_code_2(call, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("The tide came in and the tide went out. " * 50)
    quick = ("train", "book.txt", "--steps", "1", "--preset", "modern-1m", "--tokenizer", "bytes")
    slipped = call(*quick, *arguments)
    assert slipped.code == 2
    assert "Traceback" not in slipped.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("evaluate", "run", "-", "--no-baselines", "--json"), '"bytes_total": 23,'),
        (("explain", "run", "--file", "-", "--json"), '"Nobody knew the house.'),
    ],
)
def test_a_dash_is_standard_input(answer, monkeypatch, arguments, told):
    reading, writing = os.pipe()
    os.write(writing, b"Nobody knew the house.\n")
    os.close(writing)
    spooled_stdin.cache_clear()  # a process reads it once
    with open(reading, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert told in answer(*arguments).out
    spooled_stdin.cache_clear()


def test_a_dash_is_no_place_to_write(call, home):
    assert call("prepare", "book.txt", "--out", "-").code == 2
    assert not (home / "<stdin>").exists()


UNTIL_OPENMP_IS_LOADED = """
import os, runpy, sys

class Loaded:
    def find_spec(name, path=None, target=None):
        if name == "torch._C":  # PyTorch loads OpenMP before its own code, which takes longer
            os._exit(77)

sys.meta_path.insert(0, Loaded)
runpy.run_module("lucidlm", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is PyTorch's on Linux")
@pytest.mark.parametrize(
    ("environment", "command", "spins"),
    [
        ({}, ["info", "modern-1m"], 10_000),
        ({}, ["train", "no-such-text.txt"], 300_000),
        ({"GOMP_SPINCOUNT": "77"}, ["info", "modern-1m"], 77),
        ({"OMP_WAIT_POLICY": "active"}, ["info", "modern-1m"], 30_000_000_000),
    ],
)
def test_waiting_threads_leave_the_processor_soon_unless_the_user_says_otherwise(environment, command, spins):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_OPENMP_IS_LOADED, *command],
        env=inherited | environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 77, done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr  # what the library itself says that it read


def test_memory_that_cannot_be_had_is_one_line_in_every_verb(call, trained, monkeypatch):
    from lucidlm.runtime import memory

    commands = [["evaluate", "run"], ["generate", "run"], ["export", "run", "--out", "none"]]
    commands += [["train", "book.txt", "--steps", "1", "--preset", "modern-1m", "--out", "none"]]
    with monkeypatch.context() as little:
        little.setattr(memory, "free_memory", lambda: memory.Free(1_000_000, "a limit"))
        for command in commands:
            refused = call(*command)
            assert refused.code == 2
            assert "1 MB are free (a limit)" in refused.lines[-1]
        assert "1,557,611,200" in call("info", "gpt2-1558m").out

    def fail(*arguments, **named):
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("lucidlm.measure.explanation.explain_texts", fail)
    failed = call("explain", "run", "the river")
    assert failed.code == 2
    assert failed.lines[-1].startswith("lucidlm: out of memory")


ODD = os.fsdecode(b"caf\xe9")


ODD_QUICK = [
    ["train", "--resume", "--out", ODD],
    ["prepare", f"{ODD}-texts", "--out", f"{ODD}-p", "--tokenizer", "bytes"],
    ["evaluate", ODD, f"{ODD}-texts", "--no-baselines", "--by", "document", "--csv", f"{ODD}.csv"],
    ["explain", ODD, "--file", f"{ODD}-texts/{ODD}.txt", "--html", f"{ODD}.html"],
    ["info", ODD],
]


ODD_SLOW = [
    ["evaluate", ODD, f"{ODD}-texts", "--html", f"{ODD}2.html"],
    ["compare", ODD, "run", f"{ODD}-texts/{ODD}.txt", "--html", f"{ODD}3.html"],
    ["compress", ODD, f"{ODD}-texts/{ODD}.txt", "--out", f"{ODD}.z"],
    ["decompress", ODD, f"{ODD}.z", "--out", f"{ODD}.back"],
    ["runs", "."],
    ["train", f"{ODD}-texts/{ODD}.txt", "--from", ODD, "--steps", "1", "--out", f"{ODD}-on"],
    ["train", "--config", f"{ODD}-on/run.toml", "--out", f"{ODD}-again"],
    ["train", f"{ODD}-p", "--steps", "1", "--out", f"{ODD}-prepared", *QUICK],
    ["train", "--resume", "--out", f"{ODD}-prepared"],
]


@pytest.mark.parametrize("commands", [ODD_QUICK, pytest.param(ODD_SLOW, marks=pytest.mark.torture)])
def test_names_that_are_no_utf8_are_read_and_written_by_every_verb(call, trained, home, commands):
    if not (home / ODD).exists():
        try:
            shutil.copytree(home / "run", home / ODD)
        except OSError:
            pytest.skip("this disk takes UTF-8 alone")
        (home / f"{ODD}-texts").mkdir()
        for name in ("a", ODD):
            shutil.copy(home / "other.txt", home / f"{ODD}-texts" / f"{name}.txt")
    for command in commands:
        told = call(*command)
        assert told.code == 0, (command, told.err)
    for page in home.glob(f"{ODD}*.[ch]*"):
        assert r"caf\udce9" in page.read_bytes().decode("utf-8")
    for manifest in home.glob(f"{ODD}-p/manifest.json"):
        assert json.loads(manifest.read_bytes())["sources"][1]["path"] == path_text(f"{ODD}-texts/{ODD}.txt")
    for back in home.glob(f"{ODD}.back"):
        assert back.read_bytes() == (home / "other.txt").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(
    ("umask", "mode"), [(0o077, 0o600), pytest.param(0o002, 0o664, marks=pytest.mark.torture)]
)
def test_every_file_that_is_written_obeys_the_umask(call, trained, home, umask, mode):
    place = f"umask-{umask:o}"
    (home / place).mkdir()
    before = os.umask(umask)
    try:
        quick = ["--steps", "1", "--preset", "modern-1m", "--context-length", "32", "--batch-tokens", "64"]
        commands = [["train", "book.txt", "--out", f"{place}/run", *quick, "--tensorboard"]]
        commands += [
            ["prepare", "book.txt", "--out", f"{place}/prepared"],
            ["export", "run", "--out", f"{place}/hf"],
        ]
        commands += [["export", "run", "--out", f"{place}/x.gguf", "--format", "gguf"]]
        commands += [["explain", "run", "the river", "--html", f"{place}/new/page.html"]]
        commands += [["compress", "run", "other.txt", "--out", f"{place}/x.z"]]
        for command in commands:
            told = call(*command)
            assert told.code == 0, (command, told.err)
    finally:
        os.umask(before)
    written = list((home / place).rglob("*"))
    assert any(path.name == "optimizer.safetensors" for path in written)
    odd = {
        path.name: oct(path.stat().st_mode)
        for path in written
        if path.is_file() and path.stat().st_mode & 0o777 != mode
    }
    assert odd == {}
    folders = {path.stat().st_mode & 0o777 for path in written if path.is_dir()}
    assert folders == {0o777 & ~umask}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on file sizes")
def test_a_limit_on_file_sizes_names_the_file_and_leaves_nothing(call, trained, home):
    import resource

    commands = {"limit-1": ["prepare", "book.txt"], "limit-2": ["export", "run"]}
    commands |= {"limit-3": ["explain", "run", "the river"], "limit-4": ["evaluate", "run", "book.txt"]}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for place, command in commands.items():
        flag = "--html" if command[0] in ("explain", "evaluate") else "--out"
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            told = call(*command, flag, place)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert told.code in (1, 2)
        assert place in told.lines[-1]
        assert "too large" in told.lines[-1]
        assert not [path for path in home.iterdir() if place in path.name]
