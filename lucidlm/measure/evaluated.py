"""How well a model predicts a text: the numbers, and how they are shown."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lucidlm.measure.diagnosis import Diagnosis
from lucidlm.measure.intervals import STRATA, Design, Interval, NoInterval
from lucidlm.measure.protocol import Counted
from lucidlm.measure.shortening import Shortening
from lucidlm.model.loss import perplexity
from lucidlm.pages.page import notebook
from lucidlm.runtime.wording import fixed, plural
from lucidlm.text.account import Account
from lucidlm.text.corpus import FEW_TOKENS
from lucidlm.text.repetition import Repetition

MOST_UNITS = 5000
"""If there are more units, they are not stored with a result; a gate then uses both results' intervals."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model predicts a text: sums, which the properties divide."""

    nats: float
    """Sum over the scored tokens of -ln p(token), added in float64."""
    tokens_scored: int
    tokens_total: int
    bytes_scored: int
    bytes_total: int
    bytes_spelled: int
    """Bytes that all tokens spell: not equal to `bytes_total` where the tokenizer changes the text."""
    words: int
    """Words of the whole text, separated by white space, as the evaluation harness counts them."""
    documents: int
    protocol: Counted
    design: Design
    """What the units of the interval are: pieces of one text (strata), documents, or pages in a row."""
    fraction: float
    """The share of the whole text that its pieces are (strata)."""
    units: np.ndarray = field(repr=False, compare=False)
    """Nats, tokens and bytes of each unit, in the order of the scored text: (n, 3)."""
    by_document: np.ndarray = field(repr=False, compare=False)
    """Nats, tokens and bytes of each document, also of those without a scored token: (documents, 3)."""
    text_sha256: str
    """Of the documents' text: each one's length in bytes as decimals, a line end, and its bytes."""
    same: np.ndarray = field(repr=False, compare=False)
    """For each unit, a number that it shares with its copies: the interval counts copies as one unit."""
    repetition: Repetition
    loss_interval: Interval | None
    """95 % interval of the loss, nats per token; None where `no_interval` says why."""
    bits_interval: Interval | None
    """95 % interval of the bits per byte."""
    no_interval: NoInterval | None
    diagnosis: Diagnosis
    vocab_size: int
    account: Account | None = field(default=None, compare=False)
    """What reading the text left out of its files' bytes; None for a text that was given as token ids."""
    sample_of: int | None = None
    """Tokens of the whole text where only a sample of it was evaluated; None where all was."""
    rounding: Shortening | None = None
    """What the dtype of the matmuls changes in the loss; None for float32."""

    @property
    def caution(self) -> str:
        """What is shown beside each number if it is of a sample or of few tokens; else ""."""
        if self.sample_of is not None:
            return f"sample: {self.tokens_scored:,} of {plural(self.sample_of, 'token')}"
        return f"only {plural(self.tokens_scored, 'token')}" if self.tokens_scored < FEW_TOKENS else ""

    @property
    def certainty(self) -> str:
        """What is exact, what the intervals are about, where they may fail; "" for a sample without one."""
        exact = "" if self.sample_of is not None else "the loss of the scored text is exact"
        interval = self.loss_interval
        if interval is None:
            return exact
        of = f"the 95 % intervals are estimates {interval.clause}"
        said = "; ".join(part for part in (exact, of) if part)
        return f"{said}; {interval.caution}" if interval.caution else said

    def without_intervals(self, reason: NoInterval) -> "Evaluation":
        """The same numbers, which hold for this text only; `reason` says why."""
        return replace(self, loss_interval=None, bits_interval=None, no_interval=reason)

    @property
    def loss_nats(self) -> float:
        """Nats per scored token: the cross entropy."""
        return self.nats / self.tokens_scored

    @property
    def perplexity(self) -> float:
        """exp(loss): as uncertain as a fair choice among this many tokens."""
        return perplexity(self.loss_nats)

    @property
    def perplexity_interval(self) -> Interval | None:
        """The 95 % interval of the perplexity: that of the loss, its ends exponentiated."""
        loss = self.loss_interval
        return loss and replace(loss, low=perplexity(loss.low), high=perplexity(loss.high))

    @property
    def bits_per_byte(self) -> float:
        """The only one of these numbers that compares models with different tokenizers."""
        return self.nats / self.bytes_scored / math.log(2) if self.bytes_scored else math.nan

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words); NaN for a protocol that scores only parts: all words are counted."""
        partial = self.protocol.name in ("batch-mean", "hf-guide")
        return math.nan if partial or not self.words else perplexity(self.nats / self.words)

    @property
    def byte_perplexity(self) -> float:
        """exp(nats / bytes)."""
        return perplexity(self.nats / self.bytes_scored) if self.bytes_scored else math.nan

    @property
    def bytes_left_out(self) -> dict[str, int]:
        """Bytes that were not scored, by reason: with the scored ones, all that was read."""
        left_out = dict(self.account.left_out) if self.account else {}
        # A protocol that weights its windows counts no scored bytes.
        rest = self.bytes_total - self.bytes_scored if self.bytes_scored else 0
        return left_out | ({"not_scored": rest} if rest else {})

    def to_dict(self) -> dict[str, Any]:
        """Flat and stable keys, for --json."""
        account = self.account or Account()
        derived = ("loss_nats", "perplexity", "bits_per_byte", "word_perplexity", "byte_perplexity")
        numbers = {key: getattr(self, key) for key in derived}
        apart = (
            "protocol",
            "diagnosis",
            "account",
            "units",
            "by_document",
            "same",
            "repetition",
            "no_interval",
        )
        perplexities = self.perplexity_interval
        return (
            numbers
            | {"caution": self.caution, "certainty": self.certainty}
            | {key: value for key, value in asdict(self).items() if key not in apart}
            | account.to_dict()
            | {"bytes_as_utf8": account.read if self.account else self.bytes_total}
            | {"bytes_left_out": self.bytes_left_out, "no_interval": str(self.no_interval or "")}
            | {"units": self.units.tolist() if len(self.units) <= MOST_UNITS else None}
            | {"perplexity_interval": asdict(perplexities) if perplexities else None}
            | {"protocol": asdict(self.protocol) | {"difference": self.protocol.difference}}
            | {"diagnosis": asdict(self.diagnosis)}
            | {"repetition": self.repetition.to_dict()}
        )

    def rows(self) -> list[tuple[str, str, Interval | None]]:
        """The table of the numbers: name, value, interval."""
        of = self.diagnosis
        mark = f" ({self.caution})" if self.caution else ""
        kind = "piece" if self.design in STRATA else "document"
        kind = kind if self.sample_of is None else "span of a sample"
        rows: list[tuple[str, str, Interval | None]] = [
            ("loss", f"{fixed(self.loss_nats, 4)} nats per token{mark}", self.loss_interval),
            ("perplexity", f"{fixed(self.perplexity, 2)}{mark}", self.perplexity_interval),
            ("bits per byte", f"{fixed(self.bits_per_byte, 4)}{mark}" if self.bytes_scored
             else "not counted by this protocol", self.bits_interval),
            ("accuracy", f"top-1 {of.accuracy_at_1:.1%}, top-5 {of.accuracy_at_5:.1%}{mark}", None),
            ("rank", f"median {of.median_rank:g}, mean {of.mean_rank:,.1f} of {self.vocab_size:,}", None),
            ("calibration", f"confidence and accuracy differ by {of.calibration_error:.1%}{mark}", None),
            ("scored", f"{self.tokens_scored:,} of {plural(self.tokens_total, 'token')}, "
                       f"{self.bytes_scored:,} of "
                       f"{plural(self.bytes_total, 'byte')}, {plural(self.documents, kind)}", None),
        ]  # fmt: skip
        if self.rounding is not None:
            rows.append((f"{self.protocol.dtype} adds", str(self.rounding), None))
        if self.certainty:
            rows.append(("certainty", self.certainty, None))
        if repeated := self.repetition.sentence:
            rows.append(("repeated", repeated, None))
        if self.account is not None:
            if line := self.account.left_out_line():
                rows.append(("left out", line, None))
            rows += [("read", line, None) for line in self.account.other_lines()]
        if self.bytes_spelled != self.bytes_total:
            changed = f"the tokenizer changes the text: its tokens spell {plural(self.bytes_spelled, 'byte')}"
            rows.append(("changed", f"{changed}, the text has {self.bytes_total:,}", None))
        if of.padding_mass:
            rows.append(
                ("padding", f"{of.padding_mass:.2%} of probability went to ids without a token", None)
            )
        return rows

    def __str__(self) -> str:
        """The numbers with their intervals, what was counted, and how."""
        lines = [
            f"{name:<14} {value}" + (f"   (95 % interval {interval.clause}: {interval})" if interval else "")
            for name, value, interval in self.rows()
        ]
        if self.no_interval:
            lines.append(str(self.no_interval))
        return "\n".join([*lines, str(self.protocol)])

    def _repr_html_(self) -> str:
        """For a notebook: the same as a table."""
        return notebook(
            "evaluation_part.html",
            rows=self.rows(),
            no_interval=self.no_interval,
            protocol=str(self.protocol),
        )
