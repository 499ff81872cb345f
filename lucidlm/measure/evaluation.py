"""How well a model predicts a text: a model, a tokenizer and a text in, sums of nats, tokens and bytes out.

T inputs of a window, S stride, V vocabulary. The protocol, docs/measure.md: each token of a document is
scored once, with at least T - S tokens before it where the document has them.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.diagnosis import Diagnosis, Findings
from lucidlm.measure.intervals import STRATA, Design, Interval, interval_of_ratio
from lucidlm.measure.protocol import (
    PROTOCOLS,
    Protocol,
    course_windows,
    guide_windows,
    harness_windows,
)
from lucidlm.measure.scoring import Scored, Window, checked_window, prefix_of, scored_logits, windows_of
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import cross_entropy, perplexity
from lucidlm.pages.page import notebook
from lucidlm.runtime.device import dtype_name
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.ranges import Range
from lucidlm.runtime.wording import fixed, plural
from lucidlm.text.account import Account
from lucidlm.text.corpus import FEW_TOKENS
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.excerpts import Excerpt, as_excerpt
from lucidlm.text.reading import READING, Reading
from lucidlm.text.repetition import Repetition, RepetitionCount
from lucidlm.text.tokenizer import Tokenizer

BATCH_SIZES = Range(1, 2**16)
MOST_UNITS = 5000
"""More units than these are not stored with a result: a gate has its interval without them."""
ProtocolName = Literal["lucid", "lm-eval", "hf-guide", "batch-mean"]


def encoded(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Excerpt]:
    """Texts as `evaluate_documents` wants them.

    With a tokenizer that may change a text they keep it, and bytes and words are counted of it: of an NFC
    tokenizer's é two bytes are spelled, where three may have been read.
    """
    for text in texts:
        ids = np.asarray(tokenizer.encode(text), tokenizer.dtype)
        yield Excerpt(ids, text=None if tokenizer.lossless else text)


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
    protocol: Protocol
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
    model: GPT,
    tokenizer: Tokenizer,
    text: str | None = None,
    *,
    path: str | None = None,
    protocol: ProtocolName = "lucid",
    context_length: int | None = None,
    stride: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Evaluation:
    """How well the model predicts a text, or the documents at a path (a file, a folder, a pattern, a URL).

    A text that is given as a string is cleaned as a file is (line ends become LF, a byte order mark and
    Project Gutenberg's frame go, unless `reading.raw`), so that both have one number; `account` says what was
    left out.
    Each document is scored alone, every token once: see docs/measure.md. Other protocols reproduce how others
    count, and the result says what that does differently: `lm-eval` the evaluation harness, `hf-guide` the
    transformers guide, `batch-mean` the course's first code (whole batches, of 2 windows unless said).
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
    evaluation = evaluate_documents(
        model,
        tokenizer,
        encoded(tokenizer, texts),
        protocol=protocol,
        context_length=context_length,
        stride=stride,
        prefix=prefix,
        batch_size=batch_size,
        dtype=dtype,
        progress=progress,
    )
    return replace(evaluation, account=account)


def evaluate_documents(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[np.ndarray | Excerpt],
    *,
    design: Design | None = None,
    fraction: float = 0.0,
    protocol: str = "lucid",
    context_length: int | None = None,
    stride: int | None = None,
    prefix: str = "auto",
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    token_counts: np.ndarray | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """`evaluate` for documents that are token ids already: (N,), without end-of-text, or excerpts.

    `design` says how the documents were come by, which decides the interval: "strata" are the pieces of a
    stratified sample of a text, "documents" several texts, "pages" one text that goes on (default: documents
    where there are two or more); `fraction` is the share of the text that the pieces are. Other people's
    protocols see nothing before a piece.
    `token_counts` (V,), how often each id stands in the training text, groups the losses by frequency.
    """
    if batch_size is not None and batch_size not in BATCH_SIZES:
        raise ConfigError(f"--batch-size {batch_size}: it must be {BATCH_SIZES}")
    plan = _plan(model, tokenizer, protocol, context_length, stride, prefix, batch_size)
    if plan.prefix_id is not None and plan.prefix_id >= model.config.vocab_size:
        raise WeightsError(
            f"the model's vocabulary of {model.config.vocab_size:,} has no id {plan.prefix_id}, the "
            f"end-of-text of tokenizer {tokenizer.name}; give --prefix none, or the model's own tokenizer"
        )
    counts = _Counts(model, tokenizer, plan.context_length, progress)
    scored = scored_logits(
        model, plan.windows(counts.watch(documents)), batch_size=plan.batch_size, dtype=dtype
    )
    progress.stage("scoring tokens")
    for piece in scored:
        counts.add(piece)
    number_type = dtype_name(dtype if dtype != torch.float32 else model.head.weight.dtype)
    first = "none" if plan.prefix_id is None else "end-of-text"
    in_pieces = design in STRATA and protocol == "lucid"
    device = model.device.type
    how = Protocol(protocol, plan.context_length, plan.stride, first, number_type, device, in_pieces)
    return counts.evaluation(how, token_counts, design, fraction)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A protocol with all its settings known."""

    context_length: int
    stride: int
    prefix_id: int | None
    batch_size: int | None
    windows: Callable[[Iterable[Excerpt]], Iterator[Window]]


def _plan(
    model: GPT,
    tokenizer: Tokenizer,
    protocol: str,
    context_length: int | None,
    stride: int | None,
    prefix: str,
    batch_size: int | None,
) -> _Plan:
    """What the protocol's name and the settings mean; ConfigError where they contradict each other."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol {protocol}: not known; there are {', '.join(PROTOCOLS)}")
    if stride is not None and protocol in ("lm-eval", "batch-mean"):
        raise ConfigError(f"--stride {stride}: {protocol} sets its windows side by side; leave --stride out")
    context, stride = checked_window(model, context_length, stride)
    prefix_id = prefix_of(model, prefix)
    if protocol == "lm-eval":
        if tokenizer.begin_of_text is not None:
            raise ConfigError(
                "--protocol lm-eval: this tokenizer puts a token of its own before each text, which the "
                "harness then scores as if it were text; use lucid"
            )
        # The harness always puts a token first, whatever the model was trained with.
        prefix_id = tokenizer.end_of_text
        if prefix_id is None or prefix == "none":
            raise ConfigError(
                "--protocol lm-eval: the harness puts end-of-text first, "
                + ("leave --prefix none out" if prefix == "none" else f"{tokenizer.name} has none; use lucid")
            )
        return _Plan(context, context, prefix_id, batch_size, lambda documents: harness_windows(
            _ids(documents), context_length=context, prefix_id=prefix_id))  # fmt: skip
    if protocol == "hf-guide":
        return _Plan(context, stride, None, batch_size, lambda documents: guide_windows(
            _ids(documents), context_length=context, stride=stride))  # fmt: skip
    if protocol == "batch-mean":
        return _Plan(context, context, None, batch_size, lambda documents: course_windows(
            _ids(documents), context_length=context, batch_size=batch_size or 2))  # fmt: skip
    return _Plan(context, stride, prefix_id, batch_size, lambda documents: windows_of(
        documents, context_length=context, stride=stride, prefix_id=prefix_id))  # fmt: skip


def _ids(documents: Iterable[Excerpt]) -> Iterator[np.ndarray]:
    return (document.ids for document in documents)


class _Counts:
    """Tokens, bytes and words of the documents that go by, and of those of their tokens that were scored."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, context_length: int, progress: Progress) -> None:
        self.model, self.tokenizer, self.progress = model, tokenizer, progress
        self.context_length = context_length
        self.lengths = torch.from_numpy(tokenizer.token_lengths().astype(np.int64))
        self.tokens_total = self.bytes_total = self.bytes_spelled = self.words = self.documents = 0
        self.nats = self.tokens_scored = self.bytes_scored = 0.0
        self.bytes_a_spelled: list[float] = []
        """Of each document: bytes of its text for each that its tokens spell; 1 but for changed texts."""
        self.digest = hashlib.sha256()
        self.weighted = False
        self.repetition = RepetitionCount()
        self.blocks: list[list[float]] = []
        """[document, number in the document, nats, tokens, bytes] of each block of one context length."""
        self.findings = Findings(
            vocab_size=model.config.vocab_size,
            known_ids=tokenizer.vocab_size,
            context_length=context_length,
        )

    def watch(self, documents: Iterable[np.ndarray | Excerpt]) -> Iterator[Excerpt]:
        """The documents as they are read."""
        vocab_size = self.model.config.vocab_size
        for document in documents:
            excerpt = as_excerpt(document)
            ids = excerpt.ids
            if len(ids) and int(ids.max()) >= vocab_size:
                raise WeightsError(
                    f"the text has token id {int(ids.max())}, the model a vocabulary of {vocab_size:,}: "
                    f"tokenizer {self.tokenizer.name} is another model's"
                )
            if len(ids) and int(ids.max()) >= self.tokenizer.vocab_size:
                raise DataError(
                    f"the text has token id {int(ids.max())}, the tokenizer {self.tokenizer.name} ends at "
                    f"{self.tokenizer.vocab_size - 1}: beyond is the model's padding; encode the text again"
                )
            self.documents += 1
            self.tokens_total += len(ids)
            spelled = size = int(self.lengths[torch.from_numpy(ids.astype(np.int64))].sum())
            text = self.tokenizer.decode(ids) if excerpt.text is None else excerpt.text
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
        logits = piece.logits if piece.logits.dtype == torch.float64 else piece.logits.float()
        nats = cross_entropy(logits, piece.targets)
        exact = nats.cpu().double()
        total = exact.sum().item()
        if not math.isfinite(total):
            raise NumbersError(_not_finite(self.model, piece, exact))
        self.findings.add(logits, piece.targets, nats, piece.position)
        self.nats += piece.weight * total
        self.tokens_scored += piece.weight * len(nats)
        self.weighted = self.weighted or piece.weight != 1.0
        lengths = self.lengths[piece.targets.cpu()] * self.bytes_a_spelled[piece.document]
        self.bytes_scored += float(lengths.double().sum())
        self._add_to_blocks(piece, exact, lengths)
        self.progress.advance(len(nats))

    def _add_to_blocks(self, piece: Scored, nats: Tensor, lengths: Tensor) -> None:
        first = piece.start // self.context_length
        inside = (torch.arange(len(nats)) + piece.start) // self.context_length - first
        sums = torch.zeros(int(inside[-1]) + 1, 3, dtype=torch.float64)
        values = torch.stack((nats * piece.weight, torch.full_like(nats, piece.weight), lengths.double()), 1)
        for number, row in enumerate(sums.index_add_(0, inside, values).tolist(), start=first):
            if self.blocks and self.blocks[-1][:2] == [piece.document, number]:
                self.blocks[-1][2:] = [a + b for a, b in zip(self.blocks[-1][2:], row, strict=True)]
            else:
                self.blocks.append([piece.document, number, *row])

    def evaluation(
        self,
        protocol: Protocol,
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
            vocab_size=self.model.config.vocab_size,
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


def _not_finite(model: GPT, piece: Scored, nats: Tensor) -> str:
    """Where the first number that is none stands, and which weight it may come from."""
    at = int((~nats.isfinite()).nonzero()[0])
    message = (
        f"the logits at token {piece.start + at:,} of document {piece.document + 1:,} hold NaN or infinity: "
        f"the loss there is {nats[at].item()}"
    )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"{message}; so does the weight {name}: take another checkpoint"
    return f"{message}; all weights are finite, so a number type overflows: try --dtype float32"
