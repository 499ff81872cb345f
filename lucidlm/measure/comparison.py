"""Which of two models, or of two recipes, predicts a text better: runs and a text in, the difference out.

Bytes are what both have in common. A token's nats belong to the byte at which it starts; where tokens of both
start at the same byte, the text is cut into atoms, and the sums of two models over atoms can be compared.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lucidlm.errors import ConfigError, DataError
from lucidlm.measure.intervals import STRATA, Design, Interval, interval_of_ratio, interval_of_recipes
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.scoring import Predictor, Scorer
from lucidlm.measure.seen import Seen
from lucidlm.pages.page import colour_level, notebook, token_span, write_page
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.reading import READING, Reading
from lucidlm.text.repetition import Repetition, RepetitionCount
from lucidlm.text.tokenizer import Tokenizer

TOGETHER_BYTES = 1 << 20
"""About so much text is scored by one model before the other has its turn."""
SPAN_BYTES = 80
"""At least so long are the spans in which a model wins."""
LONGEST_WORD = 30
"""Bytes: where no blank is so near, a span is cut inside a word, as Chinese has none."""
SPANS = 5
BEFORE_CONTEXTS = 16
"""So many contexts of ids of another tokenizer are read before a piece: enough if each is a byte."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a document, and what it cost each model."""

    document: int
    start: int
    """Its first byte, and `end` the one behind its last."""
    end: int
    text: str
    bits_a: float
    bits_b: float

    @property
    def difference(self) -> float:
        """Bits that A paid more than B."""
        return self.bits_a - self.bits_b


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to score, and what stands before it: a piece of a book is read as in its place."""

    data: bytes
    excerpt: Excerpt | None = None
    """Its ids and those before it, where `tokenizer` made them; other models read the same bytes."""
    tokenizer: Tokenizer | None = None

    @classmethod
    def of_excerpt(cls, excerpt: Excerpt, tokenizer: Tokenizer) -> "Passage":
        """A run's own held-out piece: its run scores what evaluate scores."""
        data = excerpt.text.encode() if excerpt.text is not None else tokenizer.decode_bytes(excerpt.ids)
        return cls(data, excerpt, tokenizer)


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
    """One of the two: a model, or several runs of one recipe."""

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
        """Of the mean run."""
        return math.fsum(run.nats for run in self.runs) / len(self.runs)

    @property
    def tokens(self) -> int:
        """Scored by the first run."""
        return self.runs[0].tokens

    @property
    def loss_nats(self) -> float:
        """Nats per token of a run's own, in the mean."""
        return math.fsum(run.loss_nats for run in self.runs) / len(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        first = asdict(self.runs[0]) | {"name": self.name, "nats": self.nats, "loss_nats": self.loss_nats}
        return first | {"runs": [asdict(run) | {"loss_nats": run.loss_nats} for run in self.runs]}


@dataclass(frozen=True, slots=True)
class Atoms:
    """A document cut where tokens of all models start: `bounds` (n + 1,) bytes, mean bits (n,) of a side."""

    text: bytes
    bounds: np.ndarray
    bits_a: np.ndarray
    bits_b: np.ndarray


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
    no_interval: str
    recipes: Interval | None
    """The same of the recipes, with seeds and text as sources of variance; None under two runs of each."""
    repetition: Repetition
    a_wins: tuple[Span, ...]
    """Where A saves the most bits."""
    b_wins: tuple[Span, ...]
    atoms: tuple[Atoms, ...] = field(repr=False, compare=False)
    account: Account | None = field(default=None, compare=False)
    """What reading the text left out; None of texts that were read before."""
    same_model: bool = False
    """Both are one model: there is nothing to compare."""
    seen: Mapping[str, Seen | None] = field(default_factory=dict, compare=False)
    """Of each model: how much of the text it was trained on, None where that is not known."""

    @property
    def warnings(self) -> list[str]:
        """That a model was trained on this text, where it was: it belongs above every number."""
        return [seen.sentence for seen in self.seen.values() if seen and seen.sentence]

    def bits_per_byte(self, run: Run) -> float:
        """Of one run."""
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
        by = _number(abs(self.difference), _places(self.difference))
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
        places = _places(self.difference)
        if low <= 0 <= high:
            shown = f"{_number(self.difference, places, sign='+')} bits per byte"
            shown += f" ({of}: {_number(low, places, sign='+')} to {_number(high, places, sign='+')})"
            source, more = (
                ("these runs and this text", "More runs or more text")
                if self.of_recipes
                else ("this text", "More text")
            )
            difference = f"{self.a.short} minus {self.b.short} is {shown}"
            return f"No difference that {source} can show: {difference}. {more} might show one."
        better, other = (self.a, self.b) if self.difference < 0 else (self.b, self.a)
        least, most = (_number(end, places) for end in sorted((abs(low), abs(high))))
        by = f"by {_number(abs(self.difference), places)} bits per byte ({of}: {least} to {most})"
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
                "seed of the same recipe may turn it round. Two or more runs on each side, with other seeds, "
                "compare recipes: lucidlm compare A1,A2 B1,B2 TEXT"
            )
        caution = (f"Caution: {interval.caution}.",) if interval is not None and interval.caution else ()
        return (about, *caution)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        names = ("bits_per_byte_a", "bits_per_byte_b", "difference", "bytes_scored", "bytes_total")
        values = {
            name: getattr(self, name)
            for name in (*names, "documents", "same_model", "no_interval", "verdict", "notes")
        }
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
        return notebook("comparison_part.html", **_for_page(self))

    def write_html(self, path: str | os.PathLike) -> None:
        """One page that stands alone: the numbers, and the text as a heat map of the differences."""
        title = f"{self.a.name} or {self.b.name}?"
        write_page(path, "comparison.html", title=title, **_for_page(self))


