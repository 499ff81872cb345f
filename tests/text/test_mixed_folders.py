"""Random folders of good and bad files: what is said to be left out is what was left out."""

import codecs
import gzip
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lucidlm.errors import DataError
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents
from lucidlm.text.preparation import prepare
from lucidlm.text.tokenizer import Tokenizer

PICTURE = b"\x89PNG\r\n\x1a\n\0\0"
TEXT = "Sea and light.\n"
TOKENS = np.array(Tokenizer.gpt2().encode(TEXT), "<u2").tobytes()
LINES = json.dumps({"text": TEXT}) + "\n"

# A name's end, what is in the file, how many texts it gives, and why it gives none.
MEMBERS = [
    (".txt", TEXT.encode(), 1, ""),
    (".md", codecs.BOM_UTF8 + TEXT.replace("\n", "\r\n").encode(), 1, ""),
    (".txt.gz", gzip.compress(TEXT.encode(), mtime=0), 1, ""),
    (".html", b"<p>Sea and light.</p>", 1, ""),
    (".jsonl", LINES.encode() * 3, 3, ""),
    (".bin", TOKENS, 1, ""),
    (".log", b"started\n", 0, "other_kinds"),
    ("", b"secret", 0, "other_kinds"),
    (".mp4", PICTURE, 0, "other_kinds"),
    (".txt", b"", 0, "empty_files"),
    (".txt", PICTURE, 0, "binary"),
    (".md", "Größe, Güte und Fußball.\n".encode("latin-1") * 3, 0, "other_encoding"),
    (".txt", TEXT.encode("utf-16"), 0, "other_encoding"),
    (".jsonl", LINES.encode() + b'{"event": 1}\n', 0, "no_field"),
    (".jsonl", LINES.encode() + b'{"text": "torn', 0, "damaged"),
    (".jsonl", b'{"text": ""}\n\n', 0, "no_text"),
    (".txt.gz", gzip.compress(TEXT.encode())[:-9], 0, "damaged"),
    (".txt", codecs.BOM_UTF8, 0, "no_text"),
    (".bin", b"MIT License\n", 0, "no_tokens"),
    (".bin", np.array([60_000] * 9, "<u2").tobytes(), 0, "no_tokens"),
    ("hidden", TEXT.encode(), 0, "hidden"),
    ("run", b"", 0, "own_folders"),
    ("loose link", b"", 0, "loose_links"),
    ("pipe", b"", 0, "special"),
    ("folder link", b"", 0, "linked_folders"),
    ("again", b"", 0, "given_twice"),
]  # fmt: skip
FOLDERS = st.lists(
    st.tuples(st.sampled_from(["", "a", "a/b", "c"]), st.integers(0, len(MEMBERS) - 1)),
    min_size=1,
    max_size=12,
)


def make(top: Path, members: list[tuple[str, int]]) -> tuple[Counter[str], int, set[str]]:
    """Writes a folder; what is to be passed over, how many texts there are, and in which files."""
    passed, texts, files = Counter[str](), 0, set[str]()
    for number, (place, which) in enumerate(members):
        suffix, data, count, reason = MEMBERS[which]
        folder = top / place
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number}{suffix if suffix.startswith('.') else ''}"
        match suffix:
            case "hidden":
                path = folder / f".{number}.txt"
                path.write_bytes(data)
            case "run":
                path.mkdir()
                (path / "run.toml").touch()
                shutil.copy(__file__, path / "README.md")
            case "loose link":
                path.with_suffix(".txt").symlink_to("nowhere")
            case "pipe":
                os.mkfifo(path.with_suffix(".txt"))
            case "folder link":
                path.symlink_to(top, target_is_directory=True)
            case "again":
                (folder / f"{number} first.txt").write_text(TEXT)
                path.with_suffix(".txt").symlink_to(f"{number} first.txt")
                texts += 1
                files.add(str(folder / f"{number} first.txt"))
            case _:
                path.write_bytes(data)
        texts += count
        passed[reason] += bool(reason)
        if count:
            files.add(str(path))
    return +passed, texts, files


def check(members: list[tuple[str, int]]) -> None:
    """That reading a folder and preparing it say of it what was written."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name) / "texts"
        passed, texts, files = make(top, members)
        account = Account()
        if not texts:
            with pytest.raises(DataError) as caught:
                list(read_documents([top], account))
            assert str(caught.value).startswith(f"{top}: ")
            return
        for _ in range(2):
            account, found = Account(), list[str]()
            for document in read_documents([top], account):
                found.append(document.text().rstrip("\n"))
                document.add_to(account)
            assert found == [TEXT.rstrip("\n")] * texts
            # What is given twice by a link may be called so under either name: the first is read.
            assert account.passed == passed
            assert account.text + account.left_out.total() == account.read
            assert account.files == len(files)
            assert account.stored == sum(os.path.getsize(file) for file in files)
        if texts >= 2:
            manifest = prepare(top, Path(name) / "out", tokenizer="bytes", split="end").manifest
            said = manifest["read"]["passed_over"]
            assert {reason: entry["count"] for reason, entry in said.items()} == passed
            assert all(any(entry["first"] in note for note in manifest["notes"]) for entry in said.values())
            assert {os.path.realpath(entry["path"]) for entry in manifest["sources"]} == set(
                map(os.path.realpath, files)
            )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(FOLDERS)
def test_what_is_left_out_of_a_random_folder_is_what_is_said(members):
    check(members)


@pytest.mark.torture
@pytest.mark.timeout(1800)
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FOLDERS)
def test_what_is_left_out_of_many_random_folders_is_what_is_said(members):
    check(members)


LINE = st.sampled_from([
    ('{"text": "one"}', "one"),
    ('{"text": "a\\r\\nb", "id": 7}', "a\nb"),
    ('{"text": "\\ud83d half"}', "\ufffd half"),
    ('{"text": ""}', ""),
    ("", None),
    ("   ", None),
])  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(LINE, max_size=8), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "{", '{"a": 1}', "[]"])
)
def test_a_jsonl_file_of_a_folder_is_read_whole_or_not_at_all(lines, end, wrong):
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "b.txt").write_text("beside")
        path = Path(name) / "a.jsonl"
        path.write_bytes(end.join([*(line for line, _ in lines), wrong]).encode())
        account, found = Account(), list[str]()
        for document in read_documents([name], account):
            found.append(document.text())
            document.add_to(account)
        texts = [text for _, text in lines if text]
        if path.stat().st_size == 0:
            reason = "empty_files"
        else:
            reason = {"{": "damaged"}.get(wrong, "no_field") if wrong else "" if texts else "no_text"
        assert found == [*([] if reason else texts), "beside"]
        assert account.passed == ({reason: 1} if reason else {})
        assert account.seen["empty_documents"] == (0 if reason else [text for _, text in lines].count(""))
