"""A file on its way to the cache: blocks of bytes in, a whole file with the right size and hash out."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from lucidlm.errors import DataError, FetchError
from lucidlm.runtime.manifest import sha256_of
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural

AGAIN = "run the command again to continue"
BY_HAND = "download the file yourself and give its path"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, and how often it is asked."""

    attempts: int = 3
    pause_s: float = 1.0
    """Pause before the second request; before the third it is twice as long."""
    idle_s: float = 30.0
    """A connection without a byte for this long is broken."""
    answer_s: float = 120.0
    """Time for all headers, with redirects: one byte now and then does not extend it."""
    window_s: float = 60.0
    slowest: int = 500
    """Bytes per second: a transfer that is slower over `window_s` is given up."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the server says about a file. It is kept beside the file."""

    url: str
    content_type: str | None = None
    content_encoding: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None

    @property
    def validator(self) -> str | None:
        """The version of the file, for If-Range. A weak ETag does not promise the same bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class BrokenOffError(Exception):
    """A connection that failed. The bytes so far are kept, and another request may continue after them."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code


def one_reason(problem: object) -> str:
    """An error as a part of one line; its class where it has no text."""
    return " ".join(str(problem).split()) or type(problem).__name__


def beside(target: Path, suffix: str) -> Path:
    """The file with the same name and one more suffix."""
    return target.with_name(target.name + suffix)


def origin_of(path: Path) -> Origin | None:
    """What the server said about a fetched file; None without a readable record beside it."""
    try:
        return Origin(**read_small_json(beside(path, ".json"), DataError, 1 << 20))
    except (OSError, DataError, ValueError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class PartFile:
    """The part of a file that is here so far, beside its target."""

    url: str
    target: Path
    max_bytes: int
    patience: Patience
    progress: Progress

    @property
    def path(self) -> Path:
        """Where the part lies."""
        return beside(self.target, ".part")

    @property
    def origin(self) -> Origin | None:
        """The record of a part that a server can continue; None if it has to start again."""
        known = origin_of(self.path)
        return known if known and known.url == self.url and known.validator and self.path.exists() else None

    def start(self, origin: Origin) -> None:
        """Begins a new part. The old one goes first, or a crash here would join it to the new version."""
        self.drop()
        beside(self.path, ".json").write_text(json.dumps(asdict(origin)), "utf-8")

    def drop(self) -> None:
        """Deletes the part and its record."""
        self.path.unlink(missing_ok=True)
        beside(self.path, ".json").unlink(missing_ok=True)

    def receive(self, blocks: Iterable[bytes], *, have: int, total: int | None) -> None:
        """Writes the blocks after the first `have` bytes; refuses too many bytes and a transfer too slow."""
        self.refuse_over(total)
        self.progress.stage(f"fetching bytes of {self.url}", total)
        self.progress.advance(have)
        since, came = time.monotonic(), 0
        with self.path.open("r+b" if have else "wb") as file:
            file.seek(have)
            for block in blocks:
                have += len(block)
                came += len(block)
                self.refuse_over(have)
                file.write(block)
                self.progress.advance(len(block))
                if (seconds := time.monotonic() - since) > self.patience.window_s:
                    self._refuse_slow(came, seconds)
                    since, came = time.monotonic(), 0
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            problem = f"the connection broke off after {have:,} of {plural(total, 'byte')}"
            raise BrokenOffError("broken", problem)

    def refuse_over(self, size: int | None) -> None:
        """FetchError for a file that is larger than the limit."""
        if size is not None and size > self.max_bytes:
            problem = f"{plural(size, 'byte')} is more than the limit of {self.max_bytes:,}"
            raise FetchError(self.url, "too_large", problem, BY_HAND)

    def _refuse_slow(self, came: int, seconds: float) -> None:
        if came < self.patience.slowest * seconds:
            least = f"the minimum is {self.patience.slowest:,} per second"
            problem = f"{plural(came, 'byte')} in {seconds:.0f} s, {least}"
            raise FetchError(self.url, "slow", problem, f"{AGAIN}, or {BY_HAND}")

    def accept(self, sha256: str | None, size: int | None) -> None:
        """Gives the part its final name if its size and hash are right; FetchError and no part if not."""
        have = self.path.stat().st_size
        if size is not None and have != size:
            self._refuse(f"it has {plural(have, 'byte')}, expected {size:,}")
        if sha256 is not None and (found := sha256_of(self.path)) != sha256.lower():
            self._refuse(f"its SHA-256 is {found}, expected {sha256.lower()}")
        os.replace(beside(self.path, ".json"), beside(self.target, ".json"))
        os.replace(self.path, self.target)

    def _refuse(self, problem: str) -> None:
        self.drop()
        advice = "the file has changed or is damaged: download it yourself, check it and give its path"
        raise FetchError(self.url, "damaged", problem, advice)
