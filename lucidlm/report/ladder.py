"""Where a model stands: its evaluation and the baselines of the same text in; a table and one verdict out.

Every comparison is paired: the model and the baseline on the same bytes, unit by unit of the evaluation. The
rules and their reasons are in docs/verdicts.md.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from lucidlm.measure.baselines import ADAPTS, STATIC, Baseline, Baselines, Kind, joined
from lucidlm.measure.intervals import Design, Interval, interval_of_ratio

Outcome = Literal["better", "worse", "open", "not tested"]
"""Of the model against a baseline. open: the interval of the difference holds 0. not tested: it has none."""

DIFFERENT, UNLIKE = 1.25, 1.6
"""A text that costs the n-gram so many times what pieces of its own training text cost differs from that, as
another part or author does; is unlike it."""
NOTHING = 0.01
"""A loss within this share of a uniform guess over the vocabulary is that of random weights."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A baseline, and how far the model is from it."""

    baseline: Baseline
    difference: float
    """Bits per byte of the model less those of the baseline: under 0 the model is better."""
    interval: Interval | None
    """95 % interval of the difference; None where the cost of each byte, or an interval, is not at hand."""

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the interval leaves 0 out."""
        if self.interval is None:
            return "not tested"
        return "better" if self.interval.high < 0 else "worse" if self.interval.low > 0 else "open"

    @property
    def not_behind(self) -> bool:
        """Whether the model is better, as far as it could be tested."""
        return self.outcome == "better" or (self.outcome == "not tested" and self.difference < 0)

    @property
    def gap(self) -> str:
        """The difference with its interval, as the table has it."""
        if self.interval is None:
            return f"{self.difference:+.3f} (no interval)"
        return f"{self.difference:+.3f} ({self.interval.low:+.3f} to {self.interval.high:+.3f})"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The baselines, the worst first, each with its distance from the model."""

    bits_per_byte: float
    """Of the model."""
    rungs: tuple[Rung, ...]
    inside_bits_per_byte: float | None
    no_interval: str
    """Why no difference has an interval; "" where those have one whose cost of each byte is at hand."""
    caution: str = field(default="", compare=False)
    """What must stand beside the model's number: that it is of a sample, or of few tokens."""

    def best(self, kind: Kind) -> Rung:
        """The best baseline of a kind."""
        rungs = (rung for rung in self.rungs if rung.baseline.kind == kind)
        return min(rungs, key=lambda rung: rung.baseline.bits_per_byte)

    def find(self, name: str) -> Rung | None:
        """The rung of this name, if it was measured."""
        return next((rung for rung in self.rungs if rung.baseline.name == name), None)

    @property
    def better_than_all(self) -> bool:
        """Whether the model is better than every baseline, by the interval wherever there is one."""
        return all(rung.not_behind for rung in self.rungs)

    @property
    def differs(self) -> float | None:
        """How many times the bits of its training text the n-gram of bytes needs; None if not far more."""
        rung = self.find("n-gram of bytes")
        if rung is None or not self.inside_bits_per_byte:
            return None
        times = rung.baseline.bits_per_byte / self.inside_bits_per_byte
        return times if times >= DIFFERENT else None

    @property
    def unlike(self) -> float | None:
        """The same; None up to what another part or author of one source may need."""
        return self.differs if (self.differs or 0.0) >= UNLIKE else None

    def rows(self) -> list[dict[str, Any]]:
        """The table, the worst first, with the model in its place."""
        ours = {
            "name": "this model",
            "bits": self.bits_per_byte,
            "kind": STATIC,
            "gap": self.caution,
            "sees": "all",
            "ours": True,
        }
        rows = [
            {
                "name": rung.baseline.name,
                "bits": rung.baseline.bits_per_byte,
                "kind": rung.baseline.kind,
                "gap": rung.gap,
                "sees": joined(rung.baseline.sees, rung.baseline.note),
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
        return "\n".join([*lines, *([self.no_interval] if self.no_interval else [])])

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return {
            "rungs": [
                {
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
            "no_interval": self.no_interval,
        }


def ladder_of(
    bits_per_byte: float,
    units: np.ndarray,
    design: Design,
    baselines: Baselines,
    *,
    fraction: float = 0.0,
    same: np.ndarray | None = None,
    no_interval: str = "",
) -> Ladder:
    """The ladder of a model with so many bits per byte: `units` (n, 3) are its nats, tokens and scored bytes.

    The units are in the order of the scored text, and that is the text that the baselines are of; `fraction`
    is the share of the whole text that they are. Those with equal numbers in `same` (n,) are copies of each
    other. `no_interval` says why nothing is to have an interval.
    """
    sizes = units[:, 2]
    reason = no_interval
    if round(float(sizes.sum())) != baselines.heldout_bytes:
        reason = "no 95 % intervals of differences: the baselines are of the text as its tokens spell it"
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


# The verdict


def place_of(ladder: Ladder, *, own: bool, longer: bool = True) -> str:
    """Where the model stands, in a few sentences.

    `own`: the text is the run's own held-out text, so that it may be told that it has learnt nothing; not
    where that differs from the training text, as a text of its own may be. `longer`: whether more training on
    the same text may help, as its history says.
    """
    if not own or ladder.differs is not None:
        return " ".join(filter(None, (_likeness(ladder), _standing(ladder, ""))))
    uniform, unigram = ladder.find("uniform over the vocabulary"), ladder.find("unigram of tokens")
    if uniform is not None and ladder.bits_per_byte > (1 - NOTHING) * uniform.baseline.bits_per_byte:
        return (
            f"The model has learnt nothing yet: {ladder.bits_per_byte:.3f} bits per byte are no better than "
            f"a uniform guess over the vocabulary ({uniform.baseline.bits_per_byte:.3f})."
        )
    little = ""
    if unigram is not None and not unigram.not_behind:
        bits = f"{unigram.baseline.bits_per_byte:.3f} bits per byte"
        said = {
            "worse": f"predicts the text better ({bits})",
            "open": f"predicts the text as well ({bits})",
            "not tested": f"predicts the text with {bits}, {unigram.difference:.3f} fewer (no interval)",
        }[unigram.outcome]
        little = f"The model has learnt little yet: how often each token occurs {said}."
    advice = "train longer, or on more text" if longer else "train on more text"
    return " ".join(filter(None, (little, _standing(ladder, advice))))


def _likeness(ladder: Ladder) -> str:
    rung = ladder.find("n-gram of bytes")
    if ladder.differs is None or rung is None:
        return ""
    how = "differs from" if ladder.unlike is None else "is unlike"
    return (
        f"This text {how} the training text: an n-gram of bytes fitted to all of that needs "
        f"{rung.baseline.bits_per_byte:.3f} bits per byte here; fitted to four fifths of it, "
        f"{ladder.inside_bits_per_byte:.3f} for the other fifth."
    )


def _standing(ladder: Ladder, advice: str) -> str:
    static, adaptive = ladder.best(STATIC), ladder.best(ADAPTS)
    mine = f"The model needs {ladder.bits_per_byte:.3f} bits per byte"
    if ladder.better_than_all:
        mine += ", better than every baseline"
    counts = ""
    if "n-gram" in static.baseline.name and advice:
        said = {"open": "as well", "worse": "better"}.get(static.outcome)
        counts = f"; counting sequences does {said}: {advice}" if said else ""
    parts = (
        f"{mine}.",
        f"Best static baseline, {_against(static)}{counts}.",
        f"Best baseline that adapts while reading, {_against(adaptive, clause=static.interval is None)}.",
    )
    return " ".join(parts)


def _against(rung: Rung, *, clause: bool = True) -> str:
    """A baseline with its number, and the model against it; what the interval is of is said once."""
    named = f"{rung.baseline.name} ({rung.baseline.bits_per_byte:.3f})"
    gap, interval = abs(rung.difference), rung.interval
    if interval is None:
        word = "fewer" if rung.difference < 0 else "more"
        return f"{named}: the model needs {gap:.3f} bits {word}, without an interval"
    of = f", {interval.clause}" if clause else ""
    if rung.outcome == "open":
        numbers = f"{rung.difference:+.3f}, 95 % interval {interval.low:+.3f} to {interval.high:+.3f}{of}"
        return f"{named}: no difference that this text can show ({numbers})"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{named}: the model is {rung.outcome} by {gap:.3f} (95 % interval {low:.3f} to {high:.3f}{of})"
