"""A token file of datatrove (.ds) comes in, its documents as text go out.

NAME.ds has ids of 16 or 32 bits, NAME.ds.index where each document ends (uint64), NAME.ds.metadata names the
tokenizer and the bytes of an id.
"""

import codecs
import contextlib
import functools
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError, WeightsError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import cannot_read
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.tokenizer_files import TOKENIZER

INDEX, METADATA = ".index", ".metadata"
COMPANIONS = (f".ds{INDEX}", f".ds{METADATA}")
"""Ends of the names of the files that belong to a token file."""
_AT_ONCE = 1 << 20
_ENDS_AT_ONCE = 1 << 16
_GPT2 = ("gpt2", "openai-community/gpt2")
_LARGEST_METADATA = 1 << 16


@dataclass(frozen=True, slots=True)
class DsFile:
    """A token file, checked against its index."""

    path: Path
    name: str
    size: int
    """Bytes of an id."""
    tokenizer: Tokenizer

    def documents(self) -> Iterator[tuple[int, int]]:
        """(start, end) of the tokens of each document that has text."""
        lengths, found = self.tokenizer.token_lengths(), False
        for start, end in self._bounds():
            if any(lengths[ids].any() for ids in self._ids(start, end)):
                found = True
                yield start, end
        if not found:
            raise DataError(
                f"{self.name}: no text in this file, only control tokens; give another",
                reason=reasons.NO_TOKENS,
            )

    def text(self, start: int, end: int, account: Account) -> Iterator[str]:
        """The text of the tokens from start to end, in pieces; bytes that are not UTF-8 become U+FFFD."""
        decoder, lengths = codecs.getincrementaldecoder("utf-8")("replace"), self.tokenizer.token_lengths()
        own, done = b"", start
        for ids in self._ids(start, end):
            done += len(ids)
            data = self.tokenizer.decode_bytes(ids)
            text = decoder.decode(data, done == end)
            own = own[-2:] + data  # a U+FFFD that the text itself holds may be split between two blocks
            account.saw(reasons.NO_UTF8, text.count("\ufffd") - own.count("\ufffd".encode()))
            # Those at its end only say that the document ends.
            account.saw(reasons.CONTROL_TOKENS, int((lengths[ids[: -1 if done == end else None]] == 0).sum()))
            yield text

    def _bounds(self) -> Iterator[tuple[int, int]]:
        start = 0
        with _reading(f"{self.name}{INDEX}"), open(f"{self.path}{INDEX}", "rb") as file:
            while len(ends := _uint64(file, _ENDS_AT_ONCE)):
                for end in ends.tolist():
                    if end < start:
                        raise _damaged(
                            self.name, f"a document ends at token {end:,} before it begins at {start:,}"
                        )
                    if end > start:
                        yield start, end
                    start = end

    def _ids(self, start: int, end: int) -> Iterator[np.ndarray]:
        with _reading(self.name), open(self.path, "rb") as file:
            file.seek(min(start * self.size, self.path.stat().st_size))
            while start < end:
                ids = np.fromfile(file, f"<u{self.size}", min(end - start, _AT_ONCE))
                if not len(ids):
                    there = self.path.stat().st_size // self.size
                    raise _damaged(self.name, f"a document ends at token {end:,}, but the file has {there:,}")
                if (largest := int(ids.max())) >= (vocabulary := self.tokenizer.vocab_size):
                    raise DataError(
                        f"{self.name}: token id {largest:,} in a vocabulary of {vocabulary:,}; "
                        f"copy the {TOKENIZER} that it was written with beside it",
                        reason=reasons.NO_TOKENS,
                    )
                start += len(ids)
                yield ids


def open_ds(path: Path, name: str) -> DsFile:
    """The token file; DataError if its index is missing or does not fit, or its tokenizer is not known."""
    index = Path(f"{path}{INDEX}")
    if not index.exists():
        raise DataError(
            f"{name}: no {index.name} beside it, which says where documents end; copy it there, or "
            "write the tokens with save_index=True",
            reason=reasons.NO_TOKENS,
        )
    with _reading(name):
        size = path.stat().st_size
    with _reading(f"{name}{INDEX}"):
        tokens = _last_end(index, name)
    with _reading(f"{name}{METADATA}"):
        named, said = _metadata(Path(f"{path}{METADATA}"))
    width = size // tokens if tokens else 0
    if width not in (2, 4) or size != width * tokens or said not in (None, width):
        bits = f"of {8 * said} bits" if said else "of 16 or 32 bits"
        raise _damaged(name, f"{plural(size, 'byte')}, but its index ends at {tokens:,} ids {bits}")
    return DsFile(path, name, width, _tokenizer(path, name, named))


@contextlib.contextmanager
def _reading(name: str) -> Generator[None]:
    """An OSError from this block becomes a DataError that names this file."""
    try:
        yield
    except OSError as problem:
        raise cannot_read(name, problem) from problem


def _last_end(index: Path, name: str) -> int:
    """The end of the last document: the number of tokens."""
    size = index.stat().st_size
    if size and size % 8 == 0:
        with open(index, "rb") as file:
            file.seek(size - 8)
            if len(ends := _uint64(file, 1)):
                return int(ends[0])
    raise _damaged(name, f"its index has {plural(size, 'byte')}, not 8 for each document")


def _uint64(file, count: int) -> np.ndarray:
    return np.fromfile(file, "<u8", count)


def _metadata(path: Path) -> tuple[str | None, int | None]:
    """The tokenizer that the metadata names, and its bytes of an id; None where it says nothing."""
    if not path.exists():
        return None, None
    with open(path, "rb") as file:
        line = file.read(_LARGEST_METADATA).decode("utf-8", "replace").partition("\n")[0].strip()
    name, *rest = line.split("|")
    return name, int(rest[-1]) if rest and rest[-1] in ("2", "4") else None


def _tokenizer(path: Path, name: str, named: str | None) -> Tokenizer:
    """The tokenizer of a file: the one beside it, or the one that its metadata names."""
    beside = path.with_name(TOKENIZER)
    if beside.exists():
        return _loaded(beside, name)
    if named in _GPT2:
        return Tokenizer.gpt2()
    if named and os.path.exists(named):  # Path.exists raises for a name that is too long
        return _loaded(Path(named), name)
    which = (
        f"its tokenizer, {named!r:.100}, is not here" if named else "nothing says which tokenizer wrote it"
    )
    raise DataError(f"{name}: {which}; copy its {TOKENIZER} beside it", reason=reasons.NO_TOKENS)


def _loaded(path: Path, name: str) -> Tokenizer:
    try:
        with _reading(str(path)):
            return _cached(path, path.stat().st_mtime_ns)
    except WeightsError as problem:
        raise DataError(f"{name}: {problem}", reason=reasons.NO_TOKENS) from problem


@functools.lru_cache(2)
def _cached(path: Path, changed: int) -> Tokenizer:
    return Tokenizer.load(path)


def _damaged(name: str, why: str) -> DataError:
    return DataError(
        f"{name}: damaged token file ({why}); copy it again, with {Path(name).name}{INDEX}",
        reason=reasons.DAMAGED,
    )
