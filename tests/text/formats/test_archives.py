import bz2
import gzip
import io
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_files import tarred, zipped
from written_files import read, read_one, reason_of, refusal, written

from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_texts
from lucidlm.text.formats import archives


def counted(path) -> tuple[list[tuple[str, str]], Account]:
    account = Account()
    found = list(read_texts([path], account))
    assert account.text == sum(len(text.encode()) for _, text in found)
    assert (account.files, account.stored, account.packed) == (1, path.stat().st_size, path.stat().st_size)
    return found, account


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(st.sampled_from("ab é\n"), max_size=9), max_size=3),
    others=st.integers(0, 2),
    wide=st.integers(0, 2),
    pack=st.sampled_from([zipped, tarred]),
)
def test_every_member_is_read_or_counted(tmp_path_factory, texts, others, wide, pack):
    members: dict[str, str | bytes] = {f"texts/{n}.txt": text for n, text in enumerate(texts)}
    members |= {f"{n}.png": b"\x89PNG" for n in range(others)}
    members |= {f"wide{n}.txt": "Käse".encode("utf-16") for n in range(wide)}
    members["last.txt"] = "last"
    suffix = "zip" if pack is zipped else "tar"
    path = written(tmp_path_factory.mktemp("archive") / f"a.{suffix}", pack(members))
    found, account = counted(path)
    expected = {f"texts/{n}.txt": text for n, text in enumerate(texts) if text} | {"last.txt": "last"}
    assert found == [(f"{path}/{name}", expected[name]) for name in sorted(expected)]
    assert len(found) + account.passed.total() == len(members)
    assert account.passed["other_kinds"] == others
    assert account.passed["empty_files"] == texts.count("")


def test_members_of_all_kinds_are_read_by_the_rules_of_a_folder(tmp_path):
    members = {
        "b/page.html": "<p>page",
        "a.txt.gz": gzip.compress(b"packed"),
        "lines.jsonl": '{"text": "one"}\n{"text": "two"}\n',
        ".hidden.txt": "no",
        "__MACOSX/a.txt": "no",
        "b/.git/x.txt": "no",
        "inner.zip": zipped({"x.txt": "no"}),
        "events.jsonl": '{"id": 3}\n',
    }
    for name, data in (("a.zip", zipped(members)), ("a.tar", tarred(members))):
        found, account = counted(written(tmp_path / name, data))
        assert [text for _, text in found] == ["packed", "page\n", "one", "two"]
        assert dict(account.passed) == {"other_kinds": 1, "no_field": 1, "hidden": 3}
        assert account.first_passed["no_field"].endswith("events.jsonl")


def test_an_archive_is_read_under_any_name_and_packed(tmp_path):
    members = {"a.txt": "one"}
    for name, data in (
        ("a.txt", zipped(members)), ("a", tarred(members)), ("a.tgz", gzip.compress(tarred(members))),
        ("a.tar.bz2", bz2.compress(tarred(members))), ("a.zip.gz", gzip.compress(zipped(members))),
    ):  # fmt: skip
        assert read(written(tmp_path / name, data)) == ["one"]


def test_names_are_only_names(tmp_path):
    (tmp_path / "in").mkdir()
    members = {"../../out.txt": "one", "/etc/out.txt": "two", "C:\\x\\out.txt": "three"}
    for name, data in (("a.zip", zipped(members)), ("a.tar", tarred(members))):
        found, _ = counted(written(tmp_path / "in" / name, data))
        assert sorted(text for _, text in found) == ["one", "three", "two"]
    assert not list(tmp_path.rglob("out.txt"))


def test_names_in_utf8_and_in_cp437_come_out_right(tmp_path):
    def old(info):
        info.flag_bits = 0

    for raw, name in (("é.txt".encode("cp437"), "é.txt"), ("日本.txt".encode(), "日本.txt")):
        data = zipped({"x" * (len(raw) - 4) + ".txt": "one"}, old).replace(
            b"x" * (len(raw) - 4) + b".txt", raw
        )
        path = written(tmp_path / "a.zip", data)
        assert [source for source, _ in counted(path)[0]] == [f"{path}/{name}"]
        path.unlink()


