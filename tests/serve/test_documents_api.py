"""A text that is uploaded: what is read, removed and split; what is refused, and where it is kept."""

import contextlib
import gzip
import json
import os
import socket
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from models import made_up_text
from packed_files import docx, p
from serving import LIMIT_S, running, wait_for
from written_files import epub, pdf

from lucidlm.serve import document_view
from lucidlm.serve import documents as documents_module
from lucidlm.serve.documents import Stored, _sweep
from lucidlm.serve.limits import LIMITS
from lucidlm.text.tokenizer import Tokenizer

TEXT = made_up_text()
PROSE = "The lighthouse keeper counted ships. Nobody had told her why she should. "
LONG = PROSE * 12
MARK = "*** {} OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n"
FRAMED = MARK.format("START") + LONG + "\n" + MARK.format("END")


def kept() -> set[Path]:
    """Files of texts that were uploaded to servers of this process."""
    folders = f"lucidlm-documents-{os.getpid()}-*/**/*"
    return {file for file in Path(tempfile.gettempdir()).glob(folders) if file.is_file()}


@pytest.fixture(autouse=True)
def forget_all(request):
    yield
    if "live" in request.fixturenames:
        server = request.getfixturevalue("live")
        for each in server.ask("GET", "/api/documents").json["documents"]:
            assert server.ask("DELETE", f"/api/documents/{each['id']}").status == 200


def test_the_counts_are_those_of_the_text(live):
    reply = live.upload("a book.txt", TEXT.encode(), "&tokenizer=bytes&window=8")
    found = reply.json
    assert (reply.status, found["name"], found["bytes"]) == (200, "a book.txt", len(TEXT.encode()))
    assert (found["words"], found["characters"], found["documents"]) == (len(TEXT.split()), len(TEXT), 1)
    assert (found["kind"], found["encodings"], found["removed"]) == ("text", ["utf-8"], [])
    assert found["beginning"] == "\n".join(TEXT.splitlines()[:20])
    split, train, held_out = found["held_out"], found["train"], found["validation"]
    assert train["bytes"] + held_out["bytes"] == len(TEXT.encode())
    assert found["tokens"] == train["tokens"] + held_out["tokens"]
    assert split["bytes"] == held_out["bytes"]
    assert split["share"] == pytest.approx(0.1, abs=0.02)
    assert sum(piece["tokens"] for piece in split["pieces"]) == held_out["bytes"]  # tokens are bytes
    places = [piece["at"] for piece in split["pieces"]]
    assert places == sorted(places)
    assert places
    assert all(0 <= place <= 1 for place in places)
    assert found["read"] == [f"{len(TEXT):,} bytes read as text (utf-8)"]
    assert [line.partition(":")[0] for line in found["split"]] == [
        "held out",
        f"the held-out text is only {held_out['bytes']} tokens",
    ]


def test_the_targets_of_the_first_window_are_its_inputs_one_token_later(live):
    window = live.upload("b.txt", TEXT.encode(), "&tokenizer=bytes&window=8").json["window"]
    assert window["inputs"][1:] == window["targets"][:-1]
    assert window["inputs"] == ["<|endoftext|>", *TEXT[:7]]
    assert window["targets"] == [*TEXT[:8]]
    assert window["input_ids"] == [256, *TEXT[:7].encode()]
    assert window["target_ids"] == [*TEXT[:8].encode()]


def test_a_text_is_looked_at_again_by_another_tokenizer(live):
    first = live.upload("b.txt", TEXT.encode(), "&tokenizer=gpt2").json
    assert (first["tokenizer"], first["vocab_size"]) == ("gpt2", 50257)
    encoded = Tokenizer.gpt2().encode(TEXT)
    assert first["tokens"] == pytest.approx(len(encoded), rel=0.02)  # pieces begin tokens of their own
    again = live.ask("GET", f"/api/documents/{first['id']}?tokenizer=bpe:300").json
    assert (again["tokenizer"], again["vocab_size"], again["tokenizer_reason"]) == ("bpe:300", 300, "given")
    assert again["tokens"] > first["tokens"]
    (listed,) = live.ask("GET", "/api/documents").json["documents"]
    assert listed == again


