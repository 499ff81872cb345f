"""The blocks of a .gz, .bz2 or .xz file come in, the decompressed bytes go out."""

import bz2
import lzma
import zlib
from collections.abc import Iterable, Iterator

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account

PACKINGS = ("gz", "bz2", "xz")
_BLOCK = 1 << 20
_MOST_MEMORY = 1 << 28
"""Bytes of memory for an .xz file: four times what its highest preset needs."""
_START = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\0"}
"""The first bytes of a member: a file may hold several."""


def decompressed(blocks: Iterable[bytes], packing: str, name: str, account: Account) -> Iterator[bytes]:
    """The decompressed bytes, in blocks of at most 1 MiB.

    A file may hold several members and zeros as padding. Other bytes after the last member are ignored, as
    gzip does, and counted.
    """
    source = iter(blocks)
    count = members = 0
    waiting = next(source, b"")
    try:
        while waiting:
            member = _member(packing)
            while not member.eof:
                for block in _taken(member, waiting):
                    count += len(block)
                    yield block
                if member.eof:
                    break
                if not (waiting := next(source, b"")):
                    raise DataError(
                        f"{name}: the .{packing} file is truncated after {plural(count, 'byte')}; "
                        "copy or download it again",
                        reason=reasons.DAMAGED,
                    )
            members += 1
            waiting = _next_member(member.unused_data, source, packing, account)
    except (zlib.error, OSError, lzma.LZMAError) as problem:  # OSError: that of bz2
        raise DataError(
            f"{name}: damaged .{packing} file ({problem}, after {plural(count, 'byte')}); "
            "copy or download it again",
            reason=reasons.DAMAGED,
        ) from problem


def _member(packing: str) -> "_Member":
    match packing:
        case "gz":
            return _Gzip()
        case "bz2":
            return bz2.BZ2Decompressor()
        case _:
            return lzma.LZMADecompressor(memlimit=_MOST_MEMORY)


class _Gzip:
    """zlib's decompressor with the interface of the two others: it keeps unused input itself."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail + data, max_length)


_Member = _Gzip | bz2.BZ2Decompressor | lzma.LZMADecompressor


def _taken(member: _Member, data: bytes) -> Iterator[bytes]:
    """The decompressed bytes of this input, in blocks of at most 1 MiB."""
    while True:
        block = member.decompress(data, _BLOCK)
        data = b""
        if block:
            yield block
        if member.eof or (member.needs_input and len(block) < _BLOCK):  # after a full block there may be more
            return


def _next_member(rest: bytes, source: Iterator[bytes], packing: str, account: Account) -> bytes:
    """The bytes from the start of the next member; b"" if there is none."""
    start = _START[packing]
    while (more := next(source, b"")) or rest:
        rest = (rest + more).lstrip(b"\0")
        if len(rest) >= len(start) or not more:
            break
    if rest.startswith(start):
        return rest
    trailing = len(rest) + sum(map(len, source))
    account.saw(reasons.TRAILING, trailing)
    return b""
