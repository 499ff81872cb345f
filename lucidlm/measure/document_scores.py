"""How well a model predicts each document: sums and names come in, a table goes out, the worst first."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lucidlm.runtime.files import write_atomically

THIN_TOKENS = 100
"""A document of fewer scored tokens says little of how its kind is predicted: its row says so."""
SHOWN = 20
"""Rows of the table on a terminal; CSV and JSON have all."""
WIDEST = 60
"""Characters of a name on a terminal: of a longer one, the end tells the documents apart."""


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """What one document cost: sums over its scored tokens."""

    source: str
    nats: float
    tokens: int
    bytes: int
    """0 for a protocol that counts no scored bytes."""

    @property
    def loss_nats(self) -> float:
        """Nats per token; NaN where none was scored."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte; NaN where none was scored."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def thin(self) -> bool:
        """Whether so few tokens were scored that the number is mostly chance."""
        return self.tokens < THIN_TOKENS

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json and the CSV."""
        derived = ("loss_nats", "bits_per_byte", "thin")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def score_documents(sums: np.ndarray, names: Sequence[str], *, by_bytes: bool = True) -> list[DocumentScore]:
    """Each document's score, the worst first: sums (n, 3) of nats, tokens and bytes, in the order of names.

    Worst is by bits per byte, or by loss where bytes do not count; what was not scored comes last.
    """
    assert len(sums) == len(names), "one name for each document"
    # The name of a file may hold bytes that are no UTF-8, which JSON and CSV cannot.
    sources = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    scores = [
        DocumentScore(source, nats, round(tokens), round(size) if by_bytes else 0)
        for source, (nats, tokens, size) in zip(sources, sums.tolist(), strict=True)
    ]

    def rank(score: DocumentScore) -> float:
        number = score.bits_per_byte if by_bytes else score.loss_nats
        return math.inf if math.isnan(number) else -number

    return sorted(scores, key=rank)


def table(scores: Sequence[DocumentScore], *, kind: str = "document", shown: int = SHOWN) -> list[str]:
    """The first rows as lines, and how many more there are; `kind` is what a row is of."""
    lines = [
        f"by {kind}, worst first ({counted(scores, kind)}):",
        f"{'bits/byte':>9} {'loss':>9} {'tokens':>9} {'bytes':>9}  {kind}",
    ]
    for score in scores[:shown]:
        name = score.source if len(score.source) <= WIDEST else "..." + score.source[3 - WIDEST :]
        few = f"  (few tokens: n = {score.tokens:,})" if score.thin else ""
        lines.append(
            f"{_number(score.bits_per_byte):>9} {_number(score.loss_nats):>9} {score.tokens:>9,} "
            f"{score.bytes:>9,}  {_printable(name)}{few}"
        )
    if len(scores) > shown:
        lines.append(f"... {len(scores) - shown:,} more: --csv FILE and --json have all")
    return lines


def counted(scores: Sequence[DocumentScore], kind: str) -> str:
    """How many there are: "3 documents"."""
    return f"{len(scores):,} {kind}{'' if len(scores) == 1 else 's'}"


def csv_of(scores: Sequence[DocumentScore]) -> str:
    """All rows as CSV with a line of names; an empty field where nothing was scored."""
    text = io.StringIO()
    rows = [score.to_dict() for score in scores]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else value for key, value in row.items()})  # NaN
    return text.getvalue()


def write_csv(path: str | os.PathLike, scores: Sequence[DocumentScore]) -> None:
    """The rows in a file, which appears when it is whole."""
    write_atomically(path, csv_of(scores))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.4f}"


def _printable(name: str) -> str:
    """A name without characters that could break its line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
