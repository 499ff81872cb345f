"""Files from cloud stores, as fsspec's filesystem in memory."""

import importlib
import json
import mimetypes
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from recorded import Recorded
from web_server import BODY, SHA256, code_of, download, left, refusal

from lucidlm.cli import main
from lucidlm.runtime.part_file import origin_of

REGISTRY = importlib.import_module("fsspec.registry")  # fsspec.registry is a table in its place


class Bucket(MemoryFileSystem):
    """fsspec's filesystem in memory, under the protocol of a store."""

    protocol = "s3"
    store: ClassVar[dict] = {}
    asked: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.partition("://")[2].strip("/") if "://" in path else path

    def info(self, path, **options):
        self.asked.append(path)
        return {**super().info(path, **options), "ContentType": mimetypes.guess_type(path)[0]}


class Failing(Bucket):
    def _open(self, path, **options):
        raise ConnectionError("no\nnetwork")


@pytest.fixture
def bucket(monkeypatch):
    """bucket(scheme, filesystem=Bucket): a store of that scheme with BODY as book.html."""

    def make(scheme, filesystem=Bucket):
        monkeypatch.setitem(REGISTRY._registry, scheme, filesystem)
        Bucket.store.clear()
        Bucket.asked.clear()
        Bucket().pipe("/bucket/book.html", BODY)

    return make


@pytest.mark.parametrize("scheme", ["s3", "gs", "gcs", "hf"])
def test_a_file_of_a_store_is_fetched_once(bucket, tmp_path, scheme):
    bucket(scheme)
    told, url = Recorded(), f"{scheme}://bucket/book.html"
    path = download(url, tmp_path, sha256=SHA256, size=len(BODY), progress=told)
    assert path.read_bytes() == BODY
    assert path.suffix == ".html"
    assert origin_of(path).content_type == "text/html"
    assert [stage[1:] for stage in told.stages] == [[len(BODY), len(BODY)]]
    assert download(url, tmp_path) == path
    assert len(Bucket.asked) == 1
    assert left(tmp_path) == [path.name]


def test_limits_and_hashes_hold_for_a_store_too(bucket, tmp_path):
    bucket("s3")
    url = "s3://bucket/book.html"
    assert code_of(url, tmp_path, max_bytes=1000) == "too_large"
    assert code_of(url, tmp_path, sha256="0" * 64) == "damaged"
    assert code_of("s3://bucket/other.html", tmp_path) == "unreachable"
    assert code_of("s3://bucket", tmp_path) == "folder"
    assert left(tmp_path) == []
    bucket("s3", Failing)
    assert code_of(url, tmp_path) == "unreachable"


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_a_missing_backend_names_the_extra_that_has_it(monkeypatch, tmp_path, scheme, extra):
    missing = {"class": "no_such_package.System", "err": "Install it"}
    monkeypatch.setitem(REGISTRY.known_implementations, scheme, missing)
    error = refusal(f"{scheme}://bucket/a.txt", tmp_path)
    assert error.code == "extra"
    assert f"pip install 'lucidlm[{extra}]'" in str(error)


def test_a_text_of_a_store_is_prepared(bucket, tmp_path, monkeypatch):
    bucket("s3")
    Bucket().pipe("/bucket/a.txt", b"Nobody knew why the river ran past.\n" * 30)
    monkeypatch.setenv("LUCIDLM_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "prepared")
    assert main(["prepare", "s3://bucket/a.txt", "--out", out, "--tokenizer", "bytes"]) == 0
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text("utf-8"))
    assert "s3://bucket/a.txt" in json.dumps(manifest)
