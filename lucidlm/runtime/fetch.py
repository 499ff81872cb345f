"""From an address to a file on this machine, fetched once: http and https by `web`, others by `stores`."""

import hashlib
import os
import re
import urllib.parse
from pathlib import Path

from lucidlm.errors import DataError, FetchError
from lucidlm.runtime import stores, web
from lucidlm.runtime.manifest import sha256_of
from lucidlm.runtime.part_file import (
    BY_HAND,
    PartFile,
    Patience,
    beside,
    origin_of,
)
from lucidlm.runtime.progress import SILENT, Progress

SCHEMES = ("http", "https", *stores.EXTRAS)
PATIENCE = Patience()
NO_HOME = (
    "no home folder for downloads; "
    "set LUCIDLM_CACHE to a folder for texts and OpenAI's models, and HF_HOME to one for the hub's"
)


def cache_folder() -> Path:
    """Where fetched files lie: LUCIDLM_CACHE, else the platform's folder for caches. It may not exist yet.

    DataError without a home folder, as for some users in containers.
    """
    import platformdirs

    if chosen := os.environ.get("LUCIDLM_CACHE"):
        return Path(os.path.expanduser(chosen))  # settings of containers are not expanded by a shell
    try:
        # Without "opinion" it is %LOCALAPPDATA%\lucidlm on Windows, where caches of earlier versions lie.
        return platformdirs.user_cache_path("lucidlm", appauthor=False, opinion=False)
    except RuntimeError:
        raise DataError(NO_HOME) from None


def fetch(
    url: str,
    folder: Path,
    *,
    name: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    max_bytes: int = 4 << 30,
    progress: Progress = SILENT,
    patience: Patience = PATIENCE,
) -> Path:
    """The file in `folder` that holds what `url` holds; a file that is there already is not fetched again.

    A transfer from a web server that breaks off continues where it stopped, in this call or a later one, if
    the server confirms that its file is still the same. Only a whole file with the right length and hash
    gets the final name, which is `name` or one made from the address.
    """
    from filelock import FileLock

    scheme = _checked_scheme(url)
    target = Path(folder) / (name or _file_name(url))
    part = PartFile(url, target, max_bytes, patience, progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(beside(target, ".lock")):
            if target.is_file():
                if _is_whole(target, sha256, size):
                    return target
                progress.note(f"{url}: the copy in the cache is damaged and is fetched again")
                target.unlink()
            stores.fill(part, scheme) if scheme in stores.EXTRAS else web.fill(part)
            part.accept(sha256, size)
    except OSError as problem:
        why = f"cannot be kept in {folder} ({problem.strerror or problem})"
        advice = "free some space or set LUCIDLM_CACHE to another folder"
        raise FetchError(url, "cache", why, advice) from problem
    return target


def _checked_scheme(url: str) -> str:
    """The scheme in lower case; FetchError for an address of another scheme, or one that cannot be read."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as problem:
        why = f"not an address ({problem})"
        raise FetchError(repr(url), "address", why, "check the spelling") from problem
    if parts.scheme not in SCHEMES or not host:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise FetchError(repr(url), "scheme", f"only {known} addresses can be fetched", BY_HAND)
    if parts.username is not None:
        shown = f"{parts.scheme}://...@{host}"
        raise FetchError(shown, "password", "an address with a password is refused", BY_HAND)
    return parts.scheme


def _file_name(url: str) -> str:
    """A name that no other address has and every system accepts, with the last part of the address in it."""
    last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rpartition("/")[2]
    legible = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._")[-80:]
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{digest}-{legible}" if legible else digest


def _is_whole(target: Path, sha256: str | None, size: int | None) -> bool:
    origin, have = origin_of(target), target.stat().st_size
    if size not in (None, have) or (origin and origin.length not in (None, have)):
        return False
    return sha256 is None or sha256_of(target) == sha256.lower()
