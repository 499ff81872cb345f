"""What simple methods need for a held-out text: the records, and the table that shows them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from lucidlm.runtime.wording import plural

Kind = Literal["static", "adapts while reading"]
"""static: fixed by the training text, as a trained model is. adapts while reading: compressors also learn
from the held-out text as they go through it."""

STATIC: Kind = "static"
ADAPTS: Kind = "adapts while reading"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a simple method needs for the held-out text."""

    name: str
    bits_per_byte: float
    kind: Kind = "static"
    sees: str = "nothing"
    """What of the training text it can use."""
    note: str = ""
    """Its setting."""
    bits: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Cost of each held-out byte (heldout_bytes,), a token's at its first byte; None where unknown."""


def row_of(name: str, bits: np.ndarray, kind: Kind, sees: str, note: str) -> Baseline:
    """The row of a method whose cost of each scored byte is known."""
    return Baseline(name, float(bits.sum()) / len(bits), kind, sees, note, bits.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Baselines:
    """Simple methods on one held-out text, given one training text, the worst first."""

    rows: tuple[Baseline, ...]
    heldout_bytes: int
    training_bytes: int
    """Bytes of the training text that were used."""
    inside_bits_per_byte: float | None = None
    """What the n-gram of bytes needed for pieces of the training text when fitted to the rest of it."""

    def __getitem__(self, name: str) -> Baseline:
        """The row of this name; KeyError where it was not measured."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def best(self, kind: Kind) -> Baseline:
        """The best row of a kind."""
        return min((row for row in self.rows if row.kind == kind), key=lambda row: row.bits_per_byte)

    def __str__(self) -> str:
        """An aligned table, the worst first."""
        wide = max(len(row.name) for row in self.rows)
        lines = [f"{'baseline':<{wide}}  bits/byte  {'kind':<20}  sees of the training text"]
        lines += [
            f"{row.name:<{wide}}  {row.bits_per_byte:>9.4f}  {row.kind:<20}  {joined(row.sees, row.note)}"
            for row in self.rows
        ]
        given = (
            f", given {plural(self.training_bytes, 'byte')} of training text" if self.training_bytes else ""
        )
        return "\n".join([*lines, f"on {self.heldout_bytes:,} held-out bytes{given}"])

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON; without the cost of each byte."""
        rows = tuple({key: value for key, value in asdict(row).items() if key != "bits"} for row in self.rows)
        return {
            "rows": rows,
            "heldout_bytes": self.heldout_bytes,
            "training_bytes": self.training_bytes,
            "inside_bits_per_byte": self.inside_bits_per_byte,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Baselines":
        """What `to_dict` gave."""
        rows = tuple(Baseline(**row) for row in values["rows"])
        return cls(rows, values["heldout_bytes"], values["training_bytes"], values["inside_bits_per_byte"])


def joined(*notes: str) -> str:
    """The notes that say something, with commas."""
    return ", ".join(note for note in notes if note)