Loaded = tuple[Predictor, Tokenizer]
Loads = Loaded | Sequence[Loaded]
"""A model with its tokenizer, or those of several runs of a recipe."""


def compare(
    a: Loads,
    b: Loads,
    text: str | None = None,
    *,
    path: str | None = None,
    names: tuple[str | Sequence[str], str | Sequence[str]] = ("A", "B"),
    protocol: Protocol = LUCID,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Comparison:
    """Two models with their tokenizers, as `load` gives them, on a text or the documents at a path.

    Lists of several runs each compare recipes: seeds and text are then sources of variance, both. A run that
    is given twice is no second seed: ConfigError.
    A given text is cleaned as a file is: see `evaluate`.
    Each scores by evaluate's protocol, with its own context unless one is given; only bytes that all score
    count. Raises DataError where there are none, ConfigError for a tokenizer that changes the text.
    """
    if (text is None) == (path is None):
        raise ConfigError("compare takes either text=... or path=..., one of the two")
    account = Account()
    texts = (
        [given_text(text, account, reading=reading)]
        if text is not None
        else (text for _, text in read_texts([str(path)], account, reading=reading))
    )
    result = compare_texts(a, b, texts, names=names, protocol=protocol, progress=progress)
    return replace(result, account=account)


def compare_texts(
    a: Loads,
    b: Loads,
    texts: Iterable[str | Passage],
    *,
    design: Design | None = None,
    fraction: float = 0.0,
    names: tuple[str | Sequence[str], str | Sequence[str]] = ("A", "B"),
    protocol: Protocol = LUCID,
    progress: Progress = SILENT,
) -> Comparison:
    """`compare` for any number of documents, or of pieces of a book (`design` "strata").

    Without `design`, several are documents and one is cut into pages; `fraction` is the share of the book
    that the pieces are.
    """
    if protocol.name != "lucid":
        raise ConfigError(f"--protocol {protocol.name}: compare scores every token once; use lucid")
    judges = [
        _Judge(name, Scorer(*loaded, protocol))
        for side, called in ((a, names[0]), (b, names[1]))
        for loaded, name in _named(side, called)
    ]
    of_a = 1 if _is_one(a) else len(a)
    if len(judges) > 2:
        _refuse_equal_weights(judges)
    same_model = len(judges) == 2 and judges[0].is_same_model(judges[1])
    counted = RepetitionCount()
    atoms: list[Atoms] = []
    rows: list[np.ndarray] = []
    bytes_total = documents = 0
    progress.stage("comparing bytes")
    for group in _groups(texts):
        scores = [judge.scores(group) for judge in judges]
        for number, passage in enumerate(group):
            bytes_total += len(passage.data)
            counted.add(passage.data.decode("utf-8", "replace"))
            tokens = [each[number] for each in scores]
            if (common := _common(passage.data, tokens, of_a)) is not None:
                atoms.append(common)
                rows.append(_blocks(documents, common, tokens, judges))
            documents += 1
            progress.advance(len(passage.data))
    if not atoms:
        raise DataError(
            f"no byte of the {bytes_total:,} is scored by both models: give a longer text"
            + (" or leave --prefix none out" if protocol.prefix == "none" else "")
        )
    blocks = np.concatenate(rows)
    scored = blocks[np.flatnonzero(np.diff(blocks[:, 0], prepend=-1)), 0].astype(np.int64)
    nats, counts, design = _units(blocks, design)
    repetition = counted.repetition()
    # Pieces are a random sample of a book that repeats itself as much.
    same = None if design in STRATA else repetition.same_units(len(counts), scored)
    how: dict[str, Any] = {"design": design, "fraction": fraction, "same": same}
    bits = nats / math.log(2)
    interval, no_interval = interval_of_ratio(bits[:of_a].mean(0) - bits[of_a:].mean(0), counts, **how)
    if same_model:
        interval, no_interval = None, "both are the same model"
    recipes = None
    if min(of_a, len(judges) - of_a) > 1:
        recipes, _ = interval_of_recipes(bits[:of_a], bits[of_a:], counts, **how)
    runs = [judge.run(float(each.sum())) for judge, each in zip(judges, nats, strict=True)]
    kind = "recipe " if min(of_a, len(judges) - of_a) > 1 else ""
    return Comparison(
        a=_side(f"{kind}A", runs[:of_a]),
        b=_side(f"{kind}B", runs[of_a:]),
        bytes_scored=int(counts.sum()),
        bytes_total=bytes_total,
        documents=documents,
        interval=interval,
        no_interval=no_interval,
        recipes=recipes,
        repetition=repetition,
        a_wins=_best_spans(atoms, sign=-1),
        b_wins=_best_spans(atoms, sign=1),
        atoms=tuple(atoms),
        same_model=same_model,
    )


def _refuse_equal_weights(judges: "list[_Judge]") -> None:
    """ConfigError for a run that is given twice: as two seeds, it would make the interval too narrow."""
    for one, other in itertools.combinations(judges, 2):
        if _equal_weights(one.scorer.model, other.scorer.model):
            raise ConfigError(
                f"{one.name} and {other.name} have equal weights: one run is not two seeds; give each run "
                "once (lucidlm train --seed N makes others)"
            )


def _equal_weights(one: Predictor, other: Predictor) -> bool:
    """Whether all weights are equal, bit by bit."""
    if one is other:
        return True
    if not (isinstance(one, nn.Module) and isinstance(other, nn.Module)):
        return False
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        weight.dtype == theirs[name].dtype
        and weight.shape == theirs[name].shape
        and torch.equal(weight, theirs[name].to(weight.device))
        for name, weight in mine.items()
    )


