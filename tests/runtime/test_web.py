"""Files from a web server that breaks off, drips, lies or leads astray."""

import urllib.request

import pytest
from recorded import Recorded
from web_server import BODY, IMPATIENT, SHA256, code_of, download, left, refusal

from lucidlm.errors import FetchError
from lucidlm.runtime.web import OnlyAsSafe


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.moods = ["breaks off", "breaks off"]
    told = Recorded()
    assert download(server.url(), tmp_path, sha256=SHA256, progress=told).read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=524288-", "bytes=786432-"]
    assert server.asked[1]["If-Range"] == '"one"'
    assert "524,288 of 1,048,576 bytes" in told.notes[0]
    assert [done for _, done, _ in told.stages] == [len(BODY) // 2, len(BODY) * 3 // 4, len(BODY)]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.moods = ["breaks off"] * 3
    error = refusal(server.url(), tmp_path)
    assert error.code == "broken"
    assert str(error).startswith(f"{server.url()}: ")
    assert download(server.url(), tmp_path).read_bytes() == BODY
    assert server.asked[3]["Range"] == "bytes=917504-"


def test_a_part_of_another_version_is_thrown_away(server, tmp_path):
    server.moods = ["breaks off"] * 3
    refusal(server.url(), tmp_path)
    server.body, server.etag = b"new" * 400_000, '"two"'
    assert download(server.url(), tmp_path).read_bytes() == server.body


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_again(server, tmp_path, etag):
    server.etag, server.moods = etag, ["breaks off"]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    assert "Range" not in server.asked[1]


def test_a_server_without_ranges_or_with_a_wrong_part_is_asked_for_all(server, tmp_path):
    server.moods = ["breaks off", "no ranges"]
    assert download(server.url("/a"), tmp_path).read_bytes() == BODY
    server.moods = ["breaks off", "wrong part"]
    assert download(server.url("/b"), tmp_path).read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.moods = ["breaks off"] * 3
    refusal(server.url(), tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(BODY + b"more")
    assert download(server.url(), tmp_path).read_bytes() == BODY


def test_a_whole_part_needs_no_request(server, tmp_path):
    server.moods = ["breaks off"] * 3
    refusal(server.url(), tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(BODY)  # as after a kill between the last byte and the renaming
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY
    assert len(server.asked) == 3


def test_a_length_that_does_not_come_is_an_error_and_never_a_file(server, tmp_path):
    server.etag, server.moods = None, ["too long"] * 3
    assert "of 1,048,586 bytes" in refusal(server.url(), tmp_path).problem
    assert [name for name in left(tmp_path) if not name.endswith(".part")] == []


def test_an_answer_without_a_length_is_taken_to_its_end(server, tmp_path):
    server.moods = ["no length"]
    assert download(server.url(), tmp_path, sha256=SHA256).read_bytes() == BODY


def test_a_missing_file_is_an_error_at_once_and_a_busy_server_is_asked_again(server, tmp_path):
    server.moods = [404]
    error = refusal(server.url(), tmp_path)
    assert error.code == "answer"
    assert "404" in error.problem
    assert len(server.asked) == 1
    server.moods = [503, 503]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    server.moods = [500] * 3
    assert "500" in refusal(server.url("/b"), tmp_path).problem


def test_redirections_are_followed_to_http_alone(server, tmp_path):
    server.moods = [f"to {server.url('/elsewhere')}"]
    assert download(server.url(), tmp_path).read_bytes() == BODY
    server.moods = ["to file:///etc/passwd"]
    assert "302" in refusal(server.url("/b"), tmp_path).problem


def test_https_is_never_left_for_http():
    handler = OnlyAsSafe()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(FetchError) as caught:
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/a")
    assert caught.value.code == "redirect"
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/b") is not None


def test_a_server_that_is_not_there_is_an_error_in_one_line(tmp_path):
    assert code_of("http://127.0.0.1:1/a.txt", tmp_path) == "unreachable"


def test_a_server_that_drips_is_given_up(server, tmp_path):
    server.moods = ["drips"]
    error = refusal(server.url(), tmp_path, patience=IMPATIENT)
    assert error.code == "slow"
    assert "500" in error.problem
    server.moods = ["drips headers"] * 3
    error = refusal(server.url(), tmp_path, patience=IMPATIENT)
    assert error.code == "answer"
    assert "0.2 s" in error.problem


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("ftp://127.0.0.1/book.txt", "redirect"),
        ("FTP://127.0.0.1/book.txt", "redirect"),
        ("file:///etc/passwd", "answer"),
        ("gopher://127.0.0.1/", "answer"),
        ("http://[bad/", "redirect"),
        ("http://127.0.0.1:99999999/", "unreachable|redirect|answer"),
    ],
)
def test_redirections_that_lead_astray_are_one_line(server, tmp_path, address, code):
    server.moods = [f"to {address}"] * 3
    assert code_of(server.url(), tmp_path) in code.split("|")
    assert left(tmp_path) == []


def test_redirections_without_end_are_one_line(server, tmp_path):
    server.moods = [f"to {server.url()}"] * 60
    assert code_of(server.url(), tmp_path) == "answer"


@pytest.mark.parametrize("length", ["9" * 5000, "\u00b2", "-5", "many"])
def test_a_length_that_is_no_number_is_not_believed(server, tmp_path, length):
    server.headers["Content-Length"] = length
    server.etag = None
    assert download(server.url(), tmp_path).read_bytes() == BODY


def test_headers_beyond_all_measure_are_one_line(server, tmp_path):
    server.headers |= {f"X-{number}": "a" for number in range(200)}
    assert code_of(server.url(), tmp_path) == "answer"
