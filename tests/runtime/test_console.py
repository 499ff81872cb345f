import io
import json
import logging
import os
import sys

import pytest

from lucidlm.errors import OutputError
from lucidlm.runtime import console
from lucidlm.runtime.console import say, show, show_generated, show_json, sound_streams

NASTY = "Größe 日本 😀 \\udce9 \x1b[31m\x9b \u202e"


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def written(monkeypatch, call, *, encoding="utf-8", kind=io.TextIOWrapper, errors="strict"):
    """What `call` writes to a standard output of this encoding, as text."""
    stream = kind(io.BytesIO(), encoding=encoding, errors=errors, newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    with sound_streams():
        call()
        sys.stdout.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    "encoding", ["ascii", "cp1252", "cp437", "latin-1", "utf-8", "utf-16-le", "shift_jis"]
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_any_text_goes_out_on_a_stream_of_any_encoding(monkeypatch, encoding, errors):
    text = "Größe 日本 😀 \udce9"
    shown = written(monkeypatch, lambda: show(text), encoding=encoding, errors=errors)
    expected = "Größe 日本 😀".encode(encoding, "backslashreplace").decode(encoding)
    assert shown == f"{expected} \\udce9\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16-le"])
def test_json_is_the_same_json_on_a_stream_of_any_encoding(monkeypatch, encoding):
    value = {"text": NASTY + "\n\x7f\u2028", "rows": [[1.5, 2.0]], "none": float("nan")}
    shown = written(monkeypatch, lambda: show_json(value), encoding=encoding)
    assert json.loads(shown) == value | {"none": None}
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert ("日" in shown) == encoding.startswith("utf")


def test_generated_text_is_raw_in_a_file_and_harmless_on_a_terminal(monkeypatch):
    text = "a\x1b[2Jb\r\x07"
    assert written(monkeypatch, lambda: show_generated(text)) == text + "\n"
    assert written(monkeypatch, lambda: show_generated(text), kind=Terminal) == "a\\x1b[2Jb\\r\\x07\n"
    assert written(monkeypatch, lambda: show(text)) == "a\\x1b[2Jb\\r\\x07\n"


def test_a_note_is_one_line_without_controls(capsys):
    say("a name\nof two lines \x1b]0;title\x07")
    assert capsys.readouterr().err == "a name\\nof two lines \\x1b]0;title\\x07\n"


def test_what_a_library_logs_is_one_line_without_controls(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    with sound_streams():
        logging.getLogger("some.library").warning("a font \x1b[31m\nof two lines")
    assert capsys.readouterr().err == "a font \\x1b[31m\\nof two lines\n"


def test_closed_streams_take_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with sound_streams():
        show("a")
        say("b")
        assert not sys.stdout.isatty()
    assert sys.stdout is None
    say("a library call in a process without a console")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full here")
def test_a_full_standard_output_is_said_and_a_full_standard_error_stops_nothing(monkeypatch):
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with sound_streams():
            say("a note")
            sys.stderr.flush()
            show("x")
            with pytest.raises(OutputError):
                sys.stdout.flush()
            sys.stdout.flush()  # what is left of it goes nowhere


def test_closed_descriptors_are_never_taken_by_the_next_file(monkeypatch):
    opened = []
    closed = {0, 2}

    def fstat(descriptor):
        if descriptor in closed:
            raise OSError(9, "Bad file descriptor")

    with monkeypatch.context() as patch:
        patch.setattr(console.os, "fstat", fstat)
        patch.setattr(console.os, "open", lambda path, flags: opened.append((path, flags)))
        patch.setattr(sys, "__stdin__", None)
        patch.setattr(sys, "__stderr__", None)
        with sound_streams():
            pass
    assert opened == [(os.devnull, os.O_RDONLY), (os.devnull, os.O_WRONLY)]
