"""From an address to a file on this machine: resumable, checked, fetched once."""

import hashlib
import http.client
import json
import os
import queue
import re
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from lucidlm.errors import DataError
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural

_BLOCK = 1 << 20
_ATTEMPTS = 3
_TIMEOUT_S = 30.0
"""Without a byte for so long a connection is broken."""
_ANSWER_S = 120.0
"""After so long the headers must be here, redirections included: a byte now and then is no answer."""
_PATIENCE_S, _SLOWEST = 60.0, 500
"""A transfer that brings fewer bytes a second over so many seconds is given up."""
_RESUMABLE_STATUS = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Origin:
    """What the server said of a file, kept beside it."""

    url: str
    content_type: str | None = None
    content_encoding: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None

    @property
    def validator(self) -> str | None:
        """Which version a part belongs to, for the server. A weak ETag does not promise the same bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class _BrokenOffError(Exception):
    """The connection failed; the bytes that came are kept and another attempt may go on from there."""


def cache_folder() -> Path:
    """Where downloads lie: LUCIDLM_CACHE, else the platform's place for caches. It may not exist yet.

    DataError where there is none, as for a user without a home folder in a container.
    """
    if chosen := os.environ.get("LUCIDLM_CACHE"):
        return Path(os.path.expanduser(chosen))  # no shell has read what a container's settings say
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else home_folder() / "AppData" / "Local") / "lucidlm"
    if sys.platform == "darwin":
        return home_folder() / "Library" / "Caches" / "lucidlm"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative one is to be ignored: it would be another folder in each.
    return (Path(xdg) if os.path.isabs(xdg) else home_folder() / ".cache") / "lucidlm"


def home_folder() -> Path:
    """The user's home folder, or a DataError that says what to set instead."""
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry for this user id in the system's list
        home = None
    if home is None or not home.is_absolute():
        why = "no HOME" if home is None else f"HOME is {home}"
        raise DataError(
            f"there is no home folder to keep downloads in ({why}); "
            "set LUCIDLM_CACHE to a folder for texts and OpenAI's models, and HF_HOME to one for the hub's"
        )
    return home


def download(
    url: str,
    folder: Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    max_bytes: int = 4 << 30,
    progress: Progress = SILENT,
) -> Path:
    """The file in `folder` that holds what `url` holds; one that is there already is not asked for again.

    A transfer that breaks off goes on where it stopped, in this call or a later one, if the server vouches
    that its file is still the same. Only a whole file of the right length and hash gets the final name, which
    is `name` or one made from the address.
    """
    address = _checked_address(url)
    target = Path(folder) / (name or _file_name(url))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(target, ".lock")):
            if target.is_file():
                if _is_whole(target, sha256) and size in (None, target.stat().st_size):
                    return target
                progress.note(f"{url}: the copy in the cache is damaged and is fetched again")
                target.unlink()
            _fetch(url, address, target, max_bytes, progress)
            _accept(url, target, sha256, size)
    except OSError as problem:
        raise DataError(
            f"{url}: cannot be kept in {folder} ({problem.strerror or problem}); "
            "free some space or set LUCIDLM_CACHE to another folder"
        ) from problem
    return target


def origin_of(path: Path) -> Origin | None:
    """What the server said of a downloaded file; None if nothing legible is kept beside it."""
    try:
        return Origin(**read_small_json(_beside(path, ".json"), DataError, 1 << 20))
    except (OSError, DataError, ValueError, TypeError):
        return None


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _checked_address(url: str) -> str:
    """The address in ASCII, without its fragment."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
        if parts.scheme not in ("http", "https") or not host:
            raise DataError(
                f"{url}: only http:// and https:// addresses can be fetched; give such a one, or a path"
            )
        if parts.username is not None:
            raise DataError(
                f"{parts.scheme}://...@{host}: an address with a password in it is refused; "
                "download the file yourself and give its path"
            )
        host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    except ValueError as problem:
        raise DataError(f"{url!r}: not an address ({problem}); check how it is written") from problem
    place = host if port is None else f"{host}:{port}"
    path = urllib.parse.quote(parts.path or "/", safe="%/:=&?~+!$,;'@()*[]")
    query = urllib.parse.quote(parts.query, safe="%/:=&?~+!$,;'@()*[]")
    return urllib.parse.urlunsplit((parts.scheme, place, path, query, ""))


def _file_name(url: str) -> str:
    """A name that no other address has and no system misreads, with the address's last part to know it by."""
    last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
    legible = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._")[-80:]
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{digest}-{legible}" if legible else digest


