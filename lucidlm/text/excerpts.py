"""Token ids of a document come in; the part to score and the context before it go out."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

LONGEST_CONTEXT = 1 << 17
"""Tokens of context that are kept: no model reads more at once."""


def _nothing() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """N tokens to score, and the M tokens of the same document before them.

    A whole document has nothing before it. A held-out piece of a book has the training text before it: the
    model reads that as context, and only the piece is scored.
    """

    ids: np.ndarray  # (N,)
    before: np.ndarray = field(default_factory=_nothing)  # (M,)
    text: str | None = None
    """The text itself if the tokenizer may change it: bytes and words are then counted in it."""

    def part(self, start: int, end: int) -> "Excerpt":
        """The tokens from start to end, with all tokens before them as context."""
        before = self.ids[:start]
        if len(self.before):
            before = np.concatenate((self.before[-LONGEST_CONTEXT:], before))
        return Excerpt(self.ids[start:end], before)


def as_excerpt(document: np.ndarray | Excerpt) -> Excerpt:
    """A document of ids as an excerpt without context."""
    return document if isinstance(document, Excerpt) else Excerpt(np.asarray(document))


def ids_of(documents: Iterable[np.ndarray | Excerpt]) -> list[np.ndarray]:
    """The scored ids of each document."""
    return [as_excerpt(document).ids for document in documents]
