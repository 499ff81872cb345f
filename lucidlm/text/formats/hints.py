"""Bytes that are not text in the expected encoding come in, what they are and what to do goes out.

No encoding is named that was not tried: it has decoded these bytes to something like text.
"""

import codecs
import re
from collections.abc import Iterable, Iterator

from lucidlm.errors import DataError
from lucidlm.text.account import BINARY, OTHER_ENCODING
from lucidlm.text.formats.guesses import faults_in, likely_encodings, nearly_in
from lucidlm.text.formats.labels import codec_of_mark
from lucidlm.text.formats.signatures import not_text

_LOOKED_AT = 1 << 16
"""How much of a file is looked at for bytes that no text has."""
_SHIFTED = (
    (re.compile(rb"\x1b\$[@B(]"), "iso2022_jp_ext", "its escape sequences are those of ISO-2022-JP"),
    (
        re.compile(rb"\A(?:.*\n)?\x1b\$\)C", re.DOTALL),
        "iso2022_kr",
        "its escape sequences are those of ISO-2022-KR",
    ),
    (re.compile(rb"~\{(?:[!-w][!-~])+~\}"), "hz", "its characters are those of HZ"),
)
"""All ASCII: behind some sequence the same bytes are Japanese, Korean or Chinese."""
_FEW_SHIFTED = 3
"""HZ's signs may stand in a program: so many words of Chinese do not."""
_WIDE = ("utf-16", "utf-32", "cp037", "cp500", "cp1140")
"""Encodings whose text holds the bytes of ASCII's control characters."""


def refuse_no_text(block: bytes, rest: Iterable[bytes], name: str, encoding: str) -> None:
    """Raises where a file's first block shows that it is no text in this encoding."""
    mark = codec_of_mark(block)
    if mark and not _agrees(block, mark, encoding):
        advice = "leave --encoding out" if mark == "utf-8" else f"add --encoding {mark}"
        raise DataError(
            f"{name}: it starts with the byte order mark of {mark.upper()}; {advice}",
            reason=OTHER_ENCODING,
        )
    start = block[:_LOOKED_AT]
    if not encoding.startswith(_WIDE) and (what := not_text(start)):
        raise DataError(f"{name}: this is {what.name}; {what.advice}", reason=BINARY)
    if encoding == "utf-8" and (shifted := _shifted(start)):
        codec, said = shifted
        raise DataError(f"{name}: {said}; {_try([codec])}", reason=OTHER_ENCODING)
    if b"\0" in start and "\0" in start.decode(encoding, errors="ignore"):
        wide, said = _about_nul(block, rest, encoding)
        raise DataError(f"{name}: {said}", reason=OTHER_ENCODING if wide else BINARY)


def _shifted(start: bytes) -> tuple[str, str] | None:
    """The encoding of bytes of ASCII that are no ASCII, and what tells it."""
    for pattern, codec, said in _SHIFTED:
        if codec == "hz" and len(pattern.findall(start)) < _FEW_SHIFTED:
            continue
        if pattern.search(start):
            try:
                text = codecs.getincrementaldecoder(codec)().decode(start)
            except UnicodeError:
                continue
            # What such sequences stand for is letters: of signs alone they were meant as signs.
            if sum(character > "\u2e7f" for character in text) * 2 >= sum(c > "\x7f" for c in text) > 0:
                return codec, said
    return None


def _agrees(block: bytes, mark: str, encoding: str) -> bool:
    """Whether an encoding is that of a byte order mark, in the mark's own byte order."""
    little = block.startswith(codecs.BOM_UTF16_LE)  # which begins UTF-32's too
    return encoding in (mark, f"{mark}-{'le' if little else 'be'}")


def _about_nul(block: bytes, rest: Iterable[bytes], encoding: str) -> tuple[bool, str]:
    where = f"byte {block.index(0)} is 0x00"
    if not block.strip(b"\0"):  # as a disk that fails or is full leaves files
        return False, f"it begins with {len(block):,} bytes 0x00, so it was never written; get another copy"
    if found := likely_encodings(block, rest, without=encoding):
        return True, f"not {encoding} ({where}, as in wide characters); {_try(found)}"
    return False, f"looks like a binary file ({where}); give text, or take the 0x00 out (tr -d '\\000')"


def wrong_byte(problem: UnicodeDecodeError, encoding: str, rest: Iterable[bytes]) -> str:
    """What is wrong with the bytes at which a decoder stopped, and which encodings read them."""
    byte = problem.object[problem.start]
    said = f"is 0x{byte:02x}, not {encoding} ({problem.reason})"
    if what := not_text(problem.object):
        return f"{said}: this is {what.name}; {what.advice}"
    # Behind a line end, since what is decoded from elsewhere may begin within a character.
    begin = problem.object.rfind(b"\n", 0, problem.start) + 1
    data, rest = bytes(problem.object[begin:]), iter(rest)
    return f"{said}; {other_encoding(data, rest, encoding)}"


def other_encoding(data: bytes, rest: Iterator[bytes] | Iterable[bytes], encoding: str) -> str:
    """What to do with bytes that are not in this encoding."""
    if encoding == "utf-8" and (halves := _halves_of_pairs(data)):
        return (
            f"it is CESU-8, as databases and Java write it ({halves:,} halves of UTF-16 pairs near here); "
            "export it again as UTF-8"
        )
    if faults := faults_in(data, encoding):
        return _mend(encoding, faults)
    if found := likely_encodings(data, rest, without=encoding):
        return _try(found)
    if nearly := nearly_in(data):
        return _mend(*nearly)
    return "no known encoding makes text of it: give text, or its --encoding if you know it"


def _halves_of_pairs(data: bytes) -> int:
    """Surrogates in bytes that are UTF-8 but for them; 0 for other bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode(data)
    except UnicodeDecodeError:
        return 0
    return sum("\ud800" <= character <= "\udfff" for character in text)


def _mend(encoding: str, faults: int) -> str:
    return (
        f"nearly all of it is {encoding}: mend or delete the wrong bytes ({faults:,} near here; "
        f"iconv -c -f {encoding.replace('_', '-')} -t utf-8 gives UTF-8 without them)"
    )


def _try(encodings: list[str]) -> str:
    flags = [f"--encoding {encoding}" for encoding in encodings]
    if len(flags) == 1:
        return f"add {flags[0]}, in which it reads as text"
    return f"it reads as text in {len(flags)} encodings, see which is right: {' or '.join(flags)}"