def _fetch(url: str, address: str, target: Path, max_bytes: int, progress: Progress) -> None:
    """Fills the part file beside `target`, going on after a break up to a few times."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _transfer(url, address, target, max_bytes, progress)
            return
        except _BrokenOffError as problem:
            if attempt == _ATTEMPTS:
                raise DataError(
                    f"{url}: {problem}, {_ATTEMPTS} times; run the command again to go on from there, "
                    "or download the file yourself and give its path"
                ) from problem
            progress.note(f"{url}: {problem}; trying again")
            time.sleep(attempt)


def _transfer(url: str, address: str, target: Path, max_bytes: int, progress: Progress) -> None:
    """One request: appends to the part file what the server still has to send of it."""
    part = _beside(target, ".part")
    headers = {"User-Agent": "lucidlm", "Accept-Encoding": "identity"}
    have, known = 0, origin_of(part)
    if known and known.url == url and known.validator and part.exists():
        have = part.stat().st_size
        if have == known.length:
            return
    if known and known.validator and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    with _asked(url, address, headers, part) as response:
        same = response.headers["ETag"] in (None, known.etag if known else None)
        if response.status == 206 and _range_start(response) == have and same:
            total = _range_total(response)
        elif response.status == 200:
            have, total = 0, _length(response)
        else:
            part.unlink(missing_ok=True)
            raise _BrokenOffError(
                f"the server answered {response.status} with another part than was asked for"
            )
        _refuse_over(url, total, max_bytes)
        if have == 0:
            part.unlink(missing_ok=True)  # first, or a crash here would join an old part to the new version
            _write_origin(_beside(part, ".json"), _origin(url, response, total))
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            _receive(url, response, file, have, total, max_bytes, progress)
            file.flush()
            os.fsync(file.fileno())


def _receive(
    url: str,
    response: http.client.HTTPResponse,
    file: BinaryIO,
    have: int,
    total: int | None,
    max_bytes: int,
    progress: Progress,
) -> None:
    """Writes the answer's body, counting: too little is a break, too much is refused."""
    told = since = time.monotonic()
    came = 0
    while True:
        try:
            block = response.read1(_BLOCK)  # what is here: read would wait for all of a block
        except (http.client.HTTPException, OSError) as problem:
            file.write(getattr(problem, "partial", b""))
            raise _BrokenOffError(f"the connection broke off ({_reason(problem)})") from problem
        if not block:
            break
        have += len(block)
        _refuse_over(url, have, max_bytes)
        file.write(block)
        came += len(block)
        if (seconds := time.monotonic() - since) > _PATIENCE_S:
            if came < _SLOWEST * seconds:
                raise DataError(
                    f"{url}: {plural(came, 'byte')} in {seconds:.0f} seconds, the slowest that is "
                    f"waited for is "
                    f"{_SLOWEST:,} a second; run the command again to go on from there, or download the file "
                    "yourself and give its path"
                )
            since, came = time.monotonic(), 0
        if time.monotonic() - told > 1:
            told = time.monotonic()
            progress.note(f"{url}: {have / 1e6:,.1f}" + (f" of {total / 1e6:,.1f} MB" if total else " MB"))
    if total is not None and have != total:
        raise _BrokenOffError(f"the connection broke off after {have:,} of {plural(total, 'byte')}")


