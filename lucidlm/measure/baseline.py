"""What simple methods need for a held-out text: the records of the baselines."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Code = Literal[
    "uniform_bytes",
    "uniform_vocabulary",
    "unigram_tokens",
    "ngram_tokens",
    "ngram_bytes",
    "gzip",
    "bzip2",
    "xz",
    "ppmd",
]
NAMES: dict[Code, str] = {
    "uniform_bytes": "uniform over bytes",
    "uniform_vocabulary": "uniform over the vocabulary",
    "unigram_tokens": "unigram of tokens",
    "ngram_tokens": "n-gram of tokens",
    "ngram_bytes": "n-gram of bytes",
    "gzip": "gzip",
    "bzip2": "bzip2",
    "xz": "xz",
    "ppmd": "PPMd",
}
"""What a table and a sentence call each method."""
NGRAMS: tuple[Code, ...] = ("ngram_tokens", "ngram_bytes")

Kind = Literal["static", "adapts while reading"]
"""static: fixed by the training text, as a trained model is. adapts while reading: compressors also learn
from the held-out text as they go through it."""

STATIC: Kind = "static"
ADAPTS: Kind = "adapts while reading"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a simple method needs for the held-out text."""

    code: Code
    bits_per_byte: float
    kind: Kind = "static"
    sees: str = "nothing"
    """What of the training text it can use."""
    note: str = ""
    """Its setting."""
    bits: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Cost of each held-out byte (heldout_bytes,), a token's at its first byte; None where unknown."""

    @property
    def name(self) -> str:
        """What a table calls the method."""
        return NAMES[self.code]

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON; without the cost of each byte."""
        return {"name": self.name} | {key: value for key, value in asdict(self).items() if key != "bits"}


def row_of(code: Code, bits: np.ndarray, kind: Kind, sees: str, note: str) -> Baseline:
    """The row of a method whose cost of each scored byte is known."""
    return Baseline(code, float(bits.sum()) / len(bits), kind, sees, note, bits.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Baselines:
    """Simple methods on one held-out text, given one training text, the worst first."""

    rows: tuple[Baseline, ...]
    heldout_bytes: int
    training_bytes: int
    """Bytes of the training text that were used."""
    inside_bits_per_byte: float | None = None
    """What the n-gram of bytes needed for pieces of the training text when fitted to the rest of it."""

    def __getitem__(self, code: Code) -> Baseline:
        """The row of this method; KeyError where it was not measured."""
        for row in self.rows:
            if row.code == code:
                return row
        raise KeyError(code)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON; without the cost of each byte."""
        return {
            "rows": tuple(row.to_dict() for row in self.rows),
            "heldout_bytes": self.heldout_bytes,
            "training_bytes": self.training_bytes,
            "inside_bits_per_byte": self.inside_bits_per_byte,
        }
