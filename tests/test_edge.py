import contextlib
import errno
import os
import signal
import sys
import types
from dataclasses import dataclass

import pytest

from lucidlm import __main__, edge
from lucidlm.cli import main
from lucidlm.edge import protected, refuse_dash_as_place, restore_docstrings
from lucidlm.errors import LucidError
from lucidlm.runtime.signals import Interrupted


@pytest.mark.parametrize("text", ["-", "---", "- item one", "-5 degrees", "--5", "-=", "-- a", "-\n", "-é"])
def test_what_is_no_flag_is_hidden_from_the_parser_and_comes_back(text):
    arguments = protected(["generate", "run", text, "--stop", text])
    assert all(not argument.startswith("-") for argument in arguments.parsed if argument != "--stop")
    assert [arguments.restored(argument) for argument in arguments.parsed] == arguments.given


@pytest.mark.parametrize(
    "argument", ["-x", "--top-k", "--optim.lr=5", "--stop=- a", "-5", "-1e-300", "-inf", "a"]
)
def test_flags_and_numbers_stay_as_they_are(argument):
    assert protected(["generate", argument]).parsed == ["generate", argument]


def test_after_two_dashes_nothing_is_touched():
    given = ["explain", "run", "--", "-", "--top-k", "--"]
    assert protected(given).parsed == given


def test_texts_come_back_inside_of_tuples_and_settings():
    @dataclass(frozen=True)
    class Settings:
        val: tuple[str, ...]
        steps: int = 3

    arguments = protected(["train", "-", "--val", "- x"])
    name, value = arguments.parsed[1], arguments.parsed[3]
    assert arguments.restored((name, 5, Settings((value,)))) == ("-", 5, Settings(("- x",)))
    assert arguments.spelled(f"{name}: not there") == "-: not there"


@pytest.mark.parametrize("flag", ["out", "html", "csv"])
def test_a_dash_is_no_place_to_write(flag):
    with pytest.raises(LucidError, match=f"--{flag} -: a dash"):
        refuse_dash_as_place({flag: "-"})
    refuse_dash_as_place({flag: "./-", "prompt": "-"})


def told(capsys, *arguments):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_advice_for_what_begins_with_a_dash_names_what_works(capsys):
    line = told(capsys, "generate", "no/such/model", "-x")
    assert 'lucidlm generate ... -- "-x"' in line
    assert "no/such/model" in told(capsys, "generate", "no/such/model", "--", "-x")
    line = told(capsys, "generate", "no/such/model", "A", "--stop", "-x")
    assert "--stop=-x" in line
    assert "no/such/model" in told(capsys, "generate", "no/such/model", "A", "--stop=-x")
    line = told(capsys, "generate", "no/such/model", "--", "-5 degrees", "--num", "2")
    assert "give flags before --" in line
    assert "no/such/model" in told(capsys, "generate", "no/such/model", "--num", "2", "--", "-5 degrees")


def test_a_message_of_the_parser_names_what_was_given(capsys):
    assert "- five" in told(capsys, "generate", "no/such/model", "--top-k", "- five")


def test_debug_after_two_dashes_is_a_text(capsys):
    assert "no/such/model" in told(capsys, "generate", "no/such/model", "--", "--debug")


