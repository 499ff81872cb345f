"""The bytes of a file come in, its text goes out: unpacked, decoded, with LF line ends, free of JSON."""

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
from lucidlm.text.account import (
    BETTER_ENCODING,
    BYTE_ORDER_MARKS,
    CARRIAGE_RETURNS,
    CONTROLS,
    DAMAGED,
    LONE_RETURNS,
    OTHER_ENCODING,
    OTHER_LABELS,
    SURROGATES,
    UNDECODABLE,
    UNREADABLE,
    Account,
    utf8_bytes,
)
from lucidlm.text.formats.guesses import reads_better_otherwise
from lucidlm.text.formats.hints import other_encoding, refuse_no_text, wrong_byte
from lucidlm.text.formats.labels import browser_errors, codec_of_label, codec_of_mark, declared_codec
from lucidlm.text.formats.packed import unpacked

_BLOCK = 1 << 20
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
_WRONG_IN_PAGE = 0.02
"""The share of wrong characters beyond ASCII from which on a page is in another encoding than it says."""


@dataclass(frozen=True, slots=True)
class File:
    """A file on this machine, and what its source was."""

    path: Path
    name: str
    """What messages call it: a path, a URL or "stdin"."""
    kind: str
    """A value of kinds.SUFFIXES, or an archive's: zip or tar."""
    packings: tuple[str, ...] = ()
    """How it is packed (gz, bz2, xz), the outermost first."""
    source: str = ""
    """The folder or pattern that it was found in; "" for one that a user named, which must be read."""


def read_blocks(file: File, account: Account) -> Iterator[bytes]:
    """A file's bytes, unpacked."""
    blocks = _stored_blocks(file)
    for packing in file.packings:
        blocks = unpacked(blocks, packing, file.name, account)
    return blocks


def _stored_blocks(file: File) -> Iterator[bytes]:
    try:
        with file.path.open("rb") as opened:
            while block := opened.read(_BLOCK):
                yield block
    except OSError as problem:
        raise cannot_read(file.name, problem) from problem


def cannot_read(name: str, problem: OSError) -> DataError:
    """The error for a file that the system does not let us read.

    Raised at once where the process has no descriptor left: that says nothing about this file, which must not
    be passed over.
    """
    if problem.errno in (errno.EMFILE, errno.ENFILE):
        raise ConfigError(
            f"{name}: cannot be opened ({problem.strerror}); raise the limit on open files (ulimit -n)"
        ) from None
    advice = "allow reading it" if isinstance(problem, PermissionError) else "check the path and the disk"
    return DataError(
        f"{name}: cannot be read ({problem.strerror or problem}); {advice}, or give another file",
        reason=UNREADABLE,
    )


def known_encoding(encoding: str) -> str:
    """Python's own name of an encoding of text; a label that only browsers know is their codec for it."""
    try:
        codec = codecs.lookup(encoding)
        codecs.getincrementaldecoder(encoding)
        "".encode(encoding)  # refuses codecs such as base64, which do not make text
        if codec.name in ("idna", "punycode"):
            raise LookupError("an encoding of host names")
    except (LookupError, ValueError) as problem:
        if encoding.isascii() and encoding.isprintable() and (known := codec_of_label(encoding)):
            return known
        raise ConfigError(
            f"--encoding {encoding}: not a known encoding of text; try utf-8, latin-1, cp1252 or utf-16"
        ) from problem
    # The mark that "utf-8-sig" passes over in silence is counted where the encoding is utf-8.
    return "utf-8" if codec.name == "utf-8-sig" else codec.name


