"""Files from cloud stores: an address that fsspec opens in, the bytes of its part file out."""

from collections.abc import Iterator

from lucidlm.errors import FetchError
from lucidlm.runtime.part_file import BY_HAND, BrokenOffError, Origin, PartFile, one_reason

EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "hf": ""}
"""The schemes, and the extra of lucidlm that installs the backend ("": always installed)."""
_BLOCK = 1 << 20


def fill(part: PartFile, scheme: str) -> None:
    """Fills the part file from a store that fsspec opens: from the beginning, as its clients retry."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(f"{scheme}:{part.url.partition(':')[2]}")
        about = system.info(path)
    except ImportError as problem:
        advice = f"pip install 'lucidlm[{EXTRAS[scheme]}]', or {BY_HAND}"
        raise FetchError(part.url, "extra", f"{scheme}:// needs a package ({problem})", advice) from problem
    except Exception as problem:  # each backend has errors of its own
        raise _unreadable(part.url, problem) from problem
    if about.get("type") == "directory":
        raise FetchError(part.url, "folder", "a folder, not a file", "give the address of one file")
    kind, total = about.get("ContentType") or about.get("contentType"), about.get("size")
    part.refuse_over(total)
    part.start(Origin(part.url, content_type=kind if isinstance(kind, str) else None, length=total))

    def blocks() -> Iterator[bytes]:
        try:
            with system.open(path, "rb") as source:
                while block := source.read(_BLOCK):
                    yield block
        except Exception as problem:
            raise _unreadable(part.url, problem) from problem

    try:
        part.receive(blocks(), have=0, total=total)
    except BrokenOffError as problem:
        advice = f"run the command again, or {BY_HAND}"
        raise FetchError(part.url, problem.code, str(problem), advice) from problem


def _unreadable(url: str, problem: Exception) -> FetchError:
    why = f"cannot be read ({one_reason(problem)[:300]})"
    advice = f"check the address, the network and your credentials, or {BY_HAND}"
    return FetchError(url, "unreachable", why, advice)
