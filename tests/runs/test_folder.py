"""A new run gets a folder of its own: no run is overwritten unasked, and no name is given to two."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from recorded import Recorded
from trainings import begun_run

from lucidlm.errors import RunError
from lucidlm.runs import folder as runs
from lucidlm.runs.folder import claimed_run_folder, new_run_folder

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the-verdict.txt", "the-verdict"),
        ("books/war and peace.txt.gz", "war-and-peace"),
        ("corpus/", "corpus"),
        ("https://example.org/files/pg84.txt", "pg84"),
        ("größe.md", "größe"),
        ("-", "stdin"),
        ("books/*.txt", "books"),
        ("books/../.", "here"),
        (f"{'long' * 50}.txt", "long" * 25),
        ("-- all --.txt", "all"),
        (os.fsdecode(b"caf\xe9.txt"), "caf"),
    ],
)
def test_a_new_run_is_named_after_its_text(text, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert new_run_folder(None, (text, "other.txt"), overwrite=False) == Path("runs") / name


def test_a_run_without_a_text_is_named_after_the_story():
    assert new_run_folder(None, (), overwrite=False) == Path("runs/story")


def test_a_name_that_is_taken_is_numbered_and_nothing_is_made_yet():
    for expected in ("book", "book-2", "book-3"):
        folder = new_run_folder(None, ("book.txt",), overwrite=False)
        assert folder == Path("runs") / expected
        assert not folder.exists()
        begun_run(str(folder))


def test_a_name_that_nobody_chose_is_numbered_where_another_process_holds_it_and_a_chosen_one_is_not():
    said = []

    def claim(out=None, **flags):
        return claimed_run_folder(
            out, ("book.txt",), progress=Recorded(said), **({"overwrite": False} | flags)
        )

    with claim() as first, claim() as second, claim() as third:
        assert [str(each) for each in (first, second, third)] == ["runs/book", "runs/book-2", "runs/book-3"]
        assert said == [f"runs/book is taken, so this run goes to runs/book-{number}" for number in (2, 3)]
        for chosen in ({"out": "runs/book"}, {"overwrite": True}):
            with pytest.raises(RunError, match="in use by another"), claim(**chosen):
                pass
    with claim() as again:
        assert again == first


def test_a_run_that_appears_between_the_look_and_the_lock_is_seen(monkeypatch):
    real = runs.lock

    @contextlib.contextmanager
    def late(folder):
        if not Path("runs/book").exists():
            begun_run("runs/book")
        with real(folder):
            yield

    monkeypatch.setattr(runs, "lock", late)
    with claimed_run_folder(None, ("book.txt",), overwrite=False) as folder:
        assert folder == Path("runs/book-2")
    shutil.rmtree("runs")
    with (
        pytest.raises(RunError, match="is there already"),
        claimed_run_folder("runs/book", ("book.txt",), overwrite=False),
    ):
        pass


def test_the_folder_that_holds_the_text_is_never_the_run_that_replaces_it():
    begun_run("run")
    (Path("run") / "notes.txt").touch()
    for read in ({"texts": ("run/notes.txt",)}, {"texts": (), "others": ("run/notes.txt",)}):
        with pytest.raises(RunError, match="which is read"):
            new_run_folder("run", **read, overwrite=True)


def test_a_run_that_is_there_is_refused_and_stays():
    folder = begun_run()
    with pytest.raises(
        RunError, match=r"run is there already and holds a run; .*--out, --resume or --overwrite"
    ):
        new_run_folder("run", (), overwrite=False)
    assert (folder / "run.toml").exists()


def test_overwrite_allows_a_run_and_nothing_that_is_none(tmp_path):
    begun_run()
    assert new_run_folder("run", (), overwrite=True) == Path("run")
    assert Path("run").exists()  # deleting it waits for its lock
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="photos"):
            new_run_folder("photos", (), overwrite=overwrite)
    assert (photos / "cat.jpg").read_bytes() == b"cat"


def test_a_file_where_the_run_should_be_is_refused_and_stays(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="notes"):
            new_run_folder("notes", (), overwrite=overwrite)
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_empty_folder_is_free():
    Path("run").mkdir()
    assert new_run_folder("run", (), overwrite=False) == Path("run")