def read_text(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The text of a file as it stands there, without a byte order mark."""
    return decode(read_blocks(file, account), file.name, encoding, account, unpacked=bool(file.packings))


def decode_page(data: bytes, name: str, encoding: str, account: Account) -> tuple[str, str]:
    """A web page as text, and the encoding that it was in.

    As browsers do: a byte order mark decides, then `encoding` where that is not UTF-8, then what the page
    declares; but a page that is UTF-8 is read as that whatever it declares, which is counted. What decoding
    drops is not counted: a page's bytes are not its text's.
    """
    used = codec_of_mark(data) or (codec_of_label(encoding) or encoding)
    if (nuls := data.count(0)) and nuls <= len(data) // 8 and not used.startswith(("utf-16", "utf-32")):
        # HTML drops a NUL. More of them are the other halves of UTF-16, or no page at all.
        data = data.replace(b"\0", b"")
        account.saw(CONTROLS, nuls)
    if used == "utf-8" and not codec_of_mark(data) and (declared := declared_codec(data) or "utf-8") != used:
        # ISO-2022's and HZ's bytes are all ASCII, so that they are always UTF-8 too.
        if declared.startswith(("iso2022", "hz")) or not is_utf8(data):
            used = declared
        else:
            account.saw(OTHER_LABELS, not data.isascii())
    try:
        return "".join(decode([data], name, used, Account(), errors=browser_errors())), used
    except DataError:
        # A few wrong bytes are no reason to refuse a page: browsers replace them.
        text = "".join(decode([data], name, used, Account(), errors=browser_errors(replace=True)))
        wrong = text.count("\ufffd") - (data.count("\ufffd".encode()) if used == "utf-8" else 0)
        if wrong > _WRONG_IN_PAGE * sum(character > "\x7f" for character in text):
            raise
        account.saw(UNDECODABLE, wrong)
        return text, used


def is_utf8(data: bytes) -> bool:
    """Whether these bytes are UTF-8, none of them NUL."""
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
    """Bytes as text, a character that two blocks share included; a byte order mark is dropped."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    rest = chain(blocks, [b""])
    count, start, beyond_ascii = 0, True, False
    for block in rest:
        if count == 0:
            refuse_no_text(block, rest, name, encoding)
            if encoding != "utf-8" and errors == "strict":
                account.saw(BETTER_ENCODING, reads_better_otherwise(block[:_BLOCK], encoding))
        count += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as problem:
            # A decoder keeps the bytes of an unfinished character, so the place is known from the end alone.
            place = count - len(problem.object) + problem.start
            where = f"byte {place}" + (" of the unpacked file" if unpacked else "")
            if not block and beyond_ascii and problem.end == len(problem.object):
                # As an encoding that all characters before agree with is the right one.
                left = len(problem.object) - problem.start
                raise DataError(
                    f"{name}: cut off within a character of {encoding} ({where} is 0x"
                    f"{problem.object[problem.start]:02x}); get a whole copy, or take off its last "
                    f"{plural(left, 'byte')} (head -c -{left} FILE > NEW)",
                    reason=DAMAGED,
                ) from problem
            raise DataError(
                f"{name}: {where} {wrong_byte(problem, encoding, rest)}", reason=OTHER_ENCODING
            ) from problem
        except UnicodeError as problem:
            raise DataError(
                f"{name}: not {encoding} ({problem}); {other_encoding(block, rest, encoding)}",
                reason=OTHER_ENCODING,
            ) from problem
        # Nearly any bytes are characters of UTF-16: NULs show that the right ones are.
        beyond_ascii = beyond_ascii or (b"\0" in block if encoding in _WIDE else not text.isascii())
        if start and text:
            start = False
            # These two decoders take a mark away themselves, and refuse a text that has none.
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
    account.leave_out(BYTE_ORDER_MARKS, 3 * marks)


def with_lf(strings: Iterable[str], account: Account) -> Iterator[str]:
    """The same text in pieces of about a million characters at most, with every line end as LF."""
    decoder = io.IncrementalNewlineDecoder(None, translate=True)  # keeps a CR back until it sees what follows
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
    account.leave_out(CARRIAGE_RETURNS, taken - given)
    account.saw(LONE_RETURNS, returns - (taken - given))


def counted(strings: Iterable[str], account: Account) -> Iterator[str]:
    """The same strings without lone surrogates; their bytes of UTF-8 are counted as read."""
    for string in strings:
        sound = without_surrogates(string, account)
        account.read += utf8_bytes(sound)
        yield sound


def without_surrogates(text: str, account: Account) -> str:
    """Half a UTF-16 pair, which JSON and PDF can hold, is no character: it becomes U+FFFD, as in browsers."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text, count = re.subn("[\ud800-\udfff]", "\ufffd", text)
            account.saw(SURROGATES, count)
    return text
