"""The bytes of a file come in, its text goes out: decompressed, decoded, with LF line ends."""

import codecs
import errno
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lucidlm.errors import ConfigError, DataError
from lucidlm.runtime.wording import plural
from lucidlm.text import reasons
from lucidlm.text.account import Account, utf8_bytes
from lucidlm.text.formats.guesses import reads_better_otherwise
from lucidlm.text.formats.hints import other_encoding, refuse_no_text, wrong_byte
from lucidlm.text.formats.labels import browser_errors, codec_of_label, codec_of_mark, declared_codec
from lucidlm.text.formats.packed import decompressed

_BLOCK = 1 << 20
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
_WRONG_IN_PAGE = 0.02
"""A page with a larger share of wrong characters beyond ASCII is in another encoding than it declares."""


@dataclass(frozen=True, slots=True)
class File:
    """A file on this machine, and the source that named it."""

    path: Path
    name: str
    """Its name in messages: a path, a URL or "stdin"."""
    kind: str
    """A value of kinds.SUFFIXES, or zip or tar."""
    packings: tuple[str, ...] = ()
    """Its compressions (gz, bz2, xz, zst), the outermost first."""
    source: str = ""
    """The folder or pattern that it was found in; "" for a file that the user named, which must be read."""
    span: tuple[int, int] | None = None
    """First byte and end of the lines that are read of a large .jsonl file; None for all of it."""


def read_blocks(file: File, account: Account) -> Iterator[bytes]:
    """A file's bytes, decompressed."""
    blocks = _stored_blocks(file)
    for packing in file.packings:
        blocks = decompressed(blocks, packing, file.name, account)
    return blocks


def _stored_blocks(file: File) -> Iterator[bytes]:
    try:
        with file.path.open("rb") as opened:
            start, left = (0, None) if file.span is None else (file.span[0], file.span[1] - file.span[0])
            opened.seek(start)
            while block := opened.read(_BLOCK if left is None else min(_BLOCK, left)):
                left = left if left is None else left - len(block)
                yield block
    except OSError as problem:
        raise cannot_read(file.name, problem) from problem


def cannot_read(name: str, problem: OSError) -> DataError:
    """The error for a file that the system does not let us read.

    If the process has no file descriptor left, the error is raised at once: the file itself is fine and must
    not be skipped.
    """
    if problem.errno in (errno.EMFILE, errno.ENFILE):
        raise ConfigError(
            f"{name}: cannot be opened ({problem.strerror}); raise the limit on open files (ulimit -n)"
        ) from None
    advice = "allow reading it" if isinstance(problem, PermissionError) else "check the path and the disk"
    return DataError(
        f"{name}: cannot be read ({problem.strerror or problem}); {advice}, or give another file",
        reason=reasons.UNREADABLE,
    )


def known_encoding(encoding: str) -> str:
    """Python's name of a text encoding. A label that only browsers know gives the codec that they use."""
    try:
        codec = codecs.lookup(encoding)
        codecs.getincrementaldecoder(encoding)
        "".encode(encoding)  # refuses codecs such as base64, which do not make text
        if codec.name in ("idna", "punycode"):
            raise LookupError("it encodes host names")
    except (LookupError, ValueError) as problem:
        if encoding.isascii() and encoding.isprintable() and (known := codec_of_label(encoding)):
            return known
        raise ConfigError(
            f"--encoding {encoding}: not a known encoding of text; try utf-8, latin-1, cp1252 or utf-16"
        ) from problem
    # "utf-8-sig" drops a byte order mark silently; with utf-8 it is counted.
    return "utf-8" if codec.name == "utf-8-sig" else codec.name


