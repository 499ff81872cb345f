"""Which files a source is: of folders, patterns, links and what is no file at all."""

import gzip
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from written_files import read, read_one, refusal, written

from lucidlm.errors import DataError, FetchError
from lucidlm.text import sources
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents
from lucidlm.text.preparation import prepare
from lucidlm.text.sources import find_files

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions or special files here")


def found(*given: str | Path) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """Names of the files below the current folder, and what was passed over: count and first name."""
    account = Account()
    names = [file.name for file in find_files([str(source) for source in given], account)]
    return names, {
        reason: (account.passed[reason], account.first_passed[reason]) for reason in account.passed
    }


@pytest.fixture
def notes(tmp_path, monkeypatch) -> Path:
    """A folder of notes that is the current one's only content."""
    monkeypatch.chdir(tmp_path)
    written(Path("notes/a.txt"), "one")
    written(Path("notes/b/b.md"), "two")
    return Path("notes")


@pytest.fixture
def without_rights():
    """A folder for tests about permissions, with the rights of nobody in particular."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if root := os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for place, folders, _ in os.walk(folder):
            for name in folders:
                os.chmod(Path(place, name), 0o755)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


def test_what_is_not_read_of_a_folder_is_counted_with_its_first_name(notes):
    for name in ("id_rsa", "b/app.log", "b/video.mp4"):
        written(notes / name, b"\0secret")
    for name in (".hidden.txt", ".git/x.txt", "b/.x/y.txt"):
        written(notes / name, "hidden")
    written(notes / "empty.txt", "")
    assert found(notes) == (
        ["notes/a.txt", "notes/b/b.md"],
        {
            "hidden": (3, "notes/.git"),
            "empty_files": (1, "notes/empty.txt"),
            "other_kinds": (3, "notes/id_rsa"),
        },
    )


@POSIX
def test_sockets_pipes_devices_and_links_that_lead_nowhere_or_back_are_passed_over(notes):
    os.mkfifo(notes / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(notes / "socket.txt"))
    (notes / "null.txt").symlink_to("/dev/null")
    (notes / "gone.txt").symlink_to("nowhere")
    (notes / "loop.txt").symlink_to("loop.txt")
    (notes / "b" / "back").symlink_to("..", target_is_directory=True)
    passed = {
        "loose_links": (2, "notes/gone.txt"),
        "special": (3, "notes/null.txt"),
        "linked_folders": (1, "notes/b/back"),
    }
    assert found(notes) == (["notes/a.txt", "notes/b/b.md"], passed)
    # A pattern that would have to wait for the pipe, and to follow the link for ever.
    names, by_pattern = found("notes/**/*.*")
    assert (names, by_pattern.keys()) == (["notes/a.txt", "notes/b/b.md"], passed.keys())
    for name in ("gone.txt", "loop.txt"):
        assert "broken link" in refusal(notes / name)
    assert "neither a file nor a folder" in refusal(notes / "null.txt")


@POSIX
def test_what_may_not_be_read_is_passed_over_in_a_folder_and_refused_alone(without_rights):
    for name in ("a.txt", "secret.txt", "secret.bin", "locked/x.txt", "unlisted/y.txt"):
        written(without_rights / name, name)
    for name in ("secret.txt", "secret.bin"):
        (without_rights / name).chmod(0)
    (without_rights / "locked").chmod(0)
    (without_rights / "unlisted").chmod(0o444)  # its names can be seen, its files cannot
    for source, count in ((without_rights, 4), (without_rights / "**" / "*.txt", 3)):
        account = Account()
        assert [document.text() for document in read_documents([source], account)] == ["a.txt"]
        assert account.passed == {"unreadable": count}
    for name in ("secret.txt", "secret.bin", "locked"):
        assert "Permission denied" in refusal(without_rights / name)


def test_a_file_is_read_once_however_often_it_is_given(notes):
    Path("link.txt").symlink_to("notes/a.txt")
    assert found("notes", "notes/*.txt", "link.txt", "./notes/b/b.md") == (
        ["notes/a.txt", "notes/b/b.md"],
        {"given_twice": (3, "notes/a.txt")},
    )


@pytest.mark.parametrize(("pattern", "names"), [
    ("notes/*", ["notes/a.txt", "notes/b/b.md", "notes/code.py"]),
    ("notes/**", ["notes/a.txt", "notes/b/b.md", "notes/b/c.py", "notes/code.py"]),
    ("notes/**/*.py", ["notes/b/c.py", "notes/code.py"]),
    ("**/b", ["notes/b/b.md"]),
    ("*/b/*.md", ["notes/b/b.md"]),
    ("notes/[ab].txt", ["notes/a.txt"]),
    ("notes/.h*", ["notes/.hidden.py"]),
])  # fmt: skip
def test_a_pattern_takes_files_of_any_kind_and_folders_that_it_means_as_folders(notes, pattern, names):
    for name in ("code.py", "b/c.py", ".hidden.py"):
        written(notes / name, "x = 1\n")
    assert found(pattern)[0] == names


@pytest.mark.parametrize(("made", "kind"), [
    (("run.toml",), "run"),
    ((".data.lock",), "run"),  # one that begins, or was killed as it began
    (("train.npy", "validation.npy", "manifest.json"), "prepared folder"),
    (("config.json", "model.safetensors", "state.json"), "checkpoint"),
    (("config.json", "model-00001-of-00002.safetensors"), "model folder"),
    (("config.json", "pytorch_model.bin"), "model folder"),
    (("vocab.json", "merges.txt"), "model folder"),
    (("hparams.json", "checkpoint"), "model folder"),
])  # fmt: skip
def test_runs_models_and_prepared_texts_are_left_out_of_a_folder_and_refused_alone(notes, made, kind):
    for name in (*made, "README.md", "samples.txt", "deep/er.txt"):
        written(notes / "own" / name, "of a run")
    expected = ["notes/a.txt", "notes/b/b.md"], {"own_folders": (1, "notes/own")}
    assert found(notes) == expected
    assert found("**/*.*") == expected
    assert found("n*/*") == expected
    assert f"notes/own is a {kind}" in refusal(notes / "own")
    # What a user names is meant.
    assert found("notes/own/*.md")[0] == found("notes/own/README.md")[0] == ["notes/own/README.md"]
    assert "1 folder that is a run" in refusal("notes/o*")


def test_a_folder_of_code_is_refused_with_a_pattern_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("main.c", "lib/a.py", "lib/b.py", "lib/.c.py"):
        written(Path("my [src]") / name, f"in {name}")
    for number in range(5):
        written(Path(f"my [src]/{number}.png"), b"\x89PNG\0")
    message = refusal("my [src]")
    assert "no text in this folder (skipped 8 files of other kinds (my [src]/0.png and 7 more); " in message
    pattern = shlex.split(message.rpartition("reads other files: ")[2])
    assert read(*pattern) == ["in lib/a.py", "in lib/b.py"]


def test_a_folder_without_any_text_has_no_pattern_to_offer(tmp_path):
    written(tmp_path / "a.png", b"\x89PNG\0")
    message = refusal(tmp_path)
    assert "no text in this folder (skipped 1 file of another kind" in message
    assert "pattern" not in message
    written(tmp_path / "README", "read me")
    pattern = shlex.split(refusal(tmp_path).rpartition("reads other files: ")[2])
    assert read(*pattern) == ["read me"]


@POSIX
def test_a_pattern_for_all_below_a_folder_leaves_links_to_folders_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(Path("outside/b.txt"), "not meant")
    written(Path("in/a.txt"), "one")
    Path("in/link").symlink_to("../outside", target_is_directory=True)
    assert found("in/**") == (["in/a.txt"], {"linked_folders": (1, "in/link")})


@POSIX
def test_a_name_that_is_no_utf8_is_text_in_every_place_and_is_opened_all_the_same(notes):
    name = os.fsdecode(b"caf\xe9.txt")
    written(notes / name, "three")
    written(notes / os.fsdecode(b"\xff.log"), "log")
    for document in read_documents([notes], account := Account()):
        document.source.encode()
    assert document.text() == "three"
    assert account.lines() == [r"skipped 1 file of another kind (notes/\udcff.log)"]
    assert r"nothere-\udce9" in refusal(os.fsdecode(b"nothere-\xe9"))


def test_a_source_that_gives_nothing_is_named_though_others_give_something(notes):
    written(Path("pictures/a.png"), b"\0")
    with pytest.raises(DataError, match=r"^pictures: no text in this folder"):
        find_files(["notes", "pictures"], Account())


def test_a_missing_file_suggests_the_nearest_name(tmp_path):
    written(tmp_path / "the-verdict.txt", "x")
    message = refusal(tmp_path / "the-verdikt.txt")
    assert f"did you mean {tmp_path / 'the-verdict.txt'}?" in message
    assert "no folder" in refusal(tmp_path / "nowhere" / "a.txt")
    assert "no such file" in refusal(tmp_path / "zzz")


def test_all_sources_are_found_before_the_first_is_read(tmp_path):
    good = written(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match="missing"):
        next(read_documents([good, tmp_path / "missing.txt"]))


def test_no_source_an_empty_one_and_an_impossible_one_are_refused(tmp_path):
    assert "no text to read" in refusal()
    assert "empty" in refusal("")
    assert refusal("a\0b")
    with pytest.raises(DataError):
        prepare("a\0b", tmp_path / "out")
    assert refusal("x" * 5000)


def test_a_pattern_is_expanded_sorted_and_must_match(tmp_path):
    for name in ("b", "a", "c"):
        written(tmp_path / f"{name}.txt", name)
    assert read(tmp_path / "*.txt") == ["a", "b", "c"]
    assert "no file matches" in refusal(tmp_path / "*.md")
    assert read(written(tmp_path / "[a].txt", "literal")) == ["literal"]


def test_stdin_can_be_read_twice_and_leaves_nothing_behind(tmp_path):
    program = (
        "from lucidlm.text.documents import read_documents\n"
        "for _ in range(2):\n"
        "    (d,) = read_documents(['-'])\n"
        "    print(d.source, repr(d.text()), repr(d.text()))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TMP": str(tmp_path), "TEMP": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="Käse\r\n".encode(),
        capture_output=True,
        env=environment,
        check=True,
    )
    assert done.stdout.decode().split("\n")[:2] == ["stdin 'Käse\\n' 'Käse\\n'"] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b.txt", "a/z.md", "a.txt", "a/b/c.txt", "Z.TXT", "page.html.gz"):
        data = b"<p>page" if "html" in name else name.encode()
        written(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    for name in ("picture.png", "script.py", "README"):
        written(tmp_path / name, "no")
    for name in (".hidden.txt", ".git/x.txt", "a/.x/y.txt"):
        written(tmp_path / name, "hidden")
    written(tmp_path / "empty.txt", "")
    assert read(tmp_path) == [
        "Z.TXT", "a/b/c.txt", "a/z.md", "a.txt", "b.txt", "page\n"
    ]  # fmt: skip


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Puts `data` where fetch() would, with what the server said; the transfer has tests of its own."""

    def put(data: bytes, **said: str) -> None:
        path = written(tmp_path / "cache" / "file", data)
        path.with_name("file.json").write_text(json.dumps({"url": "http://x", **said}))
        monkeypatch.setattr(sources, "fetch", lambda url, folder, *, progress: path)

    return put


