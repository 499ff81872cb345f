"""What is accepted of a file on its way to the cache."""

import hashlib
import json

from web_server import BODY, SHA256, code_of, download, left, refusal

from lucidlm.runtime.part_file import origin_of


def test_wrong_bytes_are_refused_and_removed(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    error = refusal(server.url(), tmp_path, sha256=SHA256)
    assert error.code == "damaged"
    assert SHA256 in error.problem
    assert hashlib.sha256(server.body).hexdigest() in error.problem
    assert left(tmp_path) == []
    server.body = BODY
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY


def test_too_much_is_refused_whether_announced_or_not(server, tmp_path):
    assert code_of(server.url(), tmp_path, max_bytes=1000) == "too_large"
    server.moods = ["no length"]
    assert code_of(server.url("/b"), tmp_path, max_bytes=1000) == "too_large"
    assert download(server.url("/c"), tmp_path, max_bytes=len(BODY)).is_file()


def test_an_illegible_note_is_as_none(tmp_path):
    path = tmp_path / "a"
    assert origin_of(path) is None
    for note in ("", "[]", "{}", json.dumps({"url": "x", "unknown": 1}), "\ufffd"):
        (tmp_path / "a.json").write_text(note, "utf-8")
        assert origin_of(path) is None
