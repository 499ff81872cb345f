"""The blocks of a .gz, .bz2, .xz or .zst file come in, the decompressed bytes go out."""

import bz2
import lzma
import re
import sys
import zlib
from collections.abc import Iterable, Iterator

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKINGS = ("gz", "bz2", "xz", "zst")
_BLOCK = 1 << 20
_MOST_MEMORY = 1 << 28
"""Bytes of memory for an .xz file: four times what its highest preset needs."""
_LARGEST_WINDOW = 27
"""Memory for a .zst file, a power of two: what its highest level needs without --long or --ultra."""
_START = {
    "gz": rb"\x1f\x8b",
    "bz2": rb"BZh",
    "xz": rb"\xfd7zXZ\0",
    "zst": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",  # or a frame to be skipped, as pzstd writes them
}
"""The first bytes of a member, as patterns: a file may hold several."""
_LONGEST_START = 6


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
    except (zlib.error, OSError, lzma.LZMAError, zstd.ZstdError) as problem:  # OSError: that of bz2
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
        case "zst":
            limit = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}
            return zstd.ZstdDecompressor(options=limit)
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


_Member = _Gzip | bz2.BZ2Decompressor | lzma.LZMADecompressor | zstd.ZstdDecompressor


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
        if len(rest) >= _LONGEST_START or not more:
            break
    if re.match(start, rest, re.DOTALL):
        return rest
    trailing = len(rest) + sum(map(len, source))
    account.saw(reasons.TRAILING, trailing)
    return b""
