"""Finished pieces in a folder: whole or not there, whoever else writes the same ones."""

import errno
import os
from dataclasses import replace

import pytest

from lucidlm.text.kept import Kept


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path, made_by="this code")


def write(kept, name, data=b"data", record=None):
    with kept.new(name, ["a", "b"]) as piece:
        for kind in "ab":
            piece.paths[kind].write_bytes(data)
        return piece.keep(record or {"count": 5})


def names(kept):
    return sorted(path.name for path in kept.folder.iterdir())


def test_a_piece_is_there_with_its_record_and_nothing_else_is(kept):
    assert kept.record("x") is None
    record = write(kept, "x")
    assert kept.record("x") == record == {
        "count": 5, "sizes": {"a": 4, "b": 4}, "durable": True, "made_by": "this code"
    }  # fmt: skip
    assert names(kept) == ["x.a", "x.b", "x.json"]
    assert kept.path("x", "b").read_bytes() == b"data"


def test_a_piece_that_a_power_cut_may_have_emptied_is_not_found_again(kept):
    brief = Kept(kept.folder, durable=False)
    assert write(brief, "x")["durable"] is False
    assert names(brief) == ["x.a", "x.b", "x.json"]
    assert brief.record("x") is kept.record("x") is None
    write(kept, "x")
    assert kept.record("x") is not None


def test_a_piece_that_other_code_has_made_is_not_found_and_made_again(kept):
    other = replace(kept, made_by="other code")
    write(other, "x", b"other data")
    assert other.record("x") is not None
    assert kept.record("x") is None
    assert write(kept, "x") == kept.record("x")
    assert kept.path("x", "a").read_bytes() == b"data"


@pytest.mark.parametrize("harm", ["x.a", "x.b", "x.json"])
def test_a_piece_that_is_not_whole_is_not_there(kept, harm):
    write(kept, "x")
    whole = (kept.folder / harm).read_bytes()
    (kept.folder / harm).write_bytes(whole[:-1])
    assert kept.record("x") is None
    (kept.folder / harm).unlink()
    assert kept.record("x") is None
    (kept.folder / harm).write_bytes(whole)
    assert kept.record("x") is not None
    for record in (b"5", b"[]", b"{}", b'{"durable": true, "made_by": "this code"}'):
        (kept.folder / "x.json").write_bytes(record)
        assert kept.record("x") is None


def test_of_a_piece_that_is_given_up_nothing_is_left(kept):
    with kept.new("x", ["a"]) as piece:
        piece.paths["a"].write_bytes(b"half")
    with pytest.raises(TypeError):
        write(kept, "x", data="no bytes")
    assert names(kept) == []


def test_a_process_that_lives_on_harms_neither_the_piece_of_another_nor_a_link_to_it(kept, tmp_path):
    with kept.new("x", ["a", "b"]) as late, open(late.paths["a"], "wb") as file:
        file.write(b"da")
        file.flush()
        assert kept.record("x") is None
        record = write(kept, "x")
        os.link(kept.path("x", "a"), tmp_path / "result")
        file.write(b"ta")
        file.flush()
        assert (tmp_path / "result").read_bytes() == b"data"
        late.paths["b"].write_bytes(b"data")
        late.keep({"count": 5})
    assert kept.record("x") == record
    assert (tmp_path / "result").read_bytes() == kept.path("x", "a").read_bytes() == b"data"
    assert names(kept) == ["result", "x.a", "x.b", "x.json"]


def test_a_folder_that_the_next_preparation_has_deleted_is_not_made_again(kept, monkeypatch):
    kept = replace(kept, folder=kept.folder / "parts")
    kept.folder.mkdir()
    replace_file = os.replace

    def deleted(path, final):
        replace_file(path, final)
        if str(final).endswith(".b"):
            kept.delete()

    monkeypatch.setattr(os, "replace", deleted)
    with pytest.raises(FileNotFoundError):
        write(kept, "x")
    assert not kept.folder.exists()


def test_what_is_swept_is_the_unwanted_and_the_unfinished(kept):
    for name in ("read-1", "read-2", "look-1"):
        write(kept, name)
    for name in ("read-1.a.0f.tmp", ".read-1.json.77.tmp", "look-1.a.0f.tmp"):
        (kept.folder / name).write_bytes(b"half")
    kept.sweep("read-", lambda name: name == "read-1")
    assert names(kept) == [
        "look-1.a", "look-1.a.0f.tmp", "look-1.b", "look-1.json", "read-1.a", "read-1.b", "read-1.json"
    ]  # fmt: skip


def test_an_error_names_the_file_of_the_piece(kept, monkeypatch):
    with pytest.raises(FileNotFoundError) as caught, kept.new("x", ["a"]) as piece:
        piece.paths["a"].read_bytes()
    assert caught.value.filename == str(kept.path("x", "a"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space") as caught:
                write(kept, "x")
        assert caught.value.filename == str(kept.path("x", "a"))
        assert kept.record("x") is None
