"""Who may ask, from where, in which form, how much and how slowly."""

import contextlib
import json
import re
import socket
import time
from dataclasses import replace

import pytest
from serving import FOREVER, LIMIT_S, running, served, slow_server, wait_for

from lucidlm.errors import ConfigError
from lucidlm.serve.guards import Settings
from lucidlm.serve.limits import LIMITS
from lucidlm.serve.listening import listen

BODY = b'{"model":"tiny","prompt":"ab","max_tokens":1}'


def sent(server, *parts, pause_s=0.0, read=True):
    """What comes back for bytes that are sent as they are, part by part."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause_s)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while read and (some := sock.recv(65536)):
                answer += some
        return answer


def request(body=BODY, *headers, path=b"/v1/completions", host=b"localhost"):
    kind = (
        ()
        if any(line.startswith(b"content-type") for line in headers)
        else (b"content-type: application/json",)
    )
    lines = [b"POST %s HTTP/1.1" % path, b"host: %s" % host, b"connection: close", *kind, *headers]
    if not any(line.startswith(b"transfer-encoding") for line in headers):
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1.example.org", "localhost.example", "[::2]", "]", "a b"]
)
def test_a_foreign_host_is_refused(server, host):
    assert server.ask("GET", "/v1/models", host=host).status in (400, 403)
    assert server.ask("GET", "/health", host=host).status in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:8000", "LOCALHOST:1", "[::1]:8000"])
def test_the_names_of_this_machine_are_taken(server, host):
    assert server.ask("GET", "/health", host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["https://example.org", "null", "http://localhost", "http://127.0.0.1:1", "", "*"]
)
def test_a_foreign_origin_is_refused(server, origin):
    reply = server.ask("POST", "/v1/completions", BODY, origin=origin)
    assert (reply.status, reply.fault["type"]) == (403, "permission_error")
    assert server.ask("OPTIONS", "/v1/completions", origin=origin).status == 403
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_the_pages_of_this_server_may_ask_it(server):
    assert server.ask("POST", "/v1/completions", BODY, origin=server.address).status == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "a"]
)
@pytest.mark.parametrize("path", ["/v1/completions", "/api/explain", "/api/generate", "/nowhere"])
def test_a_body_must_be_json(server, kind, path):
    reply = server.ask("POST", path, BODY, content_type=kind)
    assert (reply.status, reply.fault["code"]) == (415, None)


def test_json_may_have_a_charset(server):
    assert (
        server.ask("POST", "/v1/completions", BODY, content_type="Application/JSON; charset=utf-8").status
        == 200
    )


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b'"a"', b"\xff", b"{} {}", b"[" * 100_000, b"1" * 5000]
)
def test_a_body_that_is_no_form_is_refused(server, body):
    assert server.ask("POST", "/v1/completions", body).status == 400


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(server, number):
    for field in ("temperature", "max_tokens", "top_p"):
        body = b'{"model":"tiny","prompt":"ab","%s":%s}' % (field.encode(), number.encode())
        assert server.ask("POST", "/v1/completions", body).status == 400


LARGEST = {"n": 8, "stop": ["a", "b", "c", "d"], "logprobs": 20}
OVER = [
    {"n": 9},
    {"n": 0},
    {"stop": ["a", "b", "c", "d", "e"]},
    {"stop": "x" * 1001},
    {"logprobs": 21},
    {"logprobs": -1},
    {"logit_bias": {str(id): 1 for id in range(301)}},
    {"prompt": ["a"] * 33},
    {"prompt": ["a"] * 5, "n": 7},
    {"prompt": "a" * 49, "max_tokens": 16},
    {"max_tokens": 63},
    {"max_tokens": 10**12},
]


def test_what_is_at_its_limit_is_taken(server):
    bias = {str(id): 1 for id in range(256)}
    assert server.complete("ab", max_tokens=62).status == 200
    assert server.complete("ab", max_tokens=1, logit_bias=bias, **LARGEST).status == 200
    assert server.complete(["a"] * 32, max_tokens=1).status == 200
    assert server.complete("ab", max_tokens=1, stop="x" * 1000).status == 200


@pytest.mark.parametrize("fields", OVER, ids=lambda fields: str(fields)[:40])
def test_what_is_over_its_limit_is_refused_at_once(server, fields):
    reply = server.complete(**({"prompt": "ab"} | fields))
    assert (reply.status, reply.fault["type"]) == (400, "invalid_request_error")


def test_a_body_over_its_limit_is_refused_and_one_at_it_is_read(server):
    def padded(size):
        return BODY[:-1] + b" " * (size - len(BODY)) + b"}"

    assert server.ask("POST", "/v1/completions", padded(LIMITS.body_bytes)).status == 200
    reply = server.ask("POST", "/v1/completions", padded(LIMITS.body_bytes + 1))
    assert (reply.status, reply.fault["type"]) == (413, "invalid_request_error")


def test_a_chunked_body_over_its_limit_is_refused_without_a_length(server):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = request(b"", b"transfer-encoding: chunked")
    answer = sent(server, head, *[chunk] * 16, b"1\r\n \r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    good = sent(server, head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert good.startswith(b"HTTP/1.1 200 ")


def test_every_answer_has_the_headers_that_keep_pages_apart(server):
    replies = [
        server.ask("GET", "/health"), server.ask("GET", "/nowhere"), server.ask("GET", "/docs"),
        server.complete(), server.complete(stream=True), server.ask("GET", "/health", host="example.org"),
    ]  # fmt: skip
    assert [reply.status for reply in replies] == [200, 404, 200, 200, 200, 403]
    for reply in replies:
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not {"set-cookie", "access-control-allow-origin", "server"} & set(reply.headers)


def test_a_wrong_route_or_method_has_the_error_object(server):
    assert server.ask("GET", "/nowhere").fault["code"] == "not_found"
    assert server.ask("GET", "/v1/completions").fault["type"] == "invalid_request_error"
    assert server.ask("GET", "/v1/completions").status == 405
    assert server.ask("GET", "/v1/models/../../etc/passwd").status == 404


def test_the_docs_need_no_other_host(server):
    page = server.ask("GET", "/docs").body.decode()
    assert not re.search(r"(src|href)=.?(https?:)?//", page)
    assert "<script" not in page
    for part in ("POST /v1/completions", "best_of", "Refused unless it equals n.", "unread_bytes"):
        assert part in page
    document = server.ask("GET", "/openapi.json").json
    assert set(document["paths"]) == {
        *("/v1/models", "/v1/models/{name}", "/v1/completions", "/v1/chat/completions"),
        *("/health", "/api/models", "/api/explain", "/api/tokenize", "/api/generate", "/api/compare"),
        *("/api/explain/part", "/api/explain/page", "/api/compare/part", "/api/logits"),
        "/api/baselines",
    }


def test_with_a_key_every_request_must_bring_it():
    with running(api_key="secret") as server:
        for path in ("/health", "/v1/models", "/docs", "/nowhere"):
            reply = server.ask("GET", path)
            assert (reply.status, reply.fault["type"]) == (401, "authentication_error")
            assert reply.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer Secret", "Bearer secret ", "secret", "Basic secret", "Bearer sécret"):
            expected = 200 if wrong == "Bearer secret " else 401  # HTTP drops spaces at the end of a header
            assert server.ask("GET", "/health", authorization=wrong).status == expected
        assert server.ask("GET", "/health", authorization="Bearer secret").status == 200


def test_only_this_machine_needs_no_key():
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert Settings(host=host).names is not None
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "example.org"):
        with pytest.raises(ConfigError, match="--api-key"):
            Settings(host=host)
        Settings(host=host, api_key="k")


@pytest.fixture(scope="module")
def impatient():
    with running(limits=replace(LIMITS, idle_s=0.3)) as server:
        yield server


@pytest.mark.parametrize(
    "parts",
    [[b"POST /v1"], [request()[:60]], [request()[:-5]], [request(b"", b"transfer-encoding: chunked")]],
    ids=range(4),
)
def test_a_client_that_sends_no_more_is_cut_off(impatient, parts):
    began = time.monotonic()
    answer = sent(impatient, *parts)
    assert time.monotonic() - began >= 0.3  # on a slow machine it takes longer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_sends_byte_by_byte_is_cut_off_in_the_end():
    cut_off = pytest.raises((BrokenPipeError, ConnectionResetError))
    with running(limits=replace(LIMITS, total_s=0.5)) as server, cut_off:
        sent(server, request()[:60], *[b"x"] * 1000, pause_s=0.05, read=False)


def test_an_answer_that_takes_too_long_is_cut_off():
    with slow_server(total_s=1.0) as (server, head):
        assert server.complete("ab", max_tokens=4000, logit_bias=FOREVER).status == 408
        server.wait_for(0)
        assert head.calls < 4000, "the text was given up"


def test_a_client_that_does_not_read_a_long_answer_is_cut_off():
    body = json.dumps({"texts": ["x" * 2000] * 32, "top_k": 20}).encode()  # tens of megabytes of JSON
    limits = replace(LIMITS, idle_s=0.3)
    with running(served(context_length=8192), limits=limits) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(LIMIT_S)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(request(body, path=b"/api/explain"))
        size = len(sock.recv(100))
        wait_for(lambda: server.connections, (0).__eq__)
        with contextlib.suppress(ConnectionResetError):
            while some := sock.recv(65536):
                size += len(some)
        assert 0 < size < 20_000_000
        server.wait_for(0)


def test_slow_senders_do_not_disturb_others(server):
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    try:
        for sock in slow:
            sock.sendall(request()[:100])
        assert server.complete(max_tokens=1).status == 200
    finally:
        for sock in slow:
            sock.close()


def test_small_packets_are_sent_at_once():
    # asyncio sets TCP_NODELAY only for sockets whose protocol says TCP; else a first token waits 40 ms.
    with listen(Settings(port=0)) as sock:
        assert sock.proto == socket.IPPROTO_TCP