def _accept(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Gives the part file its final name, if its size and hash are right."""
    part = _beside(target, ".part")
    if size is not None and (have := part.stat().st_size) != size:
        part.unlink()
        _beside(part, ".json").unlink(missing_ok=True)
        raise DataError(
            f"{url}: it has {plural(have, 'byte')}, expected {size:,}; the file has changed or was damaged: "
            "download it yourself, check it and give its path"
        )
    found = _sha256_of(part) if sha256 else None
    if sha256 and found != sha256.lower():
        part.unlink()
        _beside(part, ".json").unlink(missing_ok=True)
        raise DataError(
            f"{url}: its SHA-256 is {found}, expected {sha256.lower()}; "
            "the file has changed or was damaged: download it yourself, check it and give its path"
        )
    os.replace(_beside(part, ".json"), _beside(target, ".json"))
    os.replace(part, target)


def _asked(url: str, address: str, headers: dict[str, str], part: Path) -> http.client.HTTPResponse:
    """The server's answer; what cannot get better by asking again is an error at once."""
    try:
        return _answer_of(urllib.request.Request(address, headers=headers))
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code == 416:
                part.unlink(missing_ok=True)
                raise _BrokenOffError("the part that was here does not fit the server's file") from answer
            if answer.code in _RESUMABLE_STATUS:
                raise _BrokenOffError(f"the server answered {answer.code} {answer.reason}") from answer
            raise DataError(
                f"{url}: the server answered {answer.code} {_reason(answer.reason)}; "
                "check the address, or download the file yourself and give its path"
            ) from answer
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ssl.SSLCertVerificationError | socket.gaierror):
            raise DataError(
                f"{url}: cannot be reached ({_reason(problem.reason)}); check the address and the network, "
                "or download the file yourself and give its path"
            ) from problem
        raise _BrokenOffError(f"cannot be reached ({_reason(problem.reason)})") from problem
    except (http.client.HTTPException, OSError) as problem:
        raise _BrokenOffError(f"the server gave no proper answer ({_reason(problem)})") from problem
    except (ValueError, OverflowError) as problem:  # of urllib, for an address or a port that is none
        raise DataError(
            f"{url}: redirects to an invalid address ({_reason(problem)}); "
            "download the file yourself and give its path"
        ) from problem


def _answer_of(request: urllib.request.Request) -> http.client.HTTPResponse:
    """The answer once its headers are here; TimeoutError where they take too long, a byte now and then."""
    found: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = _opener(request.full_url).open(request, timeout=_TIMEOUT_S)
        except BaseException as problem:
            found.put(problem)
            return
        found.put(response)
        if given_up.is_set():
            response.close()

    # In a thread, as nothing but its end stops urllib from waiting for the next byte of a header.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = found.get(timeout=_ANSWER_S)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no headers within {_ANSWER_S:.0f} seconds") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


class _OnlyAsSafe(urllib.request.HTTPRedirectHandler):
    """Follows a redirection to http or https, and never from https down to http."""

    def http_error_302(self, req, fp, code, msg, headers):
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError:
            raise  # it holds the answer, and is closed where it is read
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.lower().startswith(("http:", "https:")):  # urllib itself would go on to ftp
            raise DataError(
                f"{req.full_url}: leads on to {newurl[:200]}, which is neither http nor https; "
                "download the file yourself and give its path"
            )
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise DataError(
                f"{req.full_url}: leads on to {newurl[:200]}, which is not encrypted; "
                "download the file yourself and give its path"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(address: str) -> urllib.request.OpenerDirector:
    host = urllib.parse.urlsplit(address).hostname or ""
    handlers: list[urllib.request.BaseHandler] = [_OnlyAsSafe()]
    if host in ("localhost", "::1") or host.startswith("127."):
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy's localhost is another machine
    return urllib.request.build_opener(*handlers)


def _origin(url: str, response: http.client.HTTPResponse, total: int | None) -> Origin:
    said = response.headers
    return Origin(
        url, said["Content-Type"], said["Content-Encoding"], said["ETag"], said["Last-Modified"], total
    )


def _write_origin(path: Path, origin: Origin) -> None:
    path.write_text(json.dumps(asdict(origin)), "utf-8")


def _length(response: http.client.HTTPResponse) -> int | None:
    said = re.fullmatch(r"[0-9]{1,18}", response.headers["Content-Length"] or "")
    return int(said[0]) if said else None


def _range_start(response: http.client.HTTPResponse) -> int | None:
    said = re.match(r"bytes ([0-9]{1,18})-", response.headers["Content-Range"] or "")
    return int(said[1]) if said else None


def _range_total(response: http.client.HTTPResponse) -> int | None:
    said = re.match(r"bytes [0-9]{1,18}-[0-9]{1,18}/([0-9]{1,18})", response.headers["Content-Range"] or "")
    return int(said[1]) if said else None


def _is_whole(target: Path, sha256: str | None) -> bool:
    origin = origin_of(target)
    if origin and origin.length is not None and origin.length != target.stat().st_size:
        return False
    return sha256 is None or _sha256_of(target) == sha256.lower()


def _refuse_over(url: str, size: int | None, max_bytes: int) -> None:
    if size is not None and size > max_bytes:
        raise DataError(
            f"{url}: {plural(size, 'byte')} is more than the limit of {max_bytes:,}; "
            "download the file yourself and give its path"
        )


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(problem: object) -> str:
    """An error as part of one line."""
    return " ".join(str(problem).split()) or type(problem).__name__
