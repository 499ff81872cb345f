"""Bytes that are not text in the expected encoding come in, what they are and what to do goes out.

An encoding is named only after it has decoded these bytes to plausible text.
"""

import codecs
import re
from collections.abc import Iterable, Iterator

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.formats.guesses import faults_in, likely_encodings, nearly_in
from lucidlm.text.formats.labels import codec_of_mark
from lucidlm.text.formats.signatures import not_text

_LOOKED_AT = 1 << 16
"""Bytes of a file that are searched for bytes that text never has."""
_SHIFTED = (
    (re.compile(rb"\x1b\$[@B(]"), "iso2022_jp_ext", "it has the escape sequences of ISO-2022-JP"),
    (
        re.compile(rb"\A(?:.*\n)?\x1b\$\)C", re.DOTALL),
        "iso2022_kr",
        "it has the escape sequences of ISO-2022-KR",
    ),
    (re.compile(rb"~\{(?:[!-w][!-~])+~\}"), "hz", "it has the sequences of HZ"),
)
"""Encodings that use only ASCII bytes: after an escape sequence they mean Japanese, Korean or Chinese."""
_FEW_SHIFTED = 3
"""HZ's sequences may occur in a program, but not this many times."""
_WIDE = ("utf-16", "utf-32", "cp037", "cp500", "cp1140")
"""Encodings whose text contains the bytes of ASCII control characters."""


def refuse_no_text(block: bytes, rest: Iterable[bytes], name: str, encoding: str) -> None:
    """DataError if a file's first block shows that it is not text in this encoding."""
    mark = codec_of_mark(block)
    if mark and not _agrees(block, mark, encoding):
        advice = "omit --encoding" if mark == "utf-8" else f"add --encoding {mark}"
        raise DataError(
            f"{name}: it starts with the byte order mark of {mark.upper()}; {advice}",
            reason=reasons.OTHER_ENCODING,
        )
    start = block[:_LOOKED_AT]
    if not encoding.startswith(_WIDE) and (what := not_text(start)):
        raise DataError(f"{name}: this is {what.name}; {what.advice}", reason=reasons.BINARY)
    if encoding == "utf-8" and (shifted := _shifted(start)):
        codec, said = shifted
        raise DataError(f"{name}: {said}; {_try([codec])}", reason=reasons.OTHER_ENCODING)
    if b"\0" in start and "\0" in start.decode(encoding, errors="ignore"):
        wide, said = _about_nul(block, rest, encoding)
        raise DataError(f"{name}: {said}", reason=reasons.OTHER_ENCODING if wide else reasons.BINARY)


def _shifted(start: bytes) -> tuple[str, str] | None:
    """The encoding of ASCII bytes that are not meant as ASCII, and the reason in words."""
    for pattern, codec, said in _SHIFTED:
        if codec == "hz" and len(pattern.findall(start)) < _FEW_SHIFTED:
            continue
        if pattern.search(start):
            try:
                text = codecs.getincrementaldecoder(codec)().decode(start)
            except UnicodeError:
                continue
            # Such sequences encode mostly letters. If they give only signs, they were meant as ASCII.
            if sum(character > "\u2e7f" for character in text) * 2 >= sum(c > "\x7f" for c in text) > 0:
                return codec, said
    return None


def _agrees(block: bytes, mark: str, encoding: str) -> bool:
    """Whether an encoding agrees with a byte order mark, including the byte order."""
    little = block.startswith(codecs.BOM_UTF16_LE)  # UTF-32's mark begins with the same bytes
    return encoding in (mark, f"{mark}-{'le' if little else 'be'}")


def _about_nul(block: bytes, rest: Iterable[bytes], encoding: str) -> tuple[bool, str]:
    where = f"byte {block.index(0)} is 0x00"
    if not block.strip(b"\0"):  # a full or failing disk leaves such files
        return False, f"its first {len(block):,} bytes are 0x00: it was never written; get another copy"
    if found := likely_encodings(block, rest, without=encoding):
        return True, f"not {encoding} ({where}, as in UTF-16 or UTF-32); {_try(found)}"
    return False, f"looks like a binary file ({where}); give text, or remove the 0x00 (tr -d '\\000')"


def wrong_byte(problem: UnicodeDecodeError, encoding: str, rest: Iterable[bytes]) -> str:
    """What is wrong with the bytes at which a decoder stopped, and which encodings can read them."""
    byte = problem.object[problem.start]
    said = f"is 0x{byte:02x}, not {encoding} ({problem.reason})"
    if what := not_text(problem.object):
        return f"{said}: this is {what.name}; {what.advice}"
    # From the last line end: any other place may be within a character.
    begin = problem.object.rfind(b"\n", 0, problem.start) + 1
    data, rest = bytes(problem.object[begin:]), iter(rest)
    return f"{said}; {other_encoding(data, rest, encoding)}"


def other_encoding(data: bytes, rest: Iterator[bytes] | Iterable[bytes], encoding: str) -> str:
    """What to do with bytes that are not in this encoding."""
    if encoding == "utf-8" and (halves := _halves_of_pairs(data)):
        return (
            f"it is CESU-8, which databases and Java write ({halves:,} lone surrogates near here); "
            "export it again as UTF-8"
        )
    if faults := faults_in(data, encoding):
        return _mend(encoding, faults)
    if found := likely_encodings(data, rest, without=encoding):
        return _try(found)
    if nearly := nearly_in(data):
        return _mend(*nearly)
    return "no known encoding makes it text: give text, or its --encoding if you know it"


def _halves_of_pairs(data: bytes) -> int:
    """Number of surrogates in bytes that are otherwise UTF-8; 0 for other bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode(data)
    except UnicodeDecodeError:
        return 0
    return sum("\ud800" <= character <= "\udfff" for character in text)


def _mend(encoding: str, faults: int) -> str:
    return (
        f"nearly all of it is {encoding}: fix or delete the wrong bytes ({faults:,} near here; "
        f"iconv -c -f {encoding.replace('_', '-')} -t utf-8 gives UTF-8 without them)"
    )


def _try(encodings: list[str]) -> str:
    flags = [f"--encoding {encoding}" for encoding in encodings]
    if len(flags) == 1:
        return f"add {flags[0]}"
    return f"{len(flags)} encodings make it text; try which is right: {' or '.join(flags)}"
