"""Token ids come in one by one, text goes out: with its offsets, and never a part of a stop string.

A token may end inside a character, so text is released up to the last token that ends with a whole one: the
texts of the released pieces join to the text, streamed or not.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lucidlm.model.generation import overlap
from lucidlm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Written:
    """One token of a text."""

    place: int
    """Its index among the tokens of prompt and text."""
    id: int
    start: int
    """Index in the text of its first character; a token that ends no character has none."""
    log_probability: float | None = None
    """The model's own, before any strategy; None where nobody asked for it."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their log-probabilities."""
    step: dict[str, Any] | None = None
    """The distributions of this step, for a page that shows them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next tokens of a text, and the characters that they complete."""

    tokens: tuple[Written, ...]
    text: str
    finish_reason: str | None = None
    """On the last piece: "stop" (end-of-text or a stop string) or "length"."""
    generated: int = 0
    """How many tokens the model has generated for the text so far."""


def spelled(tokenizer: Tokenizer, id: int) -> str:
    r"""A token as OpenAI's logprobs spell it: its text, or `bytes:\xe2\x82` where that is no valid UTF-8.

    >>> spelled(Tokenizer.bytes(), 65), spelled(Tokenizer.bytes(), 195), spelled(Tokenizer.bytes(), 256)
    ('A', 'bytes:\\xc3', '<|endoftext|>')
    """
    if id == tokenizer.end_of_text:
        return "<|endoftext|>"
    data = tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""
    if not data:
        return f"<id {id}>"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Transcript:
    """One text as it grows."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.text = ""
        self.ended = False
        """Whether the text is complete: all that is left may be released."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._count = 0
        self._generated_from = 0
        """Stop strings are searched for from here on: an echoed prompt may contain them."""
        self._pending: list[tuple[Written, int]] = []
        """Tokens that are not released, each with the length of the text up to it; -1: inside a character."""
        self._released = 0

    def echo(self, ids: Sequence[int]) -> None:
        """Puts the tokens of the prompt before the text."""
        for id in ids:
            self._append(id, None, (), None, last=False)
        self._generated_from = len(self.text)

    def add(
        self,
        id: int,
        log_probability: float | None = None,
        top: tuple[tuple[int, float], ...] = (),
        *,
        step: dict[str, Any] | None = None,
        last: bool = False,
    ) -> bool:
        """Adds a token; whether a stop string ended the text, which then ends before it."""
        before = len(self.text)
        self._append(id, log_probability, top, step, last=last)
        self.ended = last
        longest = max(map(len, self.stop), default=0)
        start = max(self._generated_from, before - longest + 1)
        found = [place for string in self.stop if (place := self.text.find(string, start)) >= 0]
        if not found:
            return False
        cut = min(found)
        self.text, self.ended = self.text[:cut], True
        self._pending = [(token, end) for token, end in self._pending if token.start < cut]
        return True

    def close(self) -> None:
        """Ends a text without another token; bytes that never became a character become U+FFFD."""
        self.text += self._decoder.decode(b"", final=True)
        self.ended = True

    def release(self) -> tuple[tuple[Written, ...], str]:
        """The tokens and the text that nothing can change any more."""
        count, end = len(self._pending), len(self.text)
        if not self.ended:
            generated = self.text[self._generated_from :]
            end -= max((overlap(generated, string) for string in self.stop), default=0)
            whole = [number for number, (_, to) in enumerate(self._pending, 1) if 0 <= to <= end]
            count = whole[-1] if whole else 0
            end = self._pending[count - 1][1] if count else self._released
        tokens = tuple(token for token, _ in self._pending[:count])
        text = self.text[self._released : end]
        self._pending, self._released = self._pending[count:], end
        return tokens, text

    def _append(
        self,
        id: int,
        log_probability: float | None,
        top: tuple[tuple[int, float], ...],
        step: dict[str, Any] | None,
        *,
        last: bool,
    ) -> None:
        start = len(self.text)
        self.text += self._decoder.decode(self.tokenizer.token_bytes(id), final=last)
        inside = bool(self._decoder.getstate()[0])
        token = Written(self._count, id, start, log_probability, top, step)
        self._pending.append((token, -1 if inside else len(self.text)))
        self._count += 1
