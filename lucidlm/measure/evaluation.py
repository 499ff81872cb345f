"""How well a model predicts a text: a model, a tokenizer and a text in, sums of nats, tokens and bytes out.

T inputs of a window, S stride, V vocabulary. The protocol, docs/measure.md: each token of a document is
scored once, with at least T - S tokens before it where the document has them.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import ConfigError, DataError
from lucidlm.measure.diagnosis import Diagnosis, Findings
from lucidlm.measure.intervals import STRATA, Design, Interval, interval_of_ratio
from lucidlm.measure.protocol import LUCID, Counted, Protocol
from lucidlm.measure.scoring import Document, Predictor, Scored, Scorer
from lucidlm.model.loss import perplexity
from lucidlm.pages.page import notebook
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import fixed, plural
from lucidlm.text.account import Account
from lucidlm.text.corpus import FEW_TOKENS
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.reading import READING, Reading
from lucidlm.text.repetition import Repetition, RepetitionCount
from lucidlm.text.tokenizer import Tokenizer

MOST_UNITS = 5000
"""More units than these are not stored with a result: a gate has its interval without them."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model predicts a text: sums, divided only when asked."""

    nats: float
    """Sum over the scored tokens of -ln p(token), added in float64."""
    tokens_scored: int
    tokens_total: int
    bytes_scored: int
    bytes_total: int
    bytes_spelled: int
    """What all tokens spell: other than `bytes_total` where the tokenizer changes the text."""
    words: int
    """Words of the whole text, as the evaluation harness counts them: what white space parts."""
    documents: int
    protocol: Counted
    design: Design
    """What the units of the interval are: pieces of one text (strata), documents, or pages in a row."""
    fraction: float
    """The share of the whole text that its pieces are (strata)."""
    units: np.ndarray = field(repr=False, compare=False)
    """Nats, tokens and bytes of each unit, in the order of the scored text: (n, 3)."""
    by_document: np.ndarray = field(repr=False, compare=False)
    """Nats, tokens and bytes of each document, of which nothing was scored too: (documents, 3)."""
    text_sha256: str
    """Of the documents' text: each one's length in bytes as decimals, a line end, and its bytes."""
    same: np.ndarray = field(repr=False, compare=False)
    """Of each unit: a number that it shares with its copies, which together are one unit of the interval."""
    repetition: Repetition
    loss_interval: Interval | None
    """95 % interval of the loss, nats per token; None where `no_interval` says why."""
    bits_interval: Interval | None
    """95 % interval of the bits per byte."""
    no_interval: str
    diagnosis: Diagnosis
    vocab_size: int
    account: Account | None = field(default=None, compare=False)
    """What reading the text left out of its files' bytes; None of a text that is token ids already."""
    sample_of: int | None = None
    """Tokens of the whole text where only a sample of it was evaluated; None where all was."""

    @property
    def caution(self) -> str:
        """What must stand beside each number: that it is of a sample, or of few tokens; "" for neither."""
        if self.sample_of is not None:
            return f"sample: {self.tokens_scored:,} of {plural(self.sample_of, 'token')}"
        return f"only {plural(self.tokens_scored, 'token')}" if self.tokens_scored < FEW_TOKENS else ""

    @property
    def certainty(self) -> str:
        """What is exact, what the intervals are of, and where they may fail; "" of a sample without one."""
        exact = "" if self.sample_of is not None else "the number of this text is exact"
        interval = self.loss_interval
        if interval is None:
            return exact
        of = f"the intervals are {interval.clause}"
        said = "; ".join(part for part in (exact, of) if part)
        return f"{said} ({interval.caution})" if interval.caution else said

    def without_intervals(self, reason: str) -> "Evaluation":
        """The same numbers, of which nothing is said but for this text; `reason` says why."""
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
        """exp(nats / words); NaN by a protocol that leaves parts of the text out, as words have no part."""
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
        # A protocol that weighs its windows scores no bytes of its own.
        rest = self.bytes_total - self.bytes_scored if self.bytes_scored else 0
        return left_out | ({"not_scored": rest} if rest else {})

    def to_dict(self) -> dict[str, Any]:
        """Flat and stable keys, for --json."""
        account = self.account or Account()
        derived = ("loss_nats", "perplexity", "bits_per_byte", "word_perplexity", "byte_perplexity")
        numbers = {key: getattr(self, key) for key in derived}
        apart = ("protocol", "diagnosis", "account", "units", "by_document", "same", "repetition")
        perplexities = self.perplexity_interval
        return (
            numbers
            | {"caution": self.caution, "certainty": self.certainty}
            | {key: value for key, value in asdict(self).items() if key not in apart}
            | account.to_dict()
            | {"bytes_as_utf8": account.read if self.account else self.bytes_total}
            | {"bytes_left_out": self.bytes_left_out}
            | {"units": self.units.tolist() if len(self.units) <= MOST_UNITS else None}
            | {"perplexity_interval": asdict(perplexities) if perplexities else None}
            | {"protocol": asdict(self.protocol) | {"difference": self.protocol.difference}}
            | {"diagnosis": asdict(self.diagnosis)}
            | {"repetition": self.repetition.to_dict()}
        )

    def rows(self) -> list[tuple[str, str, Interval | None]]:
        """The numbers a person wants: name, value, interval."""
        of = self.diagnosis
        mark = f" ({self.caution})" if self.caution else ""
        kind = "piece" if self.design in STRATA else "document"
        kind = kind if self.sample_of is None else "span of a sample"
        rows: list[tuple[str, str, Interval | None]] = [
            ("loss", f"{fixed(self.loss_nats, 4)} nats per token{mark}", self.loss_interval),
            ("perplexity", f"{fixed(self.perplexity, 2)}{mark}", self.perplexity_interval),
            ("bits per byte", f"{fixed(self.bits_per_byte, 4)}{mark}" if self.bytes_scored
             else "not counted by this protocol", self.bits_interval),
            ("first choice", f"right for {of.accuracy_at_1:.1%} of the tokens, one of the first five for "
                             f"{of.accuracy_at_5:.1%}{mark}", None),
            ("rank", f"median {of.median_rank:g}, mean {of.mean_rank:,.1f} of {self.vocab_size:,}", None),
            ("calibration", f"confidence and accuracy lie {of.calibration_error:.1%} apart{mark}", None),
            ("scored", f"{self.tokens_scored:,} of {plural(self.tokens_total, 'token')}, "
                       f"{self.bytes_scored:,} of "
                       f"{plural(self.bytes_total, 'byte')}, {plural(self.documents, kind)}", None),
        ]  # fmt: skip
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
            lines.append(self.no_interval)
        return "\n".join([*lines, str(self.protocol)])

    def _repr_html_(self) -> str:
        """For a notebook: the same as a table."""
        return notebook(
            "evaluation_part.html",
            rows=self.rows(),
            no_interval=self.no_interval,
            protocol=str(self.protocol),
        )


