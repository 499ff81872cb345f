"""Token files of nanoGPT and llm.c (.bin, GPT-2's ids) come in, their documents as text go out.

nanoGPT: ids only, uint16. llm.c: a header of 256 int32 (magic number, version, count), then the ids.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import cannot_read
from lucidlm.text.gpt2_ranks import END_OF_TEXT_ID
from lucidlm.text.tokenizer import Tokenizer

LLM_C_MAGIC = 20240520
_HEADER_BYTES = 256 * 4
_AT_ONCE = 1 << 20
_PROBE = 1 << 16
_SINGLE_BYTES = 256
"""GPT-2's first ids are the single bytes; a text of that many tokens uses other ids too."""
_BLANK = 32
"""A file of at least this many ids, all equal, is blank and not a text."""
_CONTROL = re.compile(r"[\0-\x08\x0b\x0e-\x1f\x7f]")
_REPLACEMENT = "\ufffd".encode()


def token_documents(path: Path, name: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the tokens of each document: the stretches between two end-of-text tokens."""
    try:
        _refuse_text(path, name)
        ids = _mapped_ids(path, name)
    except OSError as problem:
        raise cannot_read(name, problem) from problem
    start, found, most = 0, False, 0
    for first in range(0, len(ids), _AT_ONCE):
        piece = ids[first : first + _AT_ONCE]
        most = max(most, largest := int(piece.max()))
        if largest > END_OF_TEXT_ID:
            raise DataError(
                f"{name}: token id {largest} is above GPT-2's largest, {END_OF_TEXT_ID}; only .bin files "
                "with GPT-2's ids can be read: give the text itself",
                reason=reasons.NO_TOKENS,
            )
        for place in (np.flatnonzero(piece == END_OF_TEXT_ID) + first).tolist():
            if place > start:
                found = True
                yield start, place
            start = place + 1
    if most < _SINGLE_BYTES <= len(ids):
        raise DataError(
            f"{name}: all {len(ids):,} ids are below {_SINGLE_BYTES}: characters or bytes, not GPT-2's; "
            "give the text itself",
            reason=reasons.NO_TOKENS,
        )
    if len(ids) >= _BLANK and not (ids != ids[0]).any():
        raise DataError(
            f"{name}: all {len(ids):,} ids are {int(ids[0])}: the file is blank; give the text itself",
            reason=reasons.NO_TOKENS,
        )
    if start < len(ids):
        yield start, len(ids)
    elif not found:
        raise DataError(
            f"{name}: only end-of-text tokens in this file; give another", reason=reasons.NO_TOKENS
        )


def _refuse_text(path: Path, name: str) -> None:
    """DataError for UTF-8 without control characters: token ids have other bytes."""
    with open(path, "rb") as file:
        block = file.read(_PROBE)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(block)  # the last character may be cut
    except UnicodeDecodeError:
        return
    if text and not _CONTROL.search(text):
        raise DataError(
            f"{name}: the file holds text, not token ids of GPT-2; name it .txt to read it",
            reason=reasons.NO_TOKENS,
        )


def token_text(path: Path, name: str, start: int, end: int, account: Account) -> Iterator[str]:
    """The text of the tokens from start to end, in pieces; bytes that are not UTF-8 become U+FFFD."""
    ids, tokenizer = _mapped_ids(path, name), Tokenizer.gpt2()
    decoder, own = codecs.getincrementaldecoder("utf-8")("replace"), b""
    for first in range(start, end, _AT_ONCE):
        last = min(first + _AT_ONCE, end)
        data = tokenizer.decode_bytes(ids[first:last])
        text = decoder.decode(data, last == end)
        own = own[-2:] + data  # a U+FFFD that the text itself holds may be split between two blocks
        account.saw(reasons.NO_UTF8, text.count("\ufffd") - own.count(_REPLACEMENT))
        yield text


def _mapped_ids(path: Path, name: str) -> np.ndarray:
    """The file's ids as a memory map; DataError if it is not a token file."""
    if (path.parent / "meta.pkl").exists():
        raise DataError(
            f"{name}: its vocabulary is in a pickle beside it (meta.pkl), which is never read; give the "
            "text itself",
            reason=reasons.NO_TOKENS,
        )
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3) if size >= _HEADER_BYTES else np.zeros(3, np.int32)
    offset, count = 0, size // 2
    if header[0] == LLM_C_MAGIC:
        offset, count = _HEADER_BYTES, int(header[2])
        if header[1] != 1 or count < 1 or size != offset + 2 * count:
            raise DataError(
                f"{name}: its header says {plural(count, 'token')}, version {header[1]}, but the file "
                f"has {plural(size, 'byte')}: it is truncated, or newer than version 1; copy it again",
                reason=reasons.NO_TOKENS,
            )
    if size % 2 or count == 0:
        raise DataError(
            f"{name}: no 16-bit token ids ({plural(size, 'byte')}); give a .bin of nanoGPT or llm.c",
            reason=reasons.NO_TOKENS,
        )
    ids = np.memmap(path, "<u2", "r", offset, (count,))
    start = ids[: 2 * _AT_ONCE]
    if count >= 4 and count % 2 == 0 and start[::2].any() and not start[1::2].any():
        raise DataError(
            f"{name}: every second 16-bit number is 0, so the ids have 32 bits; give a .bin with 16-bit ids",
            reason=reasons.NO_TOKENS,
        )
    return ids
