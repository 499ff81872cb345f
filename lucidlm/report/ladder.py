"""A model among the baselines: evaluation and baselines of one text in, differences and a table out.

Every comparison is paired: the model and the baseline on the same bytes, unit by unit of the evaluation. The
rules and their reasons are in docs/verdicts.md; verdict.py makes the sentences.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from lucidlm.measure.baseline import NGRAMS, STATIC, Baseline, Baselines, Code, Kind
from lucidlm.measure.intervals import Design, Interval, NoInterval, interval_of_ratio

Outcome = Literal["better", "worse", "open", "not tested"]
"""Of model against baseline. open: the interval of the difference contains 0. not tested: it has none."""
Learnt = Literal["nothing", "little", "something"]

DIFFERENT, UNLIKE = 1.25, 1.6
"""A text differs from the training text, or is unlike it, if the n-gram needs this many times the bits that
it needs for unseen pieces of the training text. Other parts of one text cost up to 1.15 times, prose by
another author 1.31 and more, code and logs 1.5 and more: docs/verdicts.md."""
NOTHING = 0.01
"""Random weights come this close to a uniform guess over the vocabulary, on either side of it."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A baseline and the model's difference from it."""

    baseline: Baseline
    difference: float
    """Bits per byte of the model minus those of the baseline: below 0 the model is better."""
    interval: Interval | None
    """95 % interval of the difference; None where the baseline's cost of each byte is unknown, or the text is
    too short for an interval."""

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the interval excludes 0."""
        if self.interval is None:
            return "not tested"
        return "better" if self.interval.high < 0 else "worse" if self.interval.low > 0 else "open"

    @property
    def not_behind(self) -> bool:
        """Whether the model is better: by the interval, or without one by the numbers."""
        return self.outcome == "better" or (self.outcome == "not tested" and self.difference < 0)

    @property
    def gap(self) -> str:
        """The difference with its interval, as text."""
        if self.interval is None:
            return f"{self.difference:+.3f} (no interval)"
        return f"{self.difference:+.3f} ({self.interval.low:+.3f} to {self.interval.high:+.3f})"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The baselines, the worst first, each with the model's difference from it."""

    bits_per_byte: float
    """The model's."""
    rungs: tuple[Rung, ...]
    inside_bits_per_byte: float | None
    """What the n-gram of bytes needs for pieces of the training text that it was not fitted to."""
    no_interval: NoInterval | None
    """Why no difference has an interval; None where those have one whose cost of each byte is known."""
    caution: str = field(default="", compare=False)
    """To be shown beside the model's number: that it is from a sample, or from few tokens."""

    def best(self, kind: Kind) -> Rung:
        """The best baseline of a kind."""
        rungs = (rung for rung in self.rungs if rung.baseline.kind == kind)
        return min(rungs, key=lambda rung: rung.baseline.bits_per_byte)

    def find(self, code: Code) -> Rung | None:
        """The rung of this baseline, if it was measured."""
        return next((rung for rung in self.rungs if rung.baseline.code == code), None)

    def __getitem__(self, code: Code) -> Rung:
        """The rung of this baseline; KeyError where it was not measured."""
        if (rung := self.find(code)) is None:
            raise KeyError(code)
        return rung

    @property
    def better_than_all(self) -> bool:
        """Whether the model is better than every baseline, by the interval where there is one."""
        return all(rung.not_behind for rung in self.rungs)

    @property
    def learnt(self) -> Learnt:
        """nothing: no better than a uniform guess over the vocabulary; little: no better than the unigram."""
        uniform, unigram = self.find("uniform_vocabulary"), self.find("unigram_tokens")
        if uniform is not None and self.bits_per_byte > (1 - NOTHING) * uniform.baseline.bits_per_byte:
            return "nothing"
        return "little" if unigram is not None and not unigram.not_behind else "something"

    @property
    def counting(self) -> Outcome | None:
        """Outcome against the best static baseline if it is an n-gram and the model is not better."""
        best = self.best(STATIC)
        counts = best.baseline.code in NGRAMS and best.outcome in ("open", "worse")
        return best.outcome if counts else None

    @property
    def differs(self) -> float | None:
        """The n-gram's bits per byte here over those inside its training text; None below DIFFERENT."""
        rung = self.find("ngram_bytes")
        if rung is None or not self.inside_bits_per_byte:
            return None
        times = rung.baseline.bits_per_byte / self.inside_bits_per_byte
        return times if times >= DIFFERENT else None

    @property
    def unlike(self) -> float | None:
        """The same; None below UNLIKE."""
        return self.differs if (self.differs or 0.0) >= UNLIKE else None

    def rows(self) -> list[dict[str, Any]]:
        """The table, the worst first, with the model in its place."""
        ours = {
            "code": None,
            "name": "this model",
            "bits": self.bits_per_byte,
            "kind": STATIC,
            "gap": self.caution,
            "sees": "all",
            "ours": True,
        }
        rows = [
            {
                "code": rung.baseline.code,
                "name": rung.baseline.name,
                "bits": rung.baseline.bits_per_byte,
                "kind": rung.baseline.kind,
                "gap": rung.gap,
                "sees": ", ".join(filter(None, (rung.baseline.sees, rung.baseline.note))),
                "ours": False,
            }
            for rung in self.rungs
        ]
        return sorted([ours, *rows], key=lambda row: (-row["bits"], row["name"]))

    def __str__(self) -> str:
        """The table, aligned, under a line that says what the differences are."""
        rows = self.rows()
        wide = {
            key: max(len(title), *(len(row[key]) for row in rows))
            for key, title in (("name", ""), ("kind", "kind"), ("gap", "difference"))
        }
        interval = next((rung.interval for rung in self.rungs if rung.interval is not None), None)
        of = f" (95 % interval {interval.clause})" if interval is not None else ""
        lines = [
            f"bits per byte of the same text; difference: this model minus the baseline{of}",
            f"  {'bits':>8}  {'baseline':<{wide['name']}}  {'kind':<{wide['kind']}}  "
            f"{'difference':<{wide['gap']}}  sees of the training text",
        ]
        lines += [
            f"{'>' if row['ours'] else ' '} {row['bits']:8.4f}  {row['name']:<{wide['name']}}  "
            f"{row['kind']:<{wide['kind']}}  {row['gap']:<{wide['gap']}}  {row['sees']}"
            for row in rows
        ]
        return "\n".join([*lines, *([str(self.no_interval)] if self.no_interval else [])])

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return {
            "rungs": [
                {
                    "code": rung.baseline.code,
                    "name": rung.baseline.name,
                    "kind": rung.baseline.kind,
                    "difference": rung.difference,
                    "interval": asdict(rung.interval) if rung.interval is not None else None,
                    "outcome": rung.outcome,
                }
                for rung in self.rungs
            ],
            "better_than_all": self.better_than_all,
            "differs": self.differs,
            "unlike": self.unlike,
            "no_interval": str(self.no_interval or ""),
        }


