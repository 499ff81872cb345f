"""What is scored of a document: its token ids, and those that stand before them and are only read."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

LONGEST_CONTEXT = 1 << 17
"""No model reads more than so many tokens at once."""


def _nothing() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Tokens to score, N of them, and the M tokens of the same document that stand before them.

    A whole document has nothing before it. A held-out piece of a book has the training text before it: a
    model reads that as context, and only the piece is scored.
    """

    ids: np.ndarray  # (N,)
    before: np.ndarray = field(default_factory=_nothing)  # (M,)
    text: str | None = None
    """The text itself where the tokenizer may have changed it: bytes and words are counted of it then."""

    def part(self, start: int, end: int) -> "Excerpt":
        """The tokens from start to end, with all that stand before them as context."""
        before = self.ids[:start]
        if len(self.before):
            before = np.concatenate((self.before[-LONGEST_CONTEXT:], before))
        return Excerpt(self.ids[start:end], before)


def as_excerpt(document: np.ndarray | Excerpt) -> Excerpt:
    """A document of ids alone as an excerpt with nothing before it."""
    return document if isinstance(document, Excerpt) else Excerpt(np.asarray(document))


def ids_of(documents: Iterable[np.ndarray | Excerpt]) -> list[np.ndarray]:
    """The scored ids of each document."""
    return [as_excerpt(document).ids for document in documents]
