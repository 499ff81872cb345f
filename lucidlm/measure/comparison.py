"""Which of two models predicts a text better, by how much, and where; their tokenizers may differ.

Bytes are what both have in common. A token's nats belong to the byte at which it starts; where tokens of both
start at the same byte, the text is cut into atoms, and the sums of two models over atoms can be compared.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from lucidlm.errors import ConfigError, DataError, NumbersError
from lucidlm.measure.intervals import Design, Interval, interval_of_ratio
from lucidlm.measure.page import colour_level, notebook, token_span, write_page
from lucidlm.measure.scoring import checked_window, prefix_of, scored_logits, windows_of
from lucidlm.measure.seen import Seen
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import cross_entropy
from lucidlm.runtime.progress import Progress
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.repetition import Repetition, RepetitionCount
from lucidlm.text.tokenizer import Tokenizer

TOGETHER_BYTES = 1 << 20
"""About so much text is scored by one model before the other has its turn."""
SPAN_BYTES = 80
"""At least so long are the spans in which a model wins."""
SPANS = 5


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
class Side:
    """One of the two models, on the bytes that both score."""

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
class Atoms:
    """A document cut where tokens of both models start: `bounds` (n + 1,) bytes, bits (n,) of each model."""

    text: bytes
    bounds: np.ndarray
    bits_a: np.ndarray
    bits_b: np.ndarray


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same bytes."""

    a: Side
    b: Side
    bytes_scored: int
    """Bytes that both score."""
    bytes_total: int
    documents: int
    interval: Interval | None
    """95 % interval of the difference in bits per byte; None where `no_interval` says why."""
    no_interval: str
    repetition: Repetition
    a_wins: tuple[Span, ...]
    """Where A is most bits cheaper than B."""
    b_wins: tuple[Span, ...]
    atoms: tuple[Atoms, ...] = field(repr=False, compare=False)
    account: Account | None = field(default=None, compare=False)
    """What reading the text left out; None of texts that were read before."""
    seen: Mapping[str, Seen | None] = field(default_factory=dict, compare=False)
    """Of each model: how much of the text it was trained on, None where that is not known."""

    @property
    def warnings(self) -> list[str]:
        """That a model was trained on this text, where it was: it belongs above every number."""
        return [seen.sentence for seen in self.seen.values() if seen and seen.sentence]

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
    def verdict(self) -> str:
        """One sentence; that one is better is said only where the interval leaves 0 out."""
        if self.interval is None:
            more = "more" if self.difference > 0 else "less"
            shown = f"{abs(self.difference):.4f} bits per byte {more} than {self.b.name}"
            return f"{self.a.name} pays {shown}; {self.no_interval}."
        low, high = self.interval.low, self.interval.high
        of = f"95 % interval {self.interval.clause}"
        if low <= 0 <= high:
            shown = f"{self.difference:+.4f} bits per byte ({of}: {self.interval})"
            return f"No difference that this text can show: {shown}. More text might."
        better, other = (self.a, self.b) if self.difference < 0 else (self.b, self.a)
        least, most = sorted((abs(low), abs(high)))
        by = f"by {abs(self.difference):.4f} bits per byte ({of}: {least:.4f} to {most:.4f})"
        return f"{better.name} predicts this text better than {other.name}, {by}."

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        names = ("bits_per_byte_a", "bits_per_byte_b", "difference", "bytes_scored", "bytes_total")
        values = {name: getattr(self, name) for name in (*names, "documents", "no_interval", "verdict")}
        for name in ("a", "b"):
            side = getattr(self, name)
            values[name] = asdict(side) | {"loss_nats": side.loss_nats}
        values["interval"] = asdict(self.interval) if self.interval else None
        for name in ("a_wins", "b_wins"):
            values[name] = [asdict(span) | {"difference": span.difference} for span in getattr(self, name)]
        values["repetition"] = self.repetition.to_dict()
        values["seen_in_training"] = {
            name: seen.to_dict() if seen else None for name, seen in self.seen.items()
        }
        return values | (self.account.to_dict() if self.account else {})

    def __str__(self) -> str:
        """Both models, the difference, and the spans where each wins most."""
        wide = max(10, *(len(side.name) for side in (self.a, self.b)))
        lines = [*self.warnings, ""] if self.warnings else []
        lines += [
            f"{'model':<{wide}} {'bits/byte':>9} {'nats/token':>10} {'tokens':>10}  "
            "tokenizer, context, stride"
        ]
        for side, bits in ((self.a, self.bits_per_byte_a), (self.b, self.bits_per_byte_b)):
            lines.append(
                f"{side.name:<{wide}} {bits:>9.4f} {side.loss_nats:>10.4f} {side.tokens:>10,}  "
                f"{side.tokenizer}, {side.context_length:,}, {side.stride:,}"
            )
        lines += ["", self.verdict]
        left_out = self.bytes_total - self.bytes_scored
        of = f"{self.bytes_scored:,} of {self.bytes_total:,} bytes"
        lines.append(f"scored by both: {of}" + ("" if left_out else ", all of them"))
        lines += [f"repeated: {repeated}"] if (repeated := self.repetition.sentence) else []
        lines += self.account.lines() if self.account else []
        for side, other, spans in ((self.a, self.b, self.a_wins), (self.b, self.a, self.b_wins)):
            if spans:
                lines += ["", f"where {side.name} is most bits cheaper than {other.name}:"]
            lines += [f"  {abs(span.difference):6.1f} bits  {span.text!r}" for span in spans]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For a notebook: the table and the heat map."""
        return notebook("comparison_part.html", **_for_page(self))

    def write_html(self, path: str | os.PathLike) -> None:
        """One page that stands alone: the numbers, and the text as a heat map of the differences."""
        title = f"{self.a.name} or {self.b.name}?"
        write_page(path, "comparison.html", title=title, **_for_page(self))


def compare(
    a: tuple[GPT, Tokenizer],
    b: tuple[GPT, Tokenizer],
    text: str | None = None,
    *,
    path: str | None = None,
    names: tuple[str, str] = ("A", "B"),
    context_length: int | None = None,
    stride: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    encoding: str = "utf-8",
    progress: Progress | None = None,
) -> Comparison:
    """Two models with their tokenizers, as `load` gives them, on a text or the documents at a path.

    A given text is cleaned as a file is: see `evaluate`.
    Each scores by evaluate's protocol, with its own context unless one is given; only bytes that both score
    count. Raises DataError where there are none, ConfigError for a tokenizer that changes the text.
    """
    if (text is None) == (path is None):
        raise ConfigError("compare takes either text=... or path=..., one of the two")
    account = Account()
    texts = (
        [given_text(text, account)]
        if text is not None
        else (text for _, text in read_texts([str(path)], account, encoding=encoding))
    )
    result = compare_texts(
        a,
        b,
        texts,
        names=names,
        context_length=context_length,
        stride=stride,
        prefix=prefix,
        batch_size=batch_size,
        dtype=dtype,
        progress=progress,
    )
    return replace(result, account=account)


def compare_texts(
    a: tuple[GPT, Tokenizer],
    b: tuple[GPT, Tokenizer],
    texts: Iterable[str],
    *,
    names: tuple[str, str] = ("A", "B"),
    context_length: int | None = None,
    stride: int | None = None,
    prefix: str = "auto",
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Comparison:
    """`compare` for any number of documents."""
    judges = [
        _Judge(
            *each,
            context_length=context_length,
            stride=stride,
            prefix=prefix,
            batch_size=batch_size,
            dtype=dtype,
        )
        for each in (a, b)
    ]
    counted = RepetitionCount()
    atoms: list[Atoms] = []
    rows: list[np.ndarray] = []
    bytes_total = documents = 0
    for group in _groups(texts):
        of_a, of_b = (judge.scores(group) for judge in judges)
        for data, tokens_a, tokens_b in zip(group, of_a, of_b, strict=True):
            bytes_total += len(data)
            counted.add(data.decode("utf-8", "surrogatepass"))
            if (common := _common(data, tokens_a, tokens_b)) is not None:
                atoms.append(common)
                rows.append(_blocks(documents, common, tokens_a, tokens_b, judges))
            documents += 1
            if progress is not None:
                progress(bytes_total, None)
    if not atoms:
        raise DataError(
            f"no byte of the {bytes_total:,} is scored by both models: give a longer text"
            + (" or leave --prefix none out" if prefix == "none" else "")
        )
    blocks = np.concatenate(rows)  # document, nats of a, nats of b, bytes
    starts = np.flatnonzero(np.diff(blocks[:, 0], prepend=-1))
    scored = blocks[starts, 0].astype(np.int64)
    design: Design = "pages"
    if len(starts) > 1:
        blocks, design = np.add.reduceat(blocks, starts), "documents"
    bits = (blocks[:, 1] - blocks[:, 2]) / math.log(2)
    repetition = counted.repetition()
    same = repetition.same_units(len(blocks), scored)
    interval, no_interval = interval_of_ratio(bits, blocks[:, 3], design=design, same=same)
    return Comparison(
        a=judges[0].side(names[0], blocks[:, 1].sum()),
        b=judges[1].side(names[1], blocks[:, 2].sum()),
        bytes_scored=int(blocks[:, 3].sum()),
        bytes_total=bytes_total,
        documents=documents,
        interval=interval,
        no_interval=no_interval,
        repetition=repetition,
        a_wins=_best_spans(atoms, sign=-1),
        b_wins=_best_spans(atoms, sign=1),
        atoms=tuple(atoms),
    )


def _groups(texts: Iterable[str]) -> Iterator[list[bytes]]:
    """Documents' bytes, about TOGETHER_BYTES at a time."""
    group: list[bytes] = []
    for text in texts:
        group.append(text.encode("utf-8"))
        if sum(map(len, group)) >= TOGETHER_BYTES:
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
    """One model, its tokenizer and its windows."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        context_length: int | None,
        stride: int | None,
        prefix: str,
        batch_size: int | None,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context_length, self.stride = checked_window(model, context_length, stride)
        self.prefix_id = prefix_of(model, prefix)
        self.batch_size, self.dtype = batch_size, dtype
        self.lengths = tokenizer.token_lengths().astype(np.int64)
        self.tokens = self.read_tokens = self.read_bytes = 0

    @property
    def window_bytes(self) -> float:
        """Bytes that a window of this model holds, in the mean."""
        return self.context_length * self.read_bytes / max(1, self.read_tokens)

    def side(self, name: str, nats: float) -> Side:
        return Side(name, nats, self.tokens, self.context_length, self.stride, self.tokenizer.name)

    def scores(self, group: list[bytes]) -> list[_Tokens]:
        """The losses of all tokens of some documents."""
        documents = [np.asarray(self.tokenizer.encode(data), np.int64) for data in group]
        for data, ids in zip(group, documents, strict=True):
            if self.tokenizer.decode_bytes(ids) != data:
                raise ConfigError(
                    f"tokenizer {self.tokenizer.name} changes the text, so its bytes cannot be compared with "
                    "another's; bring the text into its form first (NFC, most often), or take another model"
                )
            self.read_tokens, self.read_bytes = self.read_tokens + len(ids), self.read_bytes + len(data)
        skipped = int(self.prefix_id is None)
        nats = [np.empty(max(0, len(ids) - skipped)) for ids in documents]
        windows = windows_of(
            documents, context_length=self.context_length, stride=self.stride, prefix_id=self.prefix_id
        )
        for piece in scored_logits(self.model, windows, batch_size=self.batch_size, dtype=self.dtype):
            losses = cross_entropy(piece.logits.float(), piece.targets).cpu().double().numpy()
            if not np.isfinite(losses).all():
                raise NumbersError(
                    f"the logits at token {piece.start:,} of document {piece.document + 1:,} hold NaN or "
                    "infinity: take another checkpoint"
                )
            first = piece.start - skipped
            nats[piece.document][first : first + len(losses)] = losses
        starts = [np.cumsum(self.lengths[ids]) - self.lengths[ids] for ids in documents]
        return [_Tokens(start[skipped:], losses) for start, losses in zip(starts, nats, strict=True)]


def _common(data: bytes, a: _Tokens, b: _Tokens) -> Atoms | None:
    """The document from the first byte on at which scored tokens of both start; None where there is none."""
    starts = np.intersect1d(a.starts, b.starts)
    if len(starts) == 0:
        return None
    bits = [np.add.reduceat(each.nats, np.searchsorted(each.starts, starts)) / math.log(2) for each in (a, b)]
    return Atoms(data, np.append(starts, len(data)), bits[0], bits[1])


def _block_bytes(judges: list[_Judge]) -> int:
    """What the wider of both windows holds: neighbouring blocks are then nearly independent for both."""
    return max(1, round(max(judge.window_bytes for judge in judges)))


def _blocks(document: int, common: Atoms, a: _Tokens, b: _Tokens, judges: list[_Judge]) -> np.ndarray:
    """(document, nats of a, nats of b, bytes) of each block of a document, cut by byte offset."""
    size, first, end = _block_bytes(judges), int(common.bounds[0]), int(common.bounds[-1])
    count = (end - 1) // size - first // size + 1
    rows = np.zeros((count, 4))
    rows[:, 0] = document
    for column, tokens, judge in ((1, a, judges[0]), (2, b, judges[1])):
        shared = tokens.starts >= first
        judge.tokens += int(shared.sum())
        blocks = tokens.starts[shared] // size - first // size
        rows[:, column] = np.bincount(blocks, tokens.nats[shared], minlength=count)
    edges = np.clip((np.arange(count + 1) + first // size) * size, first, end)
    rows[:, 3] = np.diff(edges)
    return rows


def _best_spans(atoms: list[Atoms], *, sign: int) -> tuple[Span, ...]:
    """The SPANS spans without overlap where sign * (bits of A - bits of B) is largest."""
    candidates: list[Span] = []
    for document, each in enumerate(atoms):
        gains = sign * (each.bits_a - each.bits_b)
        sums = np.concatenate(([0.0], np.cumsum(gains)))
        # From each atom to the first bound that makes it long enough, or to the end.
        ends = np.searchsorted(each.bounds, each.bounds[:-1] + SPAN_BYTES).clip(max=len(gains))
        totals = sums[ends] - sums[:-1]
        taken: list[tuple[int, int]] = []
        for start in np.argsort(-totals, kind="stable")[: 50 * SPANS].tolist():
            end = int(ends[start])
            if len(taken) == SPANS or totals[start] <= 0:
                break
            if all(end <= low or start >= high for low, high in taken):
                taken.append((start, end))
                candidates.append(_span(document, each, start, end))
    return tuple(sorted(candidates, key=lambda span: -sign * span.difference)[:SPANS])


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
