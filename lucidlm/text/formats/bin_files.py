"""Other trainers' token files in, their documents as text out: nanoGPT's and llm.c's .bin of GPT-2's ids.

nanoGPT's hold ids alone, uint16; llm.c's begin with 256 int32: a magic number, the version, the count.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text.account import NO_TOKENS, NO_UTF8, Account
from lucidlm.text.tokenizer import Tokenizer

END_OF_TEXT = 50256
LLM_C_MAGIC = 20240520
_HEADER_BYTES = 256 * 4
_AT_ONCE = 1 << 20
_PROBE = 1 << 16
_SINGLE_BYTES = 256
"""GPT-2's first ids are the single bytes; a text of as many tokens has others."""
_BLANK = 32
"""Equal ids from which on a file is blank, and no text of so many equal tokens."""
_CONTROL = re.compile(r"[\0-\x08\x0b\x0e-\x1f\x7f]")
_REPLACEMENT = "\ufffd".encode()


def documents_of(path: Path, name: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each document's tokens in the file: what stands between two ends of text."""
    _refuse_text(path, name)
    ids, start, found, most = _ids_of(path, name), 0, False, 0
    for first in range(0, len(ids), _AT_ONCE):
        piece = ids[first : first + _AT_ONCE]
        most = max(most, largest := int(piece.max()))
        if largest > END_OF_TEXT:
            raise DataError(
                f"{name}: token id {largest} is beyond GPT-2's {END_OF_TEXT}; only .bin files of GPT-2's ids "
                "can be read: give the text itself",
                reason=NO_TOKENS,
            )
        for place in (np.flatnonzero(piece == END_OF_TEXT) + first).tolist():
            if place > start:
                found = True
                yield start, place
            start = place + 1
    if most < _SINGLE_BYTES <= len(ids):
        raise DataError(
            f"{name}: none of its {len(ids):,} ids is over {_SINGLE_BYTES - 1}, so they are not GPT-2's but "
            "characters or bytes; give the text itself",
            reason=NO_TOKENS,
        )
    if len(ids) >= _BLANK and not (ids != ids[0]).any():
        raise DataError(
            f"{name}: its {len(ids):,} ids are all {int(ids[0])}, so they are no text; give the text itself",
            reason=NO_TOKENS,
        )
    if start < len(ids):
        yield start, len(ids)
    elif not found:
        raise DataError(f"{name}: no token but end-of-text in this file; give another", reason=NO_TOKENS)


def _refuse_text(path: Path, name: str) -> None:
    """DataError for a file that is UTF-8 without control characters: rows of ids have other bytes."""
    with open(path, "rb") as file:
        block = file.read(_PROBE)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(block)  # the last character may be cut
    except UnicodeDecodeError:
        return
    if text and not _CONTROL.search(text):
        raise DataError(
            f"{name}: text and no token ids of GPT-2; rename it to end in .txt to read it", reason=NO_TOKENS
        )


def text_of(path: Path, name: str, start: int, end: int, account: Account) -> Iterator[str]:
    """The text of some of the file's tokens, in pieces; bytes that are no UTF-8 become U+FFFD."""
    ids, tokenizer = _ids_of(path, name), Tokenizer.gpt2()
    decoder, own = codecs.getincrementaldecoder("utf-8")("replace"), b""
    for first in range(start, end, _AT_ONCE):
        last = min(first + _AT_ONCE, end)
        data = tokenizer.decode_bytes(ids[first:last])
        text = decoder.decode(data, last == end)
        own = own[-2:] + data  # a U+FFFD of the text's own may be cut in two
        account.saw(NO_UTF8, text.count("\ufffd") - own.count(_REPLACEMENT))
        yield text


def _ids_of(path: Path, name: str) -> np.ndarray:
    """The file's ids, mapped, not read; DataError for what is no token file."""
    if (path.parent / "meta.pkl").exists():
        raise DataError(
            f"{name}: its vocabulary stands in a pickle beside it (meta.pkl), which is never read: give the "
            "text itself",
            reason=NO_TOKENS,
        )
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3) if size >= _HEADER_BYTES else np.zeros(3, np.int32)
    offset, count = 0, size // 2
    if header[0] == LLM_C_MAGIC:
        offset, count = _HEADER_BYTES, int(header[2])
        if header[1] != 1 or count < 1 or size != offset + 2 * count:
            raise DataError(
                f"{name}: its header tells of {plural(count, 'token')} in version {header[1]}, the file has "
                f"{plural(size, 'byte')}: it was cut off, or is of a newer kind (version 1 can be read)",
                reason=NO_TOKENS,
            )
    if size % 2 or count == 0:
        raise DataError(
            f"{name}: no row of 16-bit token ids ({plural(size, 'byte')}); give a .bin of nanoGPT or llm.c",
            reason=NO_TOKENS,
        )
    ids = np.memmap(path, "<u2", "r", offset, (count,))
    start = ids[: 2 * _AT_ONCE]
    if count >= 4 and count % 2 == 0 and start[::2].any() and not start[1::2].any():
        raise DataError(
            f"{name}: every second 16-bit number is 0, so these are 32-bit token ids; give a .bin of "
            "16-bit ones",
            reason=NO_TOKENS,
        )
    return ids