def test_the_kind_of_an_address_is_its_suffix_else_what_the_server_says(fetched):
    fetched(b"<p>x", content_type="text/html; charset=utf-8")
    assert read_one("https://example.org/wiki/Page?a=b.txt")[0] == "x\n"
    assert read_one("https://example.org/page.html")[0] == "x\n"
    fetched(b"<p>x", content_type="text/plain")
    assert read_one("https://example.org/ebooks/1342.txt.utf-8") == ("<p>x", [])
    assert read_one("https://example.org/a.html#top")[0] == "x\n"
    fetched(gzip.compress(b"x"), content_type="text/plain", content_encoding="gzip")
    assert read_one("https://example.org/a.txt")[0] == "x"
    fetched(gzip.compress(b"x"), content_type="application/gzip")
    (document,) = read_documents(["https://example.org/a.txt.gz"])
    assert (document.source, document.text()) == ("https://example.org/a.txt.gz", "x")


def test_a_web_page_in_place_of_a_text_is_refused(fetched):
    fetched(b"<p>Sign in", content_type="text/html")
    assert "sent a web page instead" in refusal("https://example.org/a.txt")


def test_an_address_of_another_kind_is_called_that(tmp_path):
    path = written(tmp_path / "a.txt", "one")
    assert read(path.as_uri().removeprefix("file://")) == ["one"]
    for address in (path.as_uri(), "ftp://host/a.txt"):
        with pytest.raises(FetchError) as caught:
            find_files([address], Account())
        assert caught.value.code == "scheme"
