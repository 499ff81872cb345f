import io
import os
import sys
import tempfile
import threading

import pytest

from lucidlm.errors import DataError
from lucidlm.text.documents import read_documents
from lucidlm.text.pipes import readable, refuse_stdin_twice, spooled_stdin


@pytest.fixture
def stdin(monkeypatch):
    """stdin(data): standard input holds these bytes, or is closed for None."""

    def hold(data):
        spooled_stdin.cache_clear()
        monkeypatch.setattr(sys, "stdin", None if data is None else io.TextIOWrapper(io.BytesIO(data)))

    yield hold
    spooled_stdin.cache_clear()


def texts_of(*sources):
    return [document.text() for document in read_documents(sources)]


def test_a_dash_is_standard_input_read_once_and_as_often_as_asked_for(stdin):
    stdin(b"Nobody knew.\n")
    assert texts_of("-") == texts_of("-") == ["Nobody knew.\n"]
    assert readable("-").read_bytes() == b"Nobody knew.\n"


def test_an_empty_standard_input_is_said(stdin):
    stdin(b"")
    with pytest.raises(DataError, match="stdin: the text is empty"):
        texts_of("-")


def test_a_closed_standard_input_is_said(stdin):
    stdin(None)
    with pytest.raises(DataError, match="standard input is closed"):
        texts_of("-")


def test_a_folder_as_standard_input_is_no_fault_of_the_temporary_folder(monkeypatch, tmp_path):
    class Folder(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise IsADirectoryError(21, "Is a directory")

    spooled_stdin.cache_clear()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Folder())))
    with pytest.raises(DataError, match="stdin: cannot be read \\(Is a directory\\)"):
        texts_of("-")
    spooled_stdin.cache_clear()


@pytest.mark.parametrize("sources", [("-", "-"), ("-", "book.txt", "<stdin>")])
def test_one_standard_input_is_not_two_texts(sources):
    with pytest.raises(DataError, match="more than once"):
        refuse_stdin_twice(sources)
    with pytest.raises(DataError, match="more than once"):
        texts_of(*sources)


def test_without_a_temporary_folder_the_line_says_what_to_set(stdin, monkeypatch, tmp_path):
    stdin(b"text")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="set TMPDIR"):
        texts_of("-")
    # and the advice holds
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    stdin(b"text")
    assert texts_of("-") == ["text"]
    assert spooled_stdin().parent == tmp_path


def test_without_any_usual_temporary_folder_the_line_is_the_same(stdin, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    stdin(b"text")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: none())
    with pytest.raises(DataError, match="set TMPDIR"):
        texts_of("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_can_be_read_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"through a pipe",))
    writer.start()
    assert readable(pipe).read_bytes() == readable(pipe).read_bytes() == b"through a pipe"
    writer.join()
