"""Two models, or runs of two recipes, on the same bytes: the numbers, and what they say."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lucidlm.measure.atoms import Atoms
from lucidlm.measure.intervals import Interval, NoInterval
from lucidlm.measure.seen import Seen
from lucidlm.measure.spans import Span
from lucidlm.pages.page import colour_level, notebook, token_span, write_page
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.repetition import Repetition


@dataclass(frozen=True, slots=True)
class Run:
    """One model, on the bytes that all score."""

    name: str
    nats: float
    tokens: int
    context_length: int
    stride: int
    tokenizer: str

    @property
    def loss_nats(self) -> float:
        """Nats per token of its own."""
        return self.nats / self.tokens


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison: a model, or several runs of one recipe."""

    name: str
    runs: tuple[Run, ...]

    @property
    def short(self) -> str:
        """Its name without how many runs it has."""
        return (
            self.name.removesuffix(f" ({plural(len(self.runs), 'run')})") if len(self.runs) > 1 else self.name
        )

    @property
    def nats(self) -> float:
        """Mean over the runs."""
        return math.fsum(run.nats for run in self.runs) / len(self.runs)

    @property
    def tokens(self) -> int:
        """Tokens that the first run scored."""
        return self.runs[0].tokens

    @property
    def loss_nats(self) -> float:
        """Nats per token of each run, averaged over the runs."""
        return math.fsum(run.loss_nats for run in self.runs) / len(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        first = asdict(self.runs[0]) | {"name": self.name, "nats": self.nats, "loss_nats": self.loss_nats}
        return first | {"runs": [asdict(run) | {"loss_nats": run.loss_nats} for run in self.runs]}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models, or runs of two recipes, on the same bytes."""

    a: Side
    b: Side
    bytes_scored: int
    """Bytes that both score."""
    bytes_total: int
    documents: int
    interval: Interval | None
    """95 % interval of the difference in bits per byte of these weights; None: `no_interval` says why."""
    no_interval: NoInterval | None
    recipes: Interval | None
    """The same of the recipes, with seeds and text as sources of variance; None under two runs of each."""
    repetition: Repetition
    a_wins: tuple[Span, ...]
    """Where A saves the most bits."""
    b_wins: tuple[Span, ...]
    atoms: tuple[Atoms, ...] = field(repr=False, compare=False)
    account: Account | None = field(default=None, compare=False)
    """What reading the text left out; None for texts that were already read."""
    same_model: bool = False
    """Both are one model: there is nothing to compare."""
    seen: Mapping[str, Seen | None] = field(default_factory=dict, compare=False)
    """For each model, how much of the text it was trained on; None where that is not known."""

    @property
    def warnings(self) -> list[str]:
        """A sentence for each model that was trained on this text; shown above every number."""
        return [seen.sentence for seen in self.seen.values() if seen and seen.sentence]

    def bits_per_byte(self, run: Run) -> float:
        """Bits per byte of one run."""
        return run.nats / math.log(2) / self.bytes_scored

    @property
    def bits_per_byte_a(self) -> float:
        """Bits per byte of A."""
        return self.a.nats / math.log(2) / self.bytes_scored

    @property
    def bits_per_byte_b(self) -> float:
        """Bits per byte of B."""
        return self.b.nats / math.log(2) / self.bytes_scored

    @property
    def difference(self) -> float:
        """Bits per byte that A pays more than B: under 0, A is better."""
        return self.bits_per_byte_a - self.bits_per_byte_b

    @property
    def of_recipes(self) -> bool:
        """Whether there are two or more runs of each recipe, so that it is about recipes and not weights."""
        return min(len(self.a.runs), len(self.b.runs)) > 1

    @property
    def _about(self) -> Interval | None:
        """The interval of what the result is about: the recipes where there are two or more runs of each."""
        return self.recipes if self.of_recipes else self.interval

    @property
    def _exact(self) -> str:
        """The difference in words, without a sign that a reader could take the wrong way."""
        if self.difference == 0:
            return f"{self.a.name} and {self.b.name} need the same number of bits"
        better, other = (self.a, self.b) if self.difference < 0 else (self.b, self.a)
        by = shown_number(abs(self.difference), places_of(self.difference))
        return f"{better.name} needs {by} bits per byte less than {other.name}"

    @property
    def verdict(self) -> str:
        """One sentence; that one is better is said only where the interval leaves 0 out."""
        if self.same_model:
            return (
                f"{self.a.name} and {self.b.name} are the same model twice (equal weights): there is "
                "nothing to compare."
            )
        interval = self._about
        if interval is None:
            return f"{self._exact}; {self.no_interval}."
        low, high = interval.low, interval.high
        of = f"95 % interval {interval.clause}"
        places = places_of(self.difference)
        if low <= 0 <= high:
            shown = f"{shown_number(self.difference, places, sign='+')} bits per byte"
            shown += (
                f" ({of}: {shown_number(low, places, sign='+')} to {shown_number(high, places, sign='+')})"
            )
            source, more = (
                ("these runs and this text", "More runs or more text")
                if self.of_recipes
                else ("this text", "More text")
            )
            difference = f"{self.a.short} minus {self.b.short} is {shown}"
            return f"No difference that {source} can show: {difference}. {more} might show one."
        better, other = (self.a, self.b) if self.difference < 0 else (self.b, self.a)
        least, most = (shown_number(end, places) for end in sorted((abs(low), abs(high))))
        by = f"by {shown_number(abs(self.difference), places)} bits per byte ({of}: {least} to {most})"
        return f"{better.name} predicts this text better than {other.name}, {by}."

    @property
    def notes(self) -> tuple[str, ...]:
        """What the verdict is about, and where its interval may fail."""
        if self.same_model:
            return ()
        interval = self._about
        exact = f"On exactly these {plural(self.bytes_scored, 'byte')}, {self._exact}"
        mean = ", in the mean of the runs" if max(len(self.a.runs), len(self.b.runs)) > 1 else ""
        if self.of_recipes:
            about = f"{exact}{mean}."
            about += " The interval counts other seeds and other text." if interval is not None else ""
        else:
            about = (
                f"{exact}{mean}. The result is about these weights on this text, not about recipes: another "
                "seed of the same recipe may reverse it. Two or more runs on each side, with other seeds, "
                "compare recipes: lucidlm compare A1,A2 B1,B2 TEXT"
            )
        caution = (f"Caution: {interval.caution}.",) if interval is not None and interval.caution else ()
        return (about, *caution)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        names = ("bits_per_byte_a", "bits_per_byte_b", "difference", "bytes_scored", "bytes_total")
        values = {
            name: getattr(self, name) for name in (*names, "documents", "same_model", "verdict", "notes")
        }
        values["no_interval"] = str(self.no_interval or "")
        values |= {"a": self.a.to_dict(), "b": self.b.to_dict()}
        for name in ("interval", "recipes"):
            interval = getattr(self, name)
            values[name] = asdict(interval) | {"clause": interval.clause} if interval else None
        for name in ("a_wins", "b_wins"):
            values[name] = [asdict(span) | {"difference": span.difference} for span in getattr(self, name)]
        values["repetition"] = self.repetition.to_dict()
        values["seen_in_training"] = {
            name: seen.to_dict() if seen else None for name, seen in self.seen.items()
        }
        return values | (self.account.to_dict() if self.account else {})

    def __str__(self) -> str:
        """Both models, the difference, and the spans where each wins most."""
        rows = [(run.name, run) for side in (self.a, self.b) for run in side.runs]
        wide = max(10, *(len(name) for name, _ in rows), len(self.a.name), len(self.b.name))
        lines = [*self.warnings, ""] if self.warnings else []
        lines += [
            f"{'model':<{wide}} {'bits/byte':>9} {'nats/token':>10} {'tokens':>10}  "
            "tokenizer, context, stride"
        ]
        for side, mean in ((self.a, self.bits_per_byte_a), (self.b, self.bits_per_byte_b)):
            for run in side.runs:
                bits, how = (
                    self.bits_per_byte(run),
                    f"{run.tokenizer}, {run.context_length:,}, {run.stride:,}",
                )
                lines.append(
                    f"{run.name:<{wide}} {bits:>9.4f} {run.loss_nats:>10.4f} {run.tokens:>10,}  {how}"
                )
            if len(side.runs) > 1:
                lines.append(f"{side.name:<{wide}} {mean:>9.4f} {side.loss_nats:>10.4f}  mean")
        lines += ["", self.verdict, *self.notes]
        left_out = self.bytes_total - self.bytes_scored
        of = f"{self.bytes_scored:,} of {plural(self.bytes_total, 'byte')}"
        lines.append(
            f"scored by {'all' if len(rows) > 2 else 'both'}: {of}" + ("" if left_out else ", all of them")
        )
        lines += [f"repeated: {repeated}"] if (repeated := self.repetition.sentence) else []
        lines += self.account.lines() if self.account else []
        for side, spans in ((self.a, self.a_wins), (self.b, self.b_wins)):
            if spans:
                lines += ["", f"where {side.short} saves the most bits:"]
            lines += [f"  {abs(span.difference):6.1f} bits  {span.text!r}" for span in spans]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For a notebook: the table and the heat map."""
        return notebook("comparison_part.html", **page_values(self))

    def write_html(self, path: str | os.PathLike) -> None:
        """Writes one self-contained page: the numbers, and the text as a heat map of the differences."""
        title = f"{self.a.name} or {self.b.name}?"
        write_page(path, "comparison.html", title=title, **page_values(self))


def places_of(value: float) -> int:
    """Decimals, at least four, that show two digits of a value, so that no difference is shown as 0.0000."""
    return 4 if value == 0 else min(12, max(4, 1 - math.floor(math.log10(abs(value)))))


def shown_number(value: float, places: int, sign: Literal["", "+"] = "") -> str:
    """A number with this many decimals; zero has no sign."""
    shown = f"{value:{sign},.{places}f}"
    return shown if shown.strip("+-0.") else f"{0:.{places}f}"


def page_values(comparison: Comparison) -> dict[str, Any]:
    """What comparison_part.html shows."""
    return {
        "comparison": comparison,
        "documents": (_heat(each) for each in comparison.atoms),
        "left_out": comparison.bytes_total - comparison.bytes_scored,
    }


def _heat(atoms: Atoms) -> Iterator[Any]:
    """A document's atoms as spans: warm where A paid more, cool where B did."""
    differences = (atoms.bits_a - atoms.bits_b).tolist()
    bounds = atoms.bounds.tolist()
    for place, difference in enumerate(differences):
        text = atoms.text[bounds[place] : bounds[place + 1]].decode("utf-8", errors="backslashreplace")
        hint = f"A {atoms.bits_a[place]:.2f} bits, B {atoms.bits_b[place]:.2f} bits"
        level = colour_level(abs(difference) * math.log(2), 10.0)
        yield token_span(text, level, kind=" cool" if difference < 0 else "", hint=hint)