def _places(value: float) -> int:
    """Decimals that show two digits of a value, four or more: a small difference is not shown as 0.0000."""
    return 4 if value == 0 else min(12, max(4, 1 - math.floor(math.log10(abs(value)))))


def _number(value: float, places: int, sign: Literal["", "+"] = "") -> str:
    """A number to so many decimals; zero has no sign."""
    shown = f"{value:{sign},.{places}f}"
    return shown if shown.strip("+-0.") else f"{0:.{places}f}"


def _is_one(side: Loads) -> bool:
    return not isinstance(side[0], tuple | list)


def _named(side: Loads, called: str | Sequence[str]) -> Iterator[tuple[Loaded, str]]:
    """Each run of a side with its name."""
    runs: Any = [side] if _is_one(side) else list(side)
    if isinstance(called, str):
        called = [called] if len(runs) == 1 else [f"{called}{number}" for number in range(1, len(runs) + 1)]
    if len(called) != len(runs):
        raise ConfigError(f"{len(called)} names for {plural(len(runs), 'run')}: give one each")
    return zip(runs, called, strict=True)


def _side(several: str, runs: list[Run]) -> Side:
    """One run has its own name; only where both sides have several runs are they called recipes."""
    name = runs[0].name if len(runs) == 1 else f"{several} ({plural(len(runs), 'run')})"
    return Side(name, tuple(runs))


