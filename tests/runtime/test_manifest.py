"""A manifest names each file that is missing, short or changed, and is itself checked."""

import json

import pytest

from lucidlm.errors import DataError
from lucidlm.runtime.manifest import check_manifest, sha256_of, write_manifest


def test_sha256_of_is_the_published_digest(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4, appendix of examples
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "sub" / "b.txt").write_bytes(b"abc")
    write_manifest(tmp_path, {"kind": "test", "ä": [1, 2]})
    return tmp_path


def test_a_manifest_lists_every_file_and_comes_back_with_what_was_added(folder):
    manifest = check_manifest(folder)
    assert manifest["kind"] == "test"
    assert manifest["ä"] == [1, 2]
    assert list(manifest["files"]) == ["a.bin", "sub/b.txt"]
    assert manifest["files"]["sub/b.txt"]["size"] == 3
    assert manifest["files"]["a.bin"]["sha256"] == sha256_of(folder / "a.bin")


def test_a_missing_a_short_and_a_changed_file_are_each_named(folder):
    file = folder / "sub" / "b.txt"
    file.write_bytes(b"abd")
    with pytest.raises(DataError, match=r"b\.txt: .*SHA-256"):
        check_manifest(folder)
    check_manifest(folder, contents=False)
    file.write_bytes(b"ab")
    with pytest.raises(DataError, match=r"b\.txt: 2 .*\b3\b"):
        check_manifest(folder, contents=False)
    file.unlink()
    with pytest.raises(DataError, match=r"b\.txt: .*missing"):
        check_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"files": []}',
        '{"files": {"a": 3}}',
        '{"files": {"../a": {"size": 1, "sha256": ""}}}',
        '{"files": {"/etc/passwd": {"size": 1, "sha256": ""}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        check_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json: not there"):
        check_manifest(tmp_path)


def test_a_manifest_is_plain_json_that_others_can_read(folder):
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["kind"] == "test"
