"""Text comes in, piece by piece, and goes out without the frame that Project Gutenberg puts around books."""

import re
from collections.abc import Iterable, Iterator

from lucidlm.text.account import GUTENBERG, NO_FOOTER, NO_HEADER, Account, utf8_bytes

_FRAME = 1 << 16
"""The longest header or footer in characters: what claims to be longer is text."""
_MARK = 1 << 10
"""The longest line that marks an end of the frame, with a title that runs over several lines."""
_HEADER_MARK = re.compile(
    r"^[ \t]*(?:(?P<start>\*{1,4}[ \t]*START OF (?:THE |THIS )?PROJECT GUTENBERG"
    r"(?:[^\n]*?(?:\n(?![ \t]*\n)[^\n]+?){0,4}?\*{3}[ \t]*$)?)"  # a long title runs over several lines
    r"|(?P<small>\*+[ \t]*END[ \t]*\*?[ \t]*THE SMALL PRINT)"
    r"|(?P<end>\*{1,4}[ \t]*END OF (?:THE |THIS )?PROJECT GUTENBERG"
    r"|END OF (?:THE |THIS )?PROJECT GUTENBERG(?:['’]S|[ \t]+E-?(?:BOOK|TEXT))))[^\n]*\n?",
    re.IGNORECASE | re.MULTILINE,
)
_FOOTER_MARK = re.compile(
    r"^[ \t]*(?:\*{1,4}[ \t]*END OF (?:THE |THIS )?PROJECT GUTENBERG"
    r"|END OF (?:THE |THIS )?PROJECT GUTENBERG(?:['’]S|[ \t]+E-?(?:BOOK|TEXT)))[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)


def without_frame(strings: Iterable[str], account: Account) -> Iterator[str]:
    """The text without headers and footers, which are counted."""
    frame = _Frame()
    for string in strings:
        yield frame.feed(string)
    yield frame.feed("", last=True)
    account.leave_out(GUTENBERG, frame.removed)
    if bool(frame.headers) != bool(frame.footers):
        account.saw(NO_FOOTER if frame.headers else NO_HEADER, frame.headers + frame.footers)


class _Frame:
    """Project Gutenberg's headers and footers in a stream of text: several, if books were joined in one file.

    A header or a footer is short. So a mark is not believed that would take more than 64 Ki characters with
    it: a book in the middle of a corpus must not take the rest of the corpus.
    """

    def __init__(self) -> None:
        self.buffer = ""
        self.inside = "header"
        self.within_line = False
        self.headers = self.footers = self.removed = 0

    def feed(self, piece: str, *, last: bool = False) -> str:
        """What is surely text; the rest waits for the next piece."""
        self.buffer += piece
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
        """Moves text from the buffer to `kept`; whether it has stopped at a footer."""
        # The start of the buffer may lie in the middle of a long line, where no mark can stand.
        start = self.buffer.find("\n") + 1 if self.within_line else 0
        if (start or not self.within_line) and _names_gutenberg(self.buffer):
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
        end = _end_of_header(self.buffer[: _FRAME + _MARK])
        self.headers += end > 0
        self._drop(end)
        self.inside = "text"

    def _drop_footer(self, kept: list[str], last: bool) -> None:
        following = _end_of_header(self.buffer[: _FRAME + _MARK], after_footer=True)
        if following or (last and len(self.buffer) <= _FRAME):
            end = following or len(self.buffer)
            self.footers += 1
            self.headers += following > 0
            self._drop(end)
        else:
            self._take(self.buffer.find("\n") + 1 or len(self.buffer), kept)
        self.inside = "text"

    def _take(self, end: int, kept: list[str]) -> None:
        if end:
            self.within_line = self.buffer[end - 1] != "\n"
        kept.append(self.buffer[:end])
        self.buffer = self.buffer[end:]

    def _drop(self, end: int) -> None:
        self.removed += utf8_bytes(self.buffer[:end])
        self.buffer = self.buffer[end:]


def _end_of_header(text: str, *, after_footer: bool = False) -> int:
    """Where the text starts behind a header, 0 without one.

    Its last line is START OF, or END THE SMALL PRINT, or whichever of the two comes later.
    """
    if not any(words in text for words in ("START OF", "Start of", "SMALL PRINT")):
        return 0
    end, seen = 0, set()
    for mark in _HEADER_MARK.finditer(text):
        if mark.start() > _FRAME or mark.lastgroup in seen:
            break
        if after_footer and not text[mark.end() :].strip():  # around 2002 the small print stood at the end
            break
        if mark.lastgroup == "end":
            if after_footer and not seen:
                continue
            break
        seen.add(mark.lastgroup)
        end = mark.end()
    return end


def _names_gutenberg(text: str) -> bool:
    """Whether the patterns are worth trying: a plain search is a hundred times faster."""
    return "PROJECT GUTENBERG" in text or "Project Gutenberg" in text