def ladder_of(
    bits_per_byte: float,
    units: np.ndarray,
    design: Design,
    baselines: Baselines,
    *,
    fraction: float = 0.0,
    same: np.ndarray | None = None,
    no_interval: NoInterval | None = None,
) -> Ladder:
    """The ladder of a model with these bits per byte: `units` (n, 3) are its nats, tokens and scored bytes.

    The units are in the order of the scored text, and that is the text that the baselines are of; `fraction`
    is the share of the whole text that they are. Those with equal numbers in `same` (n,) are copies of each
    other. `no_interval` says why nothing is to have an interval.
    """
    sizes = units[:, 2]
    reason = no_interval
    if round(float(sizes.sum())) != baselines.heldout_bytes:
        reason = NoInterval("other_bytes", "the baselines are of the text as its tokens spell it")
    rungs = []
    for row in baselines.rows:
        interval = None
        if row.bits is not None and not reason:
            theirs = _sums(row.bits, sizes)
            gaps = units[:, 0] / math.log(2) - theirs
            interval, reason = interval_of_ratio(gaps, sizes, design=design, fraction=fraction, same=same)
        rungs.append(Rung(row, bits_per_byte - row.bits_per_byte, interval))
    return Ladder(bits_per_byte, tuple(rungs), baselines.inside_bits_per_byte, reason)


def _sums(bits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The cost of each unit: the units follow each other in the bytes."""
    before = np.concatenate(([0.0], np.cumsum(bits, dtype=np.float64)))
    return np.diff(before[np.rint(np.cumsum(sizes)).astype(np.int64)], prepend=0.0)
