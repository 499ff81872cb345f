"""Other trainers' token files in, their documents as text out: nanoGPT's and llm.c's .bin of GPT-2's ids.

nanoGPT's hold ids alone, uint16; llm.c's begin with 256 int32: a magic number, the version, the count.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.text.tokenizer import Tokenizer

END_OF_TEXT = 50256
LLM_C_MAGIC = 20240520
_HEADER_BYTES = 256 * 4
_AT_ONCE = 1 << 20


def documents_of(path: Path, name: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each document's tokens in the file: what stands between two ends of text."""
    ids, start, found = _ids_of(path, name), 0, False
    for first in range(0, len(ids), _AT_ONCE):
        piece = ids[first : first + _AT_ONCE]
        if (largest := int(piece.max())) > END_OF_TEXT:
            raise DataError(
                f"{name}: token id {largest} is beyond GPT-2's {END_OF_TEXT}; only .bin files of GPT-2's ids "
                "can be read: give the text itself"
            )
        for place in (np.flatnonzero(piece == END_OF_TEXT) + first).tolist():
            if place > start:
                found = True
                yield start, place
            start = place + 1
    if start < len(ids):
        yield start, len(ids)
    elif not found:
        raise DataError(f"{name}: no token but end-of-text in this file; give another")


def text_of(path: Path, name: str, start: int, end: int) -> Iterator[str]:
    """The text of some of the file's tokens, in pieces; bytes that are no UTF-8 become U+FFFD."""
    ids, tokenizer = _ids_of(path, name), Tokenizer.gpt2()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for first in range(start, end, _AT_ONCE):
        last = min(first + _AT_ONCE, end)
        yield decoder.decode(tokenizer.decode_bytes(ids[first:last]), last == end)


def _ids_of(path: Path, name: str) -> np.ndarray:
    """The file's ids, mapped, not read; DataError for what is no token file."""
    if (path.parent / "meta.pkl").exists():
        raise DataError(
            f"{name}: its vocabulary stands in a pickle beside it (meta.pkl), which is never read: give the "
            "text itself"
        )
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3) if size >= _HEADER_BYTES else np.zeros(3, np.int32)
    offset, count = 0, size // 2
    if header[0] == LLM_C_MAGIC:
        offset, count = _HEADER_BYTES, int(header[2])
        if header[1] != 1 or count < 1 or size != offset + 2 * count:
            raise DataError(
                f"{name}: its header tells of {count:,} tokens in version {header[1]}, the file has {size:,} "
                "bytes: it was cut off, or is of a newer kind (version 1 can be read)"
            )
    if size % 2 or count == 0:
        raise DataError(
            f"{name}: {size:,} bytes are no row of 16-bit token ids; give a .bin of nanoGPT or llm.c"
        )
    ids = np.memmap(path, "<u2", "r", offset, (count,))
    if count >= 4 and count % 2 == 0 and not ids[1 : 2 * _AT_ONCE : 2].any():
        raise DataError(
            f"{name}: every second 16-bit number is 0, so these are 32-bit token ids; give a .bin of "
            "16-bit ones"
        )
    return ids