def evaluate(
    model: Predictor,
    tokenizer: Tokenizer,
    text: str | None = None,
    *,
    path: str | None = None,
    protocol: Protocol = LUCID,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Evaluation:
    """How well the model predicts a text, or the documents at a path (a file, a folder, a pattern, a URL).

    A text that is given as a string is cleaned as a file is (line ends become LF, a byte order mark and
    Project Gutenberg's frame go, unless `reading.raw`), so that both have one number; `account` says what was
    left out.
    Each document is scored alone, every token once: see docs/measure.md. Other protocols reproduce how others
    count, and the result says what that does differently.
    Raises DataError for a text without a token to score, ConfigError for a stride or context that cannot be,
    NumbersError for logits that are NaN.
    """
    account = Account()
    if text is not None and path is None:
        texts: Iterable[str] = [given_text(text, account, reading=reading)]
    elif path is not None and text is None:
        texts = (text for _, text in read_texts([path], account, reading=reading))
    else:
        raise ConfigError("evaluate takes either text=... or path=..., one of the two")
    evaluation = evaluate_documents(model, tokenizer, texts, protocol=protocol, progress=progress)
    return replace(evaluation, account=account)


def evaluate_documents(
    model: Predictor,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    protocol: Protocol = LUCID,
    design: Design | None = None,
    fraction: float = 0.0,
    token_counts: np.ndarray | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """`evaluate` for documents that have been read: texts, their ids (without end-of-text), or excerpts.

    `design` says how the documents were chosen, which decides the interval: "strata" are the pieces of a
    stratified sample of a text, "documents" several texts, "pages" one text that goes on (default: documents
    where there are two or more); `fraction` is the share of the text that the pieces are. Protocols of others
    see nothing before a piece.
    `token_counts` (V,), how often each id is in the training text, groups the losses by frequency.
    """
    scorer = Scorer(model, tokenizer, protocol)
    counts = _Counts(scorer, progress)
    progress.stage("scoring tokens")
    for piece in scorer.pieces(counts.watch(documents)):
        counts.add(piece)
    return counts.evaluation(scorer.counted(in_pieces=design in STRATA), token_counts, design, fraction)


class _Counts:
    """Tokens, bytes and words of the documents that go by, and of those of their tokens that were scored."""

    def __init__(self, scorer: Scorer, progress: Progress) -> None:
        self.scorer, self.progress = scorer, progress
        self.lengths = torch.from_numpy(scorer.tokenizer.token_lengths().astype(np.int64))
        self.tokens_total = self.bytes_total = self.bytes_spelled = self.words = self.documents = 0
        self.nats = self.tokens_scored = self.bytes_scored = 0.0
        self.bytes_a_spelled: list[float] = []
        """Per document: text bytes / bytes spelled by its tokens; 1 unless the tokenizer changes the text."""
        self.digest = hashlib.sha256()
        self.weighted = False
        self.repetition = RepetitionCount()
        self.blocks: list[list[float]] = []
        """[document, number in the document, nats, tokens, bytes] of each block of one context length."""
        self.findings = Findings(
            vocab_size=scorer.model.vocab_size,
            known_ids=scorer.tokenizer.vocab_size,
            context_length=scorer.context_length,
        )

    def watch(self, documents: Iterable[Document]) -> Iterator[Excerpt]:
        """The documents as they are read."""
        for document in documents:
            excerpt = self.scorer.encoded(document)
            ids = excerpt.ids
            self.documents += 1
            self.tokens_total += len(ids)
            spelled = size = int(self.lengths[torch.from_numpy(ids.astype(np.int64))].sum())
            text = self.scorer.tokenizer.decode(ids) if excerpt.text is None else excerpt.text
            if excerpt.text is not None:
                size = len(text.encode("utf-8"))
            data = text.encode("utf-8", "surrogatepass")
            self.digest.update(b"%d\n" % len(data) + data)
            self.bytes_total += size
            self.bytes_spelled += spelled
            self.bytes_a_spelled.append(size / spelled if spelled else 1.0)
            # An empty text is one word to the harness: what white space parts, not what it surrounds.
            self.words += len(re.split(r"\s+", text))
            self.repetition.add(text)
            yield excerpt

    def add(self, piece: Scored) -> None:
        """Counts the tokens of a piece."""
        exact = piece.exact_nats
        self.findings.add(piece.logits, piece.targets, piece.nats, piece.position)
        self.nats += piece.weight * exact.sum().item()
        self.tokens_scored += piece.weight * len(exact)
        self.weighted = self.weighted or piece.weight != 1.0
        lengths = self.lengths[piece.targets.cpu()] * self.bytes_a_spelled[piece.document]
        self.bytes_scored += float(lengths.double().sum())
        self._add_to_blocks(piece, exact, lengths)
        self.progress.advance(len(exact))

    def _add_to_blocks(self, piece: Scored, nats: Tensor, lengths: Tensor) -> None:
        first = piece.start // self.scorer.context_length
        inside = (torch.arange(len(nats)) + piece.start) // self.scorer.context_length - first
        sums = torch.zeros(int(inside[-1]) + 1, 3, dtype=torch.float64)
        values = torch.stack((nats * piece.weight, torch.full_like(nats, piece.weight), lengths.double()), 1)
        for number, row in enumerate(sums.index_add_(0, inside, values).tolist(), start=first):
            if self.blocks and self.blocks[-1][:2] == [piece.document, number]:
                self.blocks[-1][2:] = [a + b for a, b in zip(self.blocks[-1][2:], row, strict=True)]
            else:
                self.blocks.append([piece.document, number, *row])

    def evaluation(
        self,
        protocol: Counted,
        token_counts: np.ndarray | None,
        design: Design | None,
        fraction: float,
    ) -> Evaluation:
        """All of it; DataError where nothing was scored."""
        if self.tokens_scored == 0:
            # Two tokens without a prefix, one with: under that there is nothing to predict.
            rest = "the prefix is none" if protocol.prefix == "none" else "the text is empty"
            raise DataError(
                f"no token can be scored: {plural(self.tokens_total, 'token')} in "
                f"{plural(self.documents, 'document')} and {rest}; give a longer text"
                + {"batch-mean": " or a shorter context", "hf-guide": " or a longer context"}.get(
                    protocol.name, ""
                )
            )
        units, design = self._units(design)
        nats, tokens, sizes = units.T
        repetition = self.repetition.repetition()
        scored = np.unique(np.array(self.blocks)[:, 0]).astype(np.int64)
        # Pieces are a random sample of a book that repeats itself as much.
        same = np.arange(len(units)) if design in STRATA else repetition.same_units(len(units), scored)
        sample: dict[str, Any] = {"design": design, "fraction": fraction, "same": same}
        loss_interval, no_interval = interval_of_ratio(nats, tokens, **sample)
        if design == "pages" and loss_interval is None and repetition.mostly:
            no_interval = f"no 95 % interval: {repetition.of_sequences}"
        bits_interval = None
        # Windows that weigh less than they score have no bytes of their own: the guide counts none.
        if not self.weighted and self.bytes_scored > 0:
            bits_interval, _ = interval_of_ratio(nats / math.log(2), sizes, **sample)
        return Evaluation(
            nats=self.nats,
            tokens_scored=round(self.tokens_scored),
            tokens_total=self.tokens_total,
            bytes_scored=round(self.bytes_scored) if not self.weighted else 0,
            bytes_total=self.bytes_total,
            bytes_spelled=self.bytes_spelled,
            words=self.words,
            documents=self.documents,
            protocol=protocol,
            design=design,
            fraction=fraction,
            units=units,
            by_document=self._by_document(),
            text_sha256=self.digest.hexdigest(),
            same=same,
            repetition=repetition,
            loss_interval=loss_interval,
            bits_interval=bits_interval,
            no_interval=no_interval,
            diagnosis=self.findings.diagnosis(token_counts),
            vocab_size=self.scorer.model.vocab_size,
        )

    def _by_document(self) -> np.ndarray:
        """Nats, tokens and bytes of every document."""
        sums = np.zeros((self.documents, 3))
        blocks = np.array(self.blocks)
        np.add.at(sums, blocks[:, 0].astype(np.int64), blocks[:, 2:])
        return sums

    def _units(self, design: Design | None) -> tuple[np.ndarray, Design]:
        """Nats, tokens and bytes of each piece or document that was scored, or of each block of one text."""
        blocks = np.array(self.blocks)
        starts = np.flatnonzero(np.diff(blocks[:, 0], prepend=-1))
        design = design or ("documents" if len(starts) > 1 else "pages")
        return (blocks if design == "pages" else np.add.reduceat(blocks, starts))[:, 2:], design