def read_text(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The text of a file, unchanged but for a byte order mark."""
    return decode(read_blocks(file, account), file.name, encoding, account, unpacked=bool(file.packings))


def decode_page(data: bytes, name: str, encoding: str, account: Account) -> tuple[str, str]:
    """The text of a web page, and its encoding.

    As in browsers, a byte order mark decides first, then `encoding` if it is not UTF-8, then the page's own
    declaration. Unlike in browsers, a page that is valid UTF-8 is read as UTF-8 whatever it declares; that is
    counted. Bytes that decoding drops are not counted, as a page's bytes differ from its text's anyway.
    """
    used = codec_of_mark(data) or (codec_of_label(encoding) or encoding)
    if (nuls := data.count(0)) and nuls <= len(data) // 8 and not used.startswith(("utf-16", "utf-32")):
        # HTML drops NULs. More of them mean UTF-16 or a binary file.
        data = data.replace(b"\0", b"")
        account.saw(reasons.CONTROLS, nuls)
    if used == "utf-8" and not codec_of_mark(data) and (declared := declared_codec(data) or "utf-8") != used:
        # ISO-2022 and HZ use only ASCII bytes, so their files are always valid UTF-8 too.
        if declared.startswith(("iso2022", "hz")) or not is_utf8(data):
            used = declared
        else:
            account.saw(reasons.OTHER_LABELS, not data.isascii())
    try:
        return "".join(decode([data], name, used, Account(), errors=browser_errors())), used
    except DataError:
        # Browsers replace a few wrong bytes, so they are no reason to refuse a page.
        text = "".join(decode([data], name, used, Account(), errors=browser_errors(replace=True)))
        wrong = text.count("\ufffd") - (data.count("\ufffd".encode()) if used == "utf-8" else 0)
        if wrong > _WRONG_IN_PAGE * sum(character > "\x7f" for character in text):
            raise
        account.saw(reasons.UNDECODABLE, wrong)
        return text, used


def is_utf8(data: bytes) -> bool:
    """Whether these bytes are UTF-8 without NUL."""
    try:
        return b"\0" not in data and bool(data.decode())
    except UnicodeDecodeError:
        return False


def decode(
    blocks: Iterable[bytes],
    name: str,
    encoding: str,
    account: Account,
    *,
    unpacked: bool = False,
    errors: str = "strict",
) -> Iterator[str]:
    """The text of blocks of bytes, without a byte order mark. A character may be split between two blocks."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    rest = chain(blocks, [b""])
    count, start, beyond_ascii = 0, True, False
    for block in rest:
        if count == 0:
            refuse_no_text(block, rest, name, encoding)
            if encoding != "utf-8" and errors == "strict":
                account.saw(reasons.BETTER_ENCODING, reads_better_otherwise(block[:_BLOCK], encoding))
        count += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as problem:
            # The decoder also holds the bytes of an unfinished character: count back from the end.
            place = count - len(problem.object) + problem.start
            where = f"byte {place}" + (" of the decompressed file" if unpacked else "")
            if not block and beyond_ascii and problem.end == len(problem.object):
                # All characters before were right, so the encoding is right and the file is truncated.
                left = len(problem.object) - problem.start
                raise DataError(
                    f"{name}: truncated within a character of {encoding} ({where} is 0x"
                    f"{problem.object[problem.start]:02x}); get a complete copy, or remove its last "
                    f"{plural(left, 'byte')} (head -c -{left} FILE > NEW)",
                    reason=reasons.DAMAGED,
                ) from problem
            raise DataError(
                f"{name}: {where} {wrong_byte(problem, encoding, rest)}", reason=reasons.OTHER_ENCODING
            ) from problem
        except UnicodeError as problem:
            raise DataError(
                f"{name}: not {encoding} ({problem}); {other_encoding(block, rest, encoding)}",
                reason=reasons.OTHER_ENCODING,
            ) from problem
        # Nearly all bytes are valid UTF-16; NULs show that this really is UTF-16.
        beyond_ascii = beyond_ascii or (b"\0" in block if encoding in _WIDE else not text.isascii())
        if start and text:
            start = False
            # These two decoders remove the mark themselves, and refuse a text without one.
            _count_marks(account, encoding in ("utf-16", "utf-32"))
            text = without_mark(text, account)
        yield text
    if encoding != "utf-8":
        account.decoded[encoding] += count


def without_mark(text: str, account: Account) -> str:
    """The text without a byte order mark at its start, which is counted."""
    _count_marks(account, text.startswith("\ufeff"))
    return text.removeprefix("\ufeff")


def _count_marks(account: Account, marks: int) -> None:
    account.read += 3 * marks
    account.leave_out(reasons.BYTE_ORDER_MARKS, 3 * marks)


def with_lf(strings: Iterable[str], account: Account) -> Iterator[str]:
    """The same text with LF line ends, in pieces of at most about a million characters."""
    decoder = io.IncrementalNewlineDecoder(None, translate=True)  # holds back a final CR until the next piece
    taken = given = returns = 0
    for string in strings:
        taken += len(string)
        returns += string.count("\r")
        for start in range(0, len(string), _BLOCK):
            piece = decoder.decode(string[start : start + _BLOCK])
            given += len(piece)
            yield piece
    last = decoder.decode("", final=True)
    given += len(last)
    yield last
    account.leave_out(reasons.CARRIAGE_RETURNS, taken - given)
    account.saw(reasons.LONE_RETURNS, returns - (taken - given))


def counted(strings: Iterable[str], account: Account) -> Iterator[str]:
    """The same strings without lone surrogates; their bytes of UTF-8 are counted as read."""
    for string in strings:
        sound = without_surrogates(string, account)
        account.read += utf8_bytes(sound)
        yield sound


def without_surrogates(text: str, account: Account) -> str:
    """The text with U+FFFD for each lone surrogate. JSON and PDF can hold them; browsers do the same."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text, count = re.subn("[\ud800-\udfff]", "\ufffd", text)
            account.saw(reasons.SURROGATES, count)
    return text