JSONL = "".join(json.dumps({"text": f"{number}. {PROSE}"}) + "\n" for number in range(30)).encode()
PAGE = f"<html><head><title>x</title></head><body><p>{LONG}</p></body></html>".encode()
KINDS = [
    ("a.html", PAGE, "html", 1, len(LONG.split())),
    ("a.epub", epub({"one.xhtml": f"<html><body><p>{LONG}</p></body></html>"}), "epub", 1, len(LONG.split())),
    ("a.pdf", pdf(*[PROSE] * 12), "pdf", 1, len(LONG.split())),
    ("a.docx", docx("".join([p(PROSE)] * 12)), "docx", 1, len(LONG.split())),
    ("a.jsonl", JSONL, "jsonl", 30, 30 + 30 * len(PROSE.split())),
    ("a.txt.gz", gzip.compress(LONG.encode()), "text", 1, len(LONG.split())),
    ("a.txt", b"\xef\xbb\xbf" + LONG.replace(" ", "\r\n").encode(), "text", 1, len(LONG.split())),
    ("without", LONG.encode(), "text", 1, len(LONG.split())),
    ("no text.txt", pdf(*[PROSE] * 12), "pdf", 1, len(LONG.split())),
]


@pytest.mark.parametrize(
    ("name", "data", "kind", "documents", "words"), KINDS, ids=[each[0] for each in KINDS]
)
def test_a_file_of_each_kind_is_read(live, name, data, kind, documents, words):
    reply = live.upload(name, data, "&tokenizer=bytes")
    assert reply.status == 200, reply.body
    found = reply.json
    assert (found["kind"], found["documents"], found["words"]) == (kind, documents, words)
    assert found["packings"] == (["gz"] if name.endswith(".gz") else [])
    assert "lucidlm-documents" not in reply.body.decode()


def test_what_was_removed_is_said_and_a_text_may_be_kept_raw(live):
    data = FRAMED.replace("\n", "\r\n").encode()
    found = live.upload("book.txt", data, "&tokenizer=bytes").json
    assert any("Project Gutenberg" in line for line in found["removed"])
    assert found["read"][1:] == found["removed"]
    assert not any("Project Gutenberg" in line for line in found["split"])
    assert found["account"]["bytes_left_out"]["gutenberg_frames"] > 80
    raw = live.ask("GET", f"/api/documents/{found['id']}?tokenizer=bytes&raw=true").json
    assert raw["words"] > found["words"] == len(LONG.split())


def test_an_encoding_may_be_chosen_and_is_said(live):
    data = ("Die Größe der Brücke. " * 60).encode("latin-1")
    refused = live.upload("brücke.txt", data, "&tokenizer=bytes")
    assert (refused.status, "brücke.txt" in refused.fault["message"]) == (400, True)
    found = live.upload("brücke.txt", data, "&tokenizer=bytes&encoding=latin-1").json
    assert found["words"] == 240
    assert found["encodings"] != ["utf-8"]


def test_a_file_that_unpacks_to_too_much_is_refused(live, monkeypatch):
    monkeypatch.setattr(document_view, "LARGEST_TEXT", 2000)
    assert live.upload("a.txt.gz", gzip.compress(LONG.encode()), "&tokenizer=bytes").status == 200
    refused = live.upload("b.txt.gz", gzip.compress((LONG * 3).encode()), "&tokenizer=bytes")
    assert (refused.status, "unpacked" in refused.fault["message"]) == (400, True)


