"""Text comes in, piece by piece, and goes out without Project Gutenberg's header and footer."""

import re
from collections.abc import Iterable, Iterator

from lucidlm.text import reasons
from lucidlm.text.account import Account, utf8_bytes

_FRAME = 1 << 16
"""Characters of the longest header or footer: anything longer is text."""
_MARK = 1 << 10
"""Characters of the longest line that marks a header or footer, with a title of several lines."""
_NEAR = 2000
"""Characters from the start of a text in which a header must name Project Gutenberg."""
_BRIEF = 1000
"""Characters that may follow "End of Project Gutenberg's ..." without naming it again."""
_WORDS = ("TART OF", "tart of", "tart Of", "MALL PRINT", "mall print", "mall Print")
"""Words of the marks of a header: a plain search for them is faster than the patterns."""
_OF = r"OF (?:THE |THIS )?(?:COPYRIGHTED )?PROJECT GUTENBERG"
_BARE_END = rf"END {_OF}(?:['’]S|[ \t]+(?:E-?(?:BOOK|TEXT)|EDITION))"
_HEADER_MARK = re.compile(
    rf"^[ \t]*(?:(?P<start>\*+[ \t]*START {_OF}"
    r"(?:[^\n]*?(?:\n(?![ \t]*\n)[^\n]+?){0,4}?\*{3}[ \t]*$)?)"  # a long title runs over several lines
    r"|(?P<small>\*+[ \t]*END[ \t]*\*?[ \t]*(?:OF )?THE SMALL PRINT)"
    rf"|(?P<end>\*+[ \t]*END {_OF}|{_BARE_END}))[^\n]*\n?",
    re.IGNORECASE | re.MULTILINE,
)
_FOOTER_MARK = re.compile(
    rf"^[ \t]*(?:\*+[ \t]*END {_OF}|(?P<bare>{_BARE_END}))[^\n]*", re.IGNORECASE | re.MULTILINE
)
_ANY_MARK = re.compile(rf"^[ \t]*(?:\*+[ \t]*(?:START|END) {_OF}|{_BARE_END})", re.IGNORECASE | re.MULTILINE)


def without_frame(strings: Iterable[str], account: Account) -> Iterator[str]:
    """The text without headers and footers, which are counted."""
    frame = _Frame()
    for string in strings:
        yield frame.feed(string)
    yield frame.feed("", last=True)
    account.leave_out(reasons.GUTENBERG, frame.removed)
    if bool(frame.headers) != bool(frame.footers):
        account.saw(reasons.NO_FOOTER if frame.headers else reasons.NO_HEADER, frame.headers + frame.footers)
    account.saw(reasons.MARKS_KEPT, frame.marks_kept)


class _Frame:
    """Project Gutenberg's headers and footers in a stream of text, which may hold several books.

    A mark needs evidence. Headers and footers are short: a mark that would remove more than 64 Ki characters
    is text, so one book never removes the rest of a corpus. A header names Project Gutenberg near its start.
    A line "End of Project Gutenberg's ..." without asterisks begins a footer only after a header, or if
    little or the licence follows. Marks that are kept are counted.
    """

    def __init__(self) -> None:
        self.buffer = ""
        self.inside = "header"
        self.within_line = self.names = False
        self.starts: bool | None = None
        self.headers = self.footers = self.removed = self.marks_kept = 0

    def feed(self, piece: str, *, last: bool = False) -> str:
        """The part that is certainly text; the rest waits for the next piece."""
        self.buffer += piece
        # Checked once: below, the buffer only gets shorter.
        self.names, self.starts = names_gutenberg(self.buffer), None
        kept: list[str] = []
        while self.buffer:
            if self.inside == "text":
                if not self._keep_text(kept, last):
                    break
            elif len(self.buffer) < _FRAME + _MARK and not last:
                break
            elif self.inside == "header":
                self._drop_header()
            else:
                self._drop_footer(kept, last)
        return "".join(kept)

    def _keep_text(self, kept: list[str], last: bool) -> bool:
        """Move text from the buffer to `kept`; True if it stopped at a footer."""
        # The buffer may start within a long line, where no mark can be.
        start = self.buffer.find("\n") + 1 if self.within_line else 0
        if (start or not self.within_line) and self.names:
            mark = _FOOTER_MARK.search(self.buffer, start)
            if mark and (last or mark.end() < len(self.buffer)):
                self._take(mark.start(), kept)
                self.inside = "footer"
                return True
        cut = len(self.buffer)
        line = self.buffer.rfind("\n") + 1
        unfinished = len(self.buffer) - line
        if not last and unfinished < _MARK and (line or not self.within_line):
            cut = line
        self._take(cut, kept)
        return False

    def _drop_header(self) -> None:
        end = _end_of_header(self.buffer[: _FRAME + _MARK]) if self._may_start() else 0
        self.headers += end > 0
        self._drop(end)
        self.inside = "text"

    def _drop_footer(self, kept: list[str], last: bool) -> None:
        start = self.buffer[: _FRAME + _MARK]
        following = _end_of_header(start, after_footer=True) if self._may_start() else 0
        at_end = last and len(self.buffer) <= _FRAME
        if following or (at_end and (self.headers or _is_footer(self.buffer))):
            end = following or len(self.buffer)
            self.footers += 1
            self.headers += following > 0
            self._drop(end)
        else:
            self._take(self.buffer.find("\n") + 1 or len(self.buffer), kept)
        self.inside = "text"

    def _may_start(self) -> bool:
        """Whether a header's words are in the buffer."""
        if self.starts is None:
            self.starts = any(words in self.buffer for words in _WORDS)
        return self.starts

    def _take(self, end: int, kept: list[str]) -> None:
        if end:
            begins_line = not self.within_line
            self.within_line = self.buffer[end - 1] != "\n"
            taken = self.buffer[:end]
            if self.names and names_gutenberg(taken):
                self.marks_kept += sum(mark.start() > 0 or begins_line for mark in _ANY_MARK.finditer(taken))
            kept.append(taken)
            self.buffer = self.buffer[end:]

    def _drop(self, end: int) -> None:
        self.removed += utf8_bytes(self.buffer[:end])
        self.buffer = self.buffer[end:]


def _end_of_header(text: str, *, after_footer: bool = False) -> int:
    """Where the text starts after a header; 0 without one.

    A header ends with START OF or END THE SMALL PRINT, whichever comes later.
    """
    # If prose comes before the mark, this is not a header.
    if not after_footer and not names_gutenberg(text[: _NEAR + _MARK]):
        return 0
    end, seen = 0, set()
    for mark in _HEADER_MARK.finditer(text):
        if mark.start() > _FRAME or mark.lastgroup in seen:
            break
        if after_footer and not text[mark.end() :].strip():  # around 2002 the small print was at the end
            break
        if mark.lastgroup == "end":
            if after_footer and not seen:
                continue
            break
        seen.add(mark.lastgroup)
        end = mark.end()
    return end


def _is_footer(text: str) -> bool:
    """Whether the text from a mark to the end is a footer, in a text without a header."""
    mark = _FOOTER_MARK.match(text)
    rest = text[mark.end() :] if mark else ""
    return bool(mark and not mark["bare"]) or len(rest.strip()) <= _BRIEF or names_gutenberg(rest)


def names_gutenberg(text: str) -> bool:
    """Whether the patterns can match: a plain search is a hundred times faster."""
    return "utenberg" in text or "UTENBERG" in text
