"""What ran out is said with the way out, whoever raised it: the system, or a library in words of its own."""

import errno
import os
from pathlib import Path

import pytest

from lucidlm.errors import DataError
from lucidlm.runtime.run_out import ran_out, with_way_out
from lucidlm.runtime.small_files import read_small_file

WAYS_OUT = {errno.ENOSPC: "space", errno.EFBIG: "ulimit -f", errno.EMFILE: "ulimit -n"}


@pytest.mark.parametrize("number", WAYS_OUT)
def test_what_ran_out_is_one_line_with_its_file_and_the_way_out(number):
    said = os.strerror(number)
    for name in ("some/file", b"some/file", Path("some/file")):
        line = ran_out(OSError(number, said, name))
        assert line.startswith(f"some/file: {said}; ")
        assert WAYS_OUT[number] in line
    assert ran_out(OSError(number, said)).startswith(said)


def test_a_library_that_says_it_in_words_is_understood():
    line = ran_out(RuntimeError("unable to open file <a>\nin read-only mode: Too many open files (24)"))
    assert "ulimit -n" in line
    assert "\n" not in line
    assert ran_out(OSError("32896 requested and 6336 written")) == ""
    assert ran_out(ValueError("Too many open files")) == ""
    assert ran_out(OSError(errno.EIO, "Input/output error", "a")) == ""


def test_a_small_file_is_not_blamed_for_too_many_open_ones(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("lucidlm.runtime.small_files.os.open", refused)
    with pytest.raises(DataError, match="ulimit -n"):
        read_small_file(tmp_path / "config.json", 10, DataError)


def test_the_way_out_of_a_place_that_is_forbidden_is_not_more_room():
    line = with_way_out(PermissionError(errno.EACCES, "Permission denied", "run/model.safetensors"))
    assert line.startswith("run/model.safetensors: Permission denied (")
    assert "space" not in line
    assert "free some space" in with_way_out(OSError(errno.ENOSPC, "No space left on device"))
    assert "memory" in with_way_out(MemoryError())