def test_what_is_in_both_parts_is_found(live):
    # Two records of each passage: nearly always one of them is trained on where the other is held out.
    text = made_up_text(sentences=300)
    pages = [text[600 * number : 600 * number + 600] for number in range(15)]
    records = [f"{head} {page}" for page in pages for head in ("Once", "And then")]
    data = "".join(json.dumps({"text": text}) + "\n" for text in records).encode()
    leaks = live.upload("twice.jsonl", data, "&tokenizer=bytes").json["leaks"]
    assert leaks["share"] > 0.5
    assert leaks["documents"][0]["train"].startswith("twice.jsonl:")


WRONG = [
    ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(300), "PNG"),
    ("nothing.txt", b"", "empty"),
    ("short.txt", b"a", "leaves no"),
    ("torn.pdf", b"%PDF-1.4\n" + bytes(100), "torn.pdf"),
    ("torn.txt.gz", gzip.compress(LONG.encode())[:40], "torn.txt.gz"),
    ("other.jsonl", b'{"body": "no such field"}\n', "'text'"),
]


@pytest.mark.parametrize(("name", "data", "said"), WRONG, ids=[each[0] for each in WRONG])
def test_a_wrong_file_is_refused_in_lucidlms_words_and_not_kept(live, name, data, said):
    before = kept()
    reply = live.upload(name, data)
    assert (reply.status, reply.fault["type"]) == (400, "invalid_request_error")
    assert said in reply.fault["message"]
    assert "lucidlm-documents" not in reply.fault["message"]
    assert live.ask("GET", "/api/documents").json["documents"] == []
    assert kept() == before


@pytest.mark.parametrize(
    "name", ["../../../tmp/evil.txt", "/etc/passwd", "a\\b\x00c.txt", "..", ".txt.gz.exe"]
)
def test_a_name_is_shown_and_never_a_path(live, name):
    before = kept()
    reply = live.upload(name, LONG.encode(), "&tokenizer=bytes")
    assert reply.status == 200
    assert reply.json["name"] == name.replace("\x00", "\\x00")
    (file,) = kept() - before
    assert file.name.startswith("text")
    assert file.parent.name == reply.json["id"]
    assert not Path("/tmp/evil.txt").exists()