def test_a_fault_of_our_own_is_one_line_and_its_traceback_is_kept(monkeypatch, capsys, tmp_path):
    def broken(*arguments, **flags):
        raise KeyError("nobody expected\x1b this")

    monkeypatch.setattr(edge.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("lucidlm.runs.listing.list_runs", broken)
    assert main(["runs"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lucidlm: internal error")
    (kept,) = tmp_path.iterdir()
    assert kept.name in line
    assert "in broken" in kept.read_text(encoding="utf-8")
    with pytest.raises(KeyError):
        main(["runs", "--debug"])
    monkeypatch.setattr(edge.tempfile, "tempdir", str(tmp_path / "gone"))
    assert main(["runs"]) == 1
    assert "--debug" in capsys.readouterr().err


def test_a_deleted_current_folder_is_named_as_the_reason_by_all_but_help(monkeypatch, capsys):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(edge.os, "getcwd", gone)
    assert "current folder was deleted" in told(capsys, "runs", "/")
    assert "current folder was deleted" in told(capsys, "info", "modern-1m")
    assert main(["--version"]) == main(["runs", "--help"]) == 0


def as_one_of_two_machines(monkeypatch, number):
    """The environment of one process of torchrun, of two on each of two machines."""
    ranks = {"RANK": number, "LOCAL_RANK": number % 2, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (("evaluate", "modern-1m", "--csv", "-"), [True, False, False, False]),
        (("evaluate", "modern-1m", "--top-k"), [True, False, False, False]),
        (("info", "modern-1m"), [True, False, False, False]),
        (("train", "missing.txt"), [True, False, True, False]),
    ],
)
def test_under_torchrun_an_error_before_the_work_is_printed_by_one_process_of_a_machine_at_most(
    monkeypatch, capsys, command, printed
):
    monkeypatch.setattr(edge, "wait_to_be_ended", lambda: sys.exit(2))  # as torchrun does
    if command[0] == "train":  # a folder that was deleted on both machines
        monkeypatch.setattr(edge.os, "getcwd", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    found = []
    for number in range(4):
        as_one_of_two_machines(monkeypatch, number)
        with contextlib.suppress(SystemExit):
            assert main(command) == 2
        found.append(len(capsys.readouterr().err.splitlines()))
    assert found == printed


def test_an_error_that_only_one_process_of_torchrun_has_is_printed_by_it(monkeypatch, capsys):
    monkeypatch.setattr(edge, "SPEAKS_S", 0.0)  # and then the process still runs: the first one has not ended
    monkeypatch.setattr(edge.os, "getcwd", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    as_one_of_two_machines(monkeypatch, 1)
    assert "current folder was deleted" in told(capsys, "train", "missing.txt")


def test_docstrings_that_were_optimised_away_come_back(monkeypatch):
    module = types.ModuleType("optimised")
    source = '"""About."""\n\ndef verb():\n    """What it does."""\n\ndef silent():\n    pass\n'
    exec(compile(source, "optimised.py", "exec", optimize=2), module.__dict__)
    monkeypatch.setattr(edge.inspect, "getsource", {module: source}.get)
    assert module.verb.__doc__ is None
    restore_docstrings(module)
    assert module.verb.__doc__ == "What it does."
    assert module.silent.__doc__ is None
    restore_docstrings(sys.modules["lucidlm.cli.models"])  # which has its own: no source is read


def test_what_ran_out_is_the_users_and_no_fault_of_ours(monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a")

    monkeypatch.setattr("lucidlm.runs.listing.list_runs", full)
    assert told(capsys, "runs").startswith("lucidlm: runs/a: No space left on device; ")


def test_a_signal_that_python_wrapped_in_an_error_is_still_a_signal(monkeypatch, capsys):
    def interrupted(*_):
        try:
            raise Interrupted(signal.SIGTERM)
        except KeyboardInterrupt as error:  # as Python 3.11 does where a class is being made
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr("lucidlm.runs.listing.list_runs", interrupted)
    assert main(["runs"]) == 128 + signal.SIGTERM
    assert "internal error" not in capsys.readouterr().err


def test_a_fraction_is_not_rounded_where_a_whole_number_is_meant(capsys):
    assert "--steps 2.7" in told(capsys, "train", "no-such.txt", "--steps", "2.7")
    assert "--top-k 0.5" in told(capsys, "generate", "no/such/model", "--top-k=0.5")
    assert "--optim.warmup-steps" in told(capsys, "train", "no-such.txt", "--optim.warmup-steps", "1.5")
    assert "no/such/model" in told(capsys, "generate", "no/such/model", "--top-k", "2.0")


def test_what_is_given_in_the_place_of_something_else_is_told_what_works_for_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for folder, names in {
        "prepared": ("train.npy", "validation.npy"),
        "model": ("config.json", "model.safetensors"),
        "run": ("run.toml",),
    }.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    assert "--resume" not in told(capsys, "train", "model")
    assert "lucidlm train --resume --out run" in told(capsys, "train", "run")
    assert "prepared/run.toml" not in told(capsys, "train", "--config", "prepared")
    assert "evaluate prepared" not in told(capsys, "evaluate", "m", "t", "--baseline", "prepared")
    assert "lucidlm train prepared" in told(capsys, "info", "prepared")
    assert "train.npy: a file" in told(capsys, "runs", "prepared/train.npy")
    assert "--overwrite" not in told(capsys, "train", "--out", "model")


@pytest.mark.parametrize("wrapped", [False, True])
def test_ctrl_c_while_the_modules_are_read_is_one_line(monkeypatch, capsys, wrapped):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "lucidlm.cli":
                if wrapped:
                    raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "lucidlm.cli")
    assert __main__.main() == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_interrupted_process_does_not_wait_for_pythons_end_and_a_caller_in_python_goes_on(monkeypatch):
    from lucidlm.cli import entry

    def interrupted(arguments):
        raise Interrupted(signal.SIGTERM)

    ended: list[int] = []
    monkeypatch.setattr(entry, "_run", interrupted)
    monkeypatch.setattr("sys.argv", ["lucidlm", "info", "run"])
    monkeypatch.setattr(os, "_exit", ended.append)
    assert (entry.main(["info", "run"]), ended) == (143, [])
    assert (entry.main(), ended) == (143, [143])


def test_a_newline_in_a_models_name_breaks_no_line_of_info(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lucidlm.cli.models._planned", lambda model: {"model": model, "parameters": 5})
    monkeypatch.setattr("lucidlm.cli.models._course_values", lambda *_, **__: {})
    run = tmp_path / "two\nlines"
    run.mkdir()
    (run / "run.toml").touch()
    assert main(["info", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