def _units(rows: np.ndarray, design: Design | None) -> tuple[np.ndarray, np.ndarray, Design]:
    """Nats of each model (M, n) and bytes (n,) of each unit: documents or pieces, else blocks of one text."""
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))
    design = design or ("documents" if len(starts) > 1 else "pages")
    if design != "pages":
        rows = np.add.reduceat(rows, starts)
    return rows[:, 1:-1].T, rows[:, -1], design


def _groups(texts: Iterable[str | Passage]) -> Iterator[list[Passage]]:
    """Documents, about TOGETHER_BYTES at a time."""
    group: list[Passage] = []
    for text in texts:
        group.append(text if isinstance(text, Passage) else Passage(text.encode("utf-8")))
        if sum(len(each.data) for each in group) >= TOGETHER_BYTES:
            yield group
            group = []
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A document as one model reads it: where its scored tokens start, and their losses."""

    starts: np.ndarray
    nats: np.ndarray


class _Judge:
    """One model, and what it has read."""

    def __init__(self, name: str, scorer: Scorer) -> None:
        self.name, self.scorer, self.tokenizer = name, scorer, scorer.tokenizer
        self.lengths = scorer.tokenizer.token_lengths().astype(np.int64)
        self.tokens = self.read_tokens = self.read_bytes = 0

    @property
    def window_bytes(self) -> float:
        """Bytes that a window of this model holds, in the mean."""
        return self.scorer.context_length * self.read_bytes / max(1, self.read_tokens)

    def run(self, nats: float) -> Run:
        of = self.scorer
        return Run(self.name, nats, self.tokens, of.context_length, of.stride, self.tokenizer.name)

    def is_same_model(self, other: "_Judge") -> bool:
        """Whether both score every text alike: equal weights, read in the same way."""
        mine, theirs = self.scorer, other.scorer
        return (
            type(mine.model) is type(theirs.model)
            and getattr(mine.model, "config", None) == getattr(theirs.model, "config", None)
            and _equal_weights(mine.model, theirs.model)
            and self._same_tokenizer(other.tokenizer)
        )

    def scores(self, group: list[Passage]) -> list[_Tokens]:
        """The losses of all tokens of some documents."""
        excerpts = [self._read(passage) for passage in group]
        for passage, excerpt in zip(group, excerpts, strict=True):
            if self.tokenizer.decode_bytes(excerpt.ids) != passage.data:
                raise ConfigError(
                    f"tokenizer {self.tokenizer.name} changes the text, so its bytes cannot be compared with "
                    "another's; bring the text into its form first (NFC, most often), or take another model"
                )
            self.read_tokens += len(excerpt.ids)
            self.read_bytes += len(passage.data)
        # The first token is scored where something stands before it: the prefix, or the text before a piece.
        unscored = self.scorer.prefix_id is None
        skipped = [int(unscored and len(each.before) == 0) for each in excerpts]
        nats = [np.empty(max(0, len(each.ids) - skip)) for each, skip in zip(excerpts, skipped, strict=True)]
        for piece in self.scorer.pieces(excerpts):
            first = piece.start - skipped[piece.document]
            nats[piece.document][first : first + len(piece.nats)] = piece.exact_nats
        starts = [np.cumsum(self.lengths[each.ids]) - self.lengths[each.ids] for each in excerpts]
        return [
            _Tokens(start[skip:], losses) for start, skip, losses in zip(starts, skipped, nats, strict=True)
        ]

    def _read(self, passage: Passage) -> Excerpt:
        """A passage in ids of this model's tokenizer: those at hand where they are, else encoded."""
        if passage.excerpt is None or passage.tokenizer is None:
            return self.scorer.encoded(np.asarray(self.tokenizer.encode(passage.data), np.int64))
        if self._same_tokenizer(passage.tokenizer):
            return passage.excerpt
        before = passage.tokenizer.decode_bytes(
            passage.excerpt.before[-BEFORE_CONTEXTS * self.scorer.context_length :]
        )
        before = before.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character that was cut
        ids, read = (np.asarray(self.tokenizer.encode(data), np.int64) for data in (passage.data, before))
        return Excerpt(ids, read)

    def _same_tokenizer(self, other: Tokenizer) -> bool:
        mine, theirs = self.tokenizer, other
        if mine is theirs:
            return True
        if (mine.name, mine.vocab_size) != (theirs.name, theirs.vocab_size):
            return False
        return all(mine.token_bytes(id) == theirs.token_bytes(id) for id in range(mine.vocab_size))