@pytest.mark.parametrize(
    "query",
    ["tokenizer=/etc/passwd", "tokenizer=bpe:x", "encoding=../utf8", "window=0", "window=257", "field=",
     "raw=2", "path=/etc/passwd", "name="],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(live, query):
    reply = live.ask("POST", f"/api/documents?name=a.txt&{query}", LONG.encode(), content_type="text/plain")
    assert (reply.status, reply.fault["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("id", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "0" * 12, "x", "%00", "a/b"])
def test_an_id_is_a_key(live, id):
    live.upload("a.txt", LONG.encode(), "&tokenizer=bytes")
    for method in ("GET", "DELETE"):
        assert live.ask(method, f"/api/documents/{id}").status == 404
    assert len(live.ask("GET", "/api/documents").json["documents"]) == 1


def test_a_text_that_is_deleted_is_gone(live):
    before = kept()
    id = live.upload("a.txt", LONG.encode(), "&tokenizer=bytes").json["id"]
    assert len(kept()) == len(before) + 1
    assert live.ask("DELETE", f"/api/documents/{id}").json == {"deleted": id}
    assert kept() == before
    assert live.ask("DELETE", f"/api/documents/{id}").status == 404
    assert live.ask("GET", f"/api/documents/{id}").status == 404


def test_only_this_route_takes_other_bodies_than_json_and_no_other_site_may_send_one(live):
    assert live.ask("POST", "/api/documents?name=a.txt", {"a": 1}).status == 415
    for path in ("/api/tokenize", "/api/runs", "/api/documents/", "/api/documents/x"):
        assert live.ask("POST", path, b"{}", content_type="text/plain").status == 415
    reply = live.ask(
        "POST", "/api/documents?name=a.txt", LONG.encode(), content_type="text/plain",
        origin="https://example.org",
    )  # fmt: skip
    assert reply.status == 403


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    limits = replace(LIMITS, body_bytes=1000, document_bytes=3000, documents=2, documents_bytes=5000)
    with running(runs=tmp_path_factory.mktemp("runs"), limits=limits) as server:
        yield server


def test_a_text_over_its_limit_is_refused_with_and_without_a_length(narrow):
    before = kept()
    assert narrow.upload("a.txt", (PROSE * 50).encode()[:3001]).status == 413
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    head = b"POST /api/documents?name=a HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=20) as sock:
        sock.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + 3 * chunk + b"0\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert kept() == before
    assert narrow.ask("POST", "/api/tokenize", b" " * 1001).status == 413  # all other routes


def test_there_may_be_so_many_texts_and_bytes_of_them(narrow):
    text = (PROSE * 50).encode()
    ids = [narrow.upload("a.txt", text[:3000], "&tokenizer=bytes").json["id"]]
    assert narrow.upload("b.txt", text[:2001]).status == 413
    ids.append(narrow.upload("b.txt", text[:2000], "&tokenizer=bytes").json["id"])
    listed = narrow.ask("GET", "/api/documents").json
    assert (len(listed["documents"]), listed["bytes"]) == (2, 5000)
    assert (listed["most_documents"], listed["most_bytes"], listed["most_bytes_of_one"]) == (2, 5000, 3000)
    assert narrow.upload("c.txt", text[:700]).status == 413
    narrow.ask("DELETE", f"/api/documents/{ids[0]}")
    assert narrow.upload("c.txt", text[:700], "&tokenizer=bytes").status == 200


def test_two_texts_are_read_at_a_time_and_others_are_answered_meanwhile(live, monkeypatch):
    before = kept()
    now, most, lock, over = [0], [0], threading.Lock(), threading.Event()

    def slow(path, name, question, patience):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        assert over.wait(LIMIT_S)
        with lock:
            now[0] -= 1
        return {"words": 1}

    monkeypatch.setattr(documents_module, "view_of", slow)
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(live.upload("a.txt", b"x").status)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(kept() - before), (4).__eq__)
    wait_for(lambda: now[0], (2).__eq__)
    assert live.ask("GET", "/health").status == 200
    over.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert (statuses, most[0]) == ([200] * 4, 2)


def test_a_text_is_forgotten_where_its_client_leaves_and_its_reading_ends(live, monkeypatch):
    began, ended = threading.Event(), threading.Event()

    def until_nobody_waits(path, name, question, patience):
        began.set()
        if patience.over.wait(LIMIT_S):
            ended.set()
        return {"words": 1}

    monkeypatch.setattr(documents_module, "view_of", until_nobody_waits)
    before = kept()
    with contextlib.closing(live.connect()) as connection:
        connection.request("POST", "/api/documents?name=a.txt", b"x", {"content-type": "text/plain"})
        assert began.wait(LIMIT_S)
        assert kept() != before
    assert ended.wait(LIMIT_S)
    wait_for(kept, before.__eq__)
    assert live.ask("GET", "/api/documents").json["bytes"] == 0


def test_at_the_end_of_the_server_all_is_deleted_and_of_one_that_was_killed_by_the_next(
    tmp_path, monkeypatch
):
    before = kept()
    with running(runs=tmp_path) as server:
        assert server.upload("a.txt", LONG.encode(), "&tokenizer=bytes").status == 200
        assert kept() != before
    assert kept() == before
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive = tmp_path / "lucidlm-documents-999999999-x", tmp_path / "lucidlm-documents-1-x"
    for folder in (dead, alive, tmp_path / "lucidlm-documents-other"):
        folder.mkdir()
    _sweep()
    assert not dead.exists()
    assert alive.exists()
    assert (tmp_path / "lucidlm-documents-other").exists()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a book.txt", "a-book"),
        ("../x/y.tar.gz", "y"),
        ("«»", "text"),
        ("b" * 99, "b" * 40),
        (".txt", "text"),
    ],
)
def test_a_run_is_named_after_its_text(name, stem):
    assert Stored("1", name, Path("x")).stem == stem
