"""Files from web servers: an http or https address in, the bytes of its part file out.

fsspec reads these addresses too, but cannot resume a transfer (If-Range), limit the time of an answer or keep
https from being redirected to http.
"""

import http.client
import itertools
import queue
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from lucidlm.errors import FetchError
from lucidlm.runtime.part_file import AGAIN, BY_HAND, BrokenOffError, Origin, PartFile, one_reason

_BLOCK = 1 << 20
_BUSY = (429, 500, 502, 503, 504)
"""Statuses of a server that may answer well a moment later."""
_SAFE = "%/:=&?~+!$,;'@()*[]"
"""Characters that an address keeps as they are."""
_NUMBER = "[0-9]{1,18}"
"""More digits than a file can have bytes."""


def _in_ascii(url: str) -> str:
    """The address in ASCII, without its fragment."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port
    host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    place = host if port is None else f"{host}:{port}"
    path, query = (urllib.parse.quote(part, safe=_SAFE) for part in (parts.path or "/", parts.query))
    return urllib.parse.urlunsplit((parts.scheme, place, path, query, ""))


def fill(part: PartFile) -> None:
    """Fills the part file with what the server has, and continues after a break up to a few times."""
    address = _in_ascii(part.url)
    for attempt in itertools.count(1):
        try:
            return _transfer(part, address)
        except BrokenOffError as problem:
            if attempt == part.patience.attempts:
                why = f"{problem} ({attempt} attempts)"
                raise FetchError(part.url, problem.code, why, f"{AGAIN}, or {BY_HAND}") from problem
            part.progress.note(f"{part.url}: {problem}; trying again")
            time.sleep(attempt * part.patience.pause_s)
    return None


def _transfer(part: PartFile, address: str) -> None:
    """One request: adds to the part file what is missing."""
    headers = {"User-Agent": "lucidlm", "Accept-Encoding": "identity"}
    known, have = part.origin, 0
    if known is not None:
        have = part.path.stat().st_size
        if have == known.length:
            return
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": known.validator or ""}
    with _asked(part, urllib.request.Request(address, headers=headers)) as response:
        said = response.headers
        same = said["ETag"] in (None, known.etag if known else None)
        start, total = _range(said["Content-Range"])
        if response.status == 200:
            have, total = 0, _length(said["Content-Length"])
        elif response.status != 206 or start != have or not same:
            part.path.unlink(missing_ok=True)
            raise BrokenOffError("answer", f"the server answered {response.status} with the wrong part")
        part.refuse_over(total)
        if have == 0:
            kept = (said[name] for name in ("Content-Type", "Content-Encoding", "ETag", "Last-Modified"))
            part.start(Origin(part.url, *kept, length=total))
        part.receive(_blocks(response), have=have, total=total)


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes: read1, because read would wait until a whole block is here."""
    while True:
        try:
            block = response.read1(_BLOCK)
        except (http.client.HTTPException, OSError) as problem:
            yield getattr(problem, "partial", b"")
            raise BrokenOffError("broken", f"the connection broke off ({one_reason(problem)})") from problem
        if not block:
            return
        yield block


def _asked(part: PartFile, request: urllib.request.Request) -> http.client.HTTPResponse:
    """The server's answer; an error that another request would meet again is a FetchError."""
    try:
        return _answer_of(part, request)
    except urllib.error.HTTPError as answer:
        with answer:
            status = f"the server answered {answer.code} {one_reason(answer.reason)}"
            if answer.code == 416:
                part.path.unlink(missing_ok=True)
                raise BrokenOffError("answer", "the part does not fit the server's file") from answer
            if answer.code in _BUSY:
                raise BrokenOffError("answer", status) from answer
            raise FetchError(part.url, "answer", status, f"check the address, or {BY_HAND}") from answer
    except urllib.error.URLError as problem:
        unreachable = f"cannot be reached ({one_reason(problem.reason)})"
        if isinstance(problem.reason, ssl.SSLCertVerificationError | socket.gaierror):
            advice = f"check the address and the network, or {BY_HAND}"
            raise FetchError(part.url, "unreachable", unreachable, advice) from problem
        raise BrokenOffError("unreachable", unreachable) from problem
    except (http.client.HTTPException, OSError) as problem:
        raise BrokenOffError("answer", f"no valid answer ({one_reason(problem)})") from problem
    except (ValueError, OverflowError) as problem:  # from urllib, for an invalid address or port
        why = f"redirects to an invalid address ({one_reason(problem)})"
        raise FetchError(part.url, "redirect", why, BY_HAND) from problem


def _answer_of(part: PartFile, request: urllib.request.Request) -> http.client.HTTPResponse:
    """The answer when all headers are here; TimeoutError if that takes too long."""
    found: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = _opener(request).open(request, timeout=part.patience.idle_s)
        except BaseException as problem:
            found.put(problem)
            return
        found.put(response)
        if given_up.is_set():
            response.close()

    # In a thread, because nothing else stops urllib while a server sends one byte of a header now and then.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = found.get(timeout=part.patience.answer_s)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no headers within {part.patience.answer_s:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


class OnlyAsSafe(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http or https only, and never from https to http."""

    def http_error_302(self, req, fp, code, msg, headers):
        """The answer of the new address."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError:
            raise  # it holds the answer, which is closed where it is read
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """The request for the new address."""
        scheme = newurl.partition(":")[0].lower()
        if scheme not in ("http", "https"):  # urllib itself would follow to ftp
            problem = f"redirects to {newurl[:200]}, which is neither http nor https"
            raise FetchError(req.full_url, "redirect", problem, BY_HAND)
        if req.type == "https" and scheme == "http":
            problem = f"redirects to {newurl[:200]}, which is not encrypted"
            raise FetchError(req.full_url, "redirect", problem, BY_HAND)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(request: urllib.request.Request) -> urllib.request.OpenerDirector:
    host = urllib.parse.urlsplit(request.full_url).hostname or ""
    handlers: list[urllib.request.BaseHandler] = [OnlyAsSafe()]
    if host in ("localhost", "::1") or host.startswith("127."):
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy's localhost is another machine
    return urllib.request.build_opener(*handlers)


def _length(said: str | None) -> int | None:
    return int(said) if said and re.fullmatch(_NUMBER, said) else None


def _range(said: str | None) -> tuple[int | None, int | None]:
    """Start and total of a Content-Range: (524288, 1048576) for "bytes 524288-1048575/1048576"."""
    found = re.match(rf"bytes ({_NUMBER})-{_NUMBER}(?:/({_NUMBER}))?", said or "")
    return (int(found[1]), int(found[2]) if found[2] else None) if found else (None, None)