def _common(data: bytes, tokens: list[_Tokens], of_a: int) -> Atoms | None:
    """The document from the first byte on at which scored tokens of all start; None where there is none."""
    starts = tokens[0].starts
    for each in tokens[1:]:
        starts = np.intersect1d(starts, each.starts)
    if len(starts) == 0:
        return None
    bits = np.stack(
        [np.add.reduceat(each.nats, np.searchsorted(each.starts, starts)) / math.log(2) for each in tokens]
    )
    return Atoms(data, np.append(starts, len(data)), bits[:of_a].mean(0), bits[of_a:].mean(0))


def _block_bytes(judges: list[_Judge]) -> int:
    """What the widest of the windows holds: neighbouring blocks are then nearly independent for both."""
    return max(1, round(max(judge.window_bytes for judge in judges)))


def _blocks(document: int, common: Atoms, tokens: list[_Tokens], judges: list[_Judge]) -> np.ndarray:
    """(document, nats of each model, bytes) of each block of a document, cut by byte offset."""
    size, first, end = _block_bytes(judges), int(common.bounds[0]), int(common.bounds[-1])
    count = (end - 1) // size - first // size + 1
    rows = np.zeros((count, len(judges) + 2))
    rows[:, 0] = document
    for column, (each, judge) in enumerate(zip(tokens, judges, strict=True), start=1):
        shared = each.starts >= first
        judge.tokens += int(shared.sum())
        blocks = each.starts[shared] // size - first // size
        rows[:, column] = np.bincount(blocks, each.nats[shared], minlength=count)
    edges = np.clip((np.arange(count + 1) + first // size) * size, first, end)
    rows[:, -1] = np.diff(edges)
    return rows


def _best_spans(atoms: list[Atoms], *, sign: int) -> tuple[Span, ...]:
    """The SPANS spans without overlap where sign * (bits of A - bits of B) is largest."""
    candidates: list[Span] = []
    for document, each in enumerate(atoms):
        gains = sign * (each.bits_a - each.bits_b)
        sums = np.concatenate(([0.0], np.cumsum(gains)))
        # From each atom to the first bound that makes it long enough, or to the end.
        ends = np.searchsorted(each.bounds, each.bounds[:-1] + SPAN_BYTES).clip(max=len(gains))
        starts, ends = _at_words(each, ends)
        totals = np.where(starts, sums[ends] - sums[:-1], 0.0)
        taken: list[tuple[int, int]] = []
        for start in np.argsort(-totals, kind="stable")[: 50 * SPANS].tolist():
            end = int(ends[start])
            if len(taken) == SPANS or totals[start] <= 0:
                break
            if all(end <= low or start >= high for low, high in taken):
                taken.append((start, end))
                candidates.append(_span(document, each, start, end))
    return tuple(sorted(candidates, key=lambda span: -sign * span.difference)[:SPANS])


def _at_words(atoms: Atoms, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which atoms a span may begin with, and the ends moved on: between words, where the text has blanks."""
    places = atoms.bounds - atoms.bounds[0]
    data = np.frombuffer(atoms.text[int(atoms.bounds[0]) : int(atoms.bounds[-1])], np.uint8)
    blank = np.isin(data, np.frombuffer(b" \n\t\r", np.uint8))
    between = np.ones(len(places), bool)
    inner = places[1:-1]
    between[1:-1] = blank[inner - 1] | blank[inner]
    numbers = np.arange(len(places))
    before = np.maximum.accumulate(np.where(between, numbers, 0))
    after = np.minimum.accumulate(np.where(between, numbers, len(places) - 1)[::-1])[::-1]
    near = places[numbers] - places[before] <= LONGEST_WORD
    on = after[ends]
    return (between | ~near)[:-1], np.where(places[on] - places[ends] <= LONGEST_WORD, on, ends)


def _span(document: int, atoms: Atoms, start: int, end: int) -> Span:
    low, high = int(atoms.bounds[start]), int(atoms.bounds[end])
    return Span(
        document=document,
        start=low,
        end=high,
        text=atoms.text[low:high].decode("utf-8", errors="backslashreplace"),
        bits_a=float(atoms.bits_a[start:end].sum()),
        bits_b=float(atoms.bits_b[start:end].sum()),
    )


def _for_page(comparison: Comparison) -> dict[str, Any]:
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
