"""What each token of a text cost: rows of the lecture's table, kept as columns. N tokens."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np

from lucidlm.model.loss import bits, perplexity
from lucidlm.runtime.wording import fixed


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have been next, and its probability."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class ExplainedToken:
    """One target: how the model predicted the token that was next."""

    given_id: int
    """The token before it, the last that the model had read."""
    given: str
    id: int
    text: str
    probability: float
    log_probability: float
    rank: int
    """1 for the most likely token; of equal ones the lower id comes first."""
    entropy: float
    """Expected loss at this place in nats: -sum p ln p over the vocabulary."""
    running_loss_nats: float
    """Mean loss of its text up to here."""
    alternatives: tuple[Alternative, ...]

    @property
    def nats(self) -> float:
        """The token's loss: -ln p."""
        return -self.log_probability

    @property
    def bits(self) -> float:
        """The token's loss in halvings: -log2 p."""
        return bits(self.nats)

    @property
    def running_perplexity(self) -> float:
        """exp of the running loss."""
        return perplexity(self.running_loss_nats)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        derived = ("nats", "bits", "running_perplexity")
        return asdict(self) | {name: getattr(self, name) for name in derived}


class ExplainedTokens(Sequence[ExplainedToken]):
    """A text's tokens in order, kept as columns: 60 bytes for each token instead of a kilobyte.

    `spell` gives the text of an id.
    """

    __slots__ = ("columns", "spell")

    def __init__(self, columns: dict[str, np.ndarray], spell: Callable[[int], str]) -> None:
        self.columns, self.spell = columns, spell

    def __len__(self) -> int:
        return len(self.columns["id"])

    @overload
    def __getitem__(self, at: int) -> ExplainedToken: ...
    @overload
    def __getitem__(self, at: slice) -> "ExplainedTokens": ...

    def __getitem__(self, at: int | slice) -> "ExplainedToken | ExplainedTokens":
        if isinstance(at, slice):
            return ExplainedTokens({name: column[at] for name, column in self.columns.items()}, self.spell)
        row = {name: column[at].tolist() for name, column in self.columns.items()}
        others = zip(row.pop("alternative_ids"), row.pop("alternative_probabilities"), strict=True)
        return ExplainedToken(
            given=self.spell(row["given_id"]),
            text=self.spell(row["id"]),
            alternatives=tuple(Alternative(id, self.spell(id), p) for id, p in others),
            **row,
        )

    def __iter__(self) -> Iterator[ExplainedToken]:
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExplainedTokens) and all(
            np.array_equal(column, other.columns[name]) for name, column in self.columns.items()
        )

    @property
    def nats(self) -> np.ndarray:
        """Losses (N,), float64."""
        return -self.columns["log_probability"].astype(np.float64)


@dataclass(frozen=True, slots=True)
class ExplainedText:
    """One text, its tokens in order."""

    text: str
    left_out: str
    """What was not scored: the first token of a text without a prefix."""
    tokens: ExplainedTokens

    @property
    def loss_nats(self) -> float:
        """Mean loss of this text's tokens."""
        return math.fsum(self.tokens.nats) / len(self.tokens)

    def first(self) -> str:
        """What is before the first scored token: another prefix gives another loss."""
        if self.left_out:
            return f"first token {quoted(self.left_out)} not scored: nothing is before it"
        return f"first token scored after {self.tokens[0].given}"

    def lines(self) -> Iterator[str]:
        """Two lines of heading, then one per token: its probability, its surprisal, likely alternatives."""
        shown = repr(self.text if len(self.text) <= 80 else self.text[:77] + "...")
        yield f"text {shown} ({self.first()})"
        tokens = self.tokens
        wide = max(9, *(len(quoted(tokens.spell(int(id)))) for id in np.unique(tokens.columns["id"])))
        yield (
            f"{'target':<{wide}} {'id':>6} {'p(target)':>11} {'ln p':>9} {'bits':>7} {'rank':>7} "
            f"{'entropy':>8} {'mean loss':>9} {'perplexity':>11}  likeliest"
        )
        for token in tokens:
            likeliest = "  ".join(
                f"{quoted(other.text)} {other.probability:.2g}" for other in token.alternatives[:3]
            )
            yield (
                f"{quoted(token.text):<{wide}} {token.id:>6} {written('probability', token.probability):>11} "
                f"{written('nats', token.log_probability):>9} {written('bits', token.bits):>7} "
                f"{token.rank:>7,} {written('nats', token.entropy):>8} "
                f"{written('nats', token.running_loss_nats):>9} "
                f"{written('perplexity', token.running_perplexity):>11}  {likeliest}"
            )


def quoted(text: str) -> str:
    """The text in quotes; characters that do not print are escaped, and the \\x.. of bytes is kept."""
    return "'" + "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text) + "'"


DIGITS = {"probability": 4, "nats": 4, "bits": 3, "perplexity": 1}
"""Digits after the decimal point, the same in the table and on the page."""


def written(quantity: str, value: float) -> str:
    """A number as text; a probability, and a number with too many digits to read, in scientific notation."""
    digits = DIGITS[quantity]
    return f"{value:.{digits}e}" if quantity == "probability" else fixed(value, digits)
