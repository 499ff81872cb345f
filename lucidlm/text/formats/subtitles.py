"""Subtitles (.srt, .vtt) come in, the spoken text goes out; numbers, times and tags are counted."""

import html
import re
from collections.abc import Iterator
from itertools import chain, pairwise

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, read_text, with_lf
from lucidlm.text.formats.records import split_lines

_TIME = r"(?:\d+:)?\d{1,2}:\d{1,2}[,.]\d{1,3}"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(rf"</?[A-Za-z][^<>]*>|</>|<{_TIME}>|\{{\\[^{{}}]*\}}")
_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION|WEBVTT)(?:\s|$)")


def read_subtitles(file: File, encoding: str, account: Account) -> Iterator[str]:
    """The text lines of all subtitles, in order."""
    inner = Account()
    lines = split_lines(with_lf(read_text(file, encoding, inner), inner))
    for line in _spoken(lines, is_vtt=file.kind == "vtt", account=account):
        text, tags = _TAG.subn("", line)
        account.saw(reasons.TAGS, tags)
        yield (html.unescape(text) if file.kind == "vtt" else text) + "\n"
    account.decoded.update(inner.decoded)
    account.saw(reasons.TRAILING, inner.seen[reasons.TRAILING])
    if not account.seen[reasons.CUES]:
        raise DataError(f"{file.name}: no subtitles (lines with two times and -->); name it .txt")


def _spoken(lines: Iterator[str], *, is_vtt: bool, account: Account) -> Iterator[str]:
    """The lines of text. The line before the times is a number or a name; blocks end with a blank line."""
    inside = "block" if is_vtt else "gap"
    for line, following in pairwise(chain(lines, [""])):
        if _TIMES.fullmatch(line):
            account.saw(reasons.CUES)
            inside = "cue"
        elif _TIMES.fullmatch(following) and (inside != "cue" or line.strip().isdecimal()):
            continue
        elif not line.strip():
            inside = "gap"
        elif is_vtt and inside == "gap" and _BLOCK.match(line):
            account.saw(reasons.NOTES)
            inside = "block"
        elif inside != "block":
            yield line