def test_what_is_encrypted_damaged_or_linked_is_passed_over_and_said(tmp_path):
    def lock(info):
        info.flag_bits |= (info.filename == "locked.txt") * 1

    data = zipped({"a.txt": "one", "locked.txt": "two", "broken.txt": "three " * 99}, lock)
    place = data.index(b"broken.txt") + len("broken.txt") + 4
    path = written(tmp_path / "a.zip", data[:place] + b"\xff\xff" + data[place + 2 :])
    found, account = counted(path)
    assert [text for _, text in found] == ["one"]
    assert dict(account.passed) == {"encrypted": 1, "damaged": 1}
    only = written(tmp_path / "b.zip", zipped({"locked.txt": "two"}, lock))
    assert reason_of(only) == reasons.ENCRYPTED
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert reason_of(written(tmp_path / "c.tar", file.getvalue())) == reasons.NO_TEXT


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_any_compression_is_passed_over(tmp_path, method):
    """bz2 raises an OSError, as the system does for a file that cannot be read; lzma an error of its own."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("broken.txt", "three " * 99)
        archive.writestr("a.txt", "one")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    place = 30 + len("broken.txt") + 12
    data[place : place + 8] = b"\xff" * 8
    found, account = counted(written(tmp_path / "b.zip", bytes(data)))
    assert ([text for _, text in found], account.passed) == (["one"], {"damaged": 1})


def test_a_place_before_the_start_of_an_archive_is_damage_and_no_fault_of_the_disk(tmp_path):
    data = bytearray(zipped({"a.txt": "one"}))
    data[-6] += 7  # where the list of members is: members are then sought seven bytes too early
    message = refusal(written(tmp_path / "a.zip", bytes(data)))
    assert "damaged" in message
    assert "disk" not in message


def test_an_archive_that_holds_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_ARCHIVE", 1000)
    for name, data in (
        ("a.zip", zipped({"a.txt": "a" * 600, "b.txt": "b" * 600})),
        ("b.tar", tarred({"a.txt": "a" * 2000})),
        ("c.tgz", gzip.compress(tarred({"a.txt": "a" * 500}))),
    ):
        assert reason_of(written(tmp_path / name, data)) == reasons.UNFIT
    monkeypatch.setattr(archives, "_MOST", 3)
    many = zipped({f"{n}.txt": "x" for n in range(4)})
    assert "more than 3 files" in refusal(written(tmp_path / "d.zip", many))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_a_damaged_archive_is_one_line(tmp_path, name):
    assert reason_of(written(tmp_path / name, b"no archive at all \xff" * 60)) == reasons.DAMAGED
    assert refusal(written(tmp_path / name, zipped({"a.png": "x"}))).startswith(str(tmp_path / name))


def test_a_single_text_in_an_archive_says_how_it_was_read(tmp_path):
    path = written(tmp_path / "a.zip", zipped({"a.txt": "one\r\n"}))
    text, notes = read_one(path)
    assert text == "one\n"
    assert notes[-1].endswith(f"gave 5 bytes of UTF-8 ({path.stat().st_size} bytes are packed)")


def test_runs_and_links_in_an_archive_are_passed_over_as_in_a_folder(tmp_path):
    run = {"r/run.toml": "", "r/metrics.jsonl": '{"text": "no"}', "r/notes.txt": "no", "a.txt": "one"}
    found, account = counted(written(tmp_path / "a.zip", zipped(run)))
    assert ([text for _, text in found], account.passed) == (["one"], {"own_folders": 1})
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "a.zip", "a.txt")
        for name, kind in (("b.txt", tarfile.SYMTYPE), ("c.txt", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.txt"
            archive.addfile(info)
        info = tarfile.TarInfo("d.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
    found, account = counted(tmp_path / "b.tar")
    assert account.passed["links"] == 2
