"""The one way from texts to nats: a model, its tokenizer and documents come in, scored tokens go out.

T inputs of a window, S stride, N scored tokens, C channels, V vocabulary. Evaluation, explanation,
comparison, compression and the samples of a training read this stream, so that their numbers agree.
"""

import contextlib
import typing
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lucidlm.errors import ConfigError, DataError, NumbersError, WeightsError
from lucidlm.measure.protocol import LUCID, SIDE_BY_SIDE, Counted, Protocol
from lucidlm.measure.windows import Window, course_windows, guide_windows, harness_windows, lucid_windows
from lucidlm.model.loss import cross_entropy
from lucidlm.model.reader import reader_of
from lucidlm.runtime.device import autocast, dtype_name, dtype_of
from lucidlm.text.excerpts import Excerpt, as_excerpt
from lucidlm.text.tokenizer import Tokenizer

LOGITS_BYTES = 32 * 2**20
"""The most that logits may take: the head runs over a batch's scored places in pieces."""
READER_LOGITS_BYTES = 50 * 2**20
"""The same for a Reader in bfloat16: 512 rows of GPT-2's, half a window, for which the head is cast once."""
PIECE_BYTES = 4 * 2**20
"""Logits are handed on in pieces that fit into a CPU's cache, as each reader goes over them several times."""
BATCH_TOKENS = 2048
"""Tokens of a batch unless a batch size is given; larger batches take more memory and are not faster."""

Document = str | np.ndarray | Excerpt
"""A text; or its ids (N,), without end-of-text; or a piece of a text with the ids before it."""


class Predictor(typing.Protocol):
    """All that measuring needs of a model: `GPT` is one, and so may be a model of others."""

    @property
    def vocab_size(self) -> int:
        """V, the number of logits; ids beyond the tokenizer's are padding."""

    @property
    def context_length(self) -> int:
        """The largest number of ids that `hidden` takes at once."""

    @property
    def document_prefix_id(self) -> int | None:
        """The id before each document in training, which predicts its first token; None: there was none."""

    @property
    def device(self) -> torch.device:
        """Where `hidden` takes its ids."""

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Hidden states (N, C) -> logits (N, V)."""

    def hidden(self, ids: Tensor, /) -> Tensor:
        """Ids (B, T) -> hidden states (B, T, C), where none depends on a later id."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Consecutive tokens of a document: their logits, and what they cost."""

    window: Window
    """Where they were scored: what else the model read with them."""
    position: int
    """Index in its window of the first of these tokens: it was predicted from position + 1 inputs."""
    logits: Tensor
    """(N, V), float32 or float64; perhaps less one number a row, which changes no probability."""
    targets: Tensor  # (N,)
    nats: Tensor
    """-ln p of each of these tokens: (N,), finite."""

    @property
    def document(self) -> int:
        """Number of their document."""
        return self.window.document

    @property
    def start(self) -> int:
        """Index in the document of the first of these tokens."""
        return self.window.place + self.position - self.window.first

    @property
    def weight(self) -> float:
        """How much each of them counts."""
        return self.window.weight

    @property
    def exact_nats(self) -> Tensor:
        """The nats in float64 on the CPU, as they are added up (not every GPU has float64)."""
        return self.nats.cpu().double()


class Scorer:
    """Scores documents with one model by one protocol, after it has checked that they belong together.

    `context_length`, `stride` and `prefix_id` are the protocol's, or the model's where it leaves them out.
    """

    def __init__(self, model: Predictor, tokenizer: Tokenizer, protocol: Protocol = LUCID) -> None:
        """ConfigError for windows that the model cannot read, WeightsError for another model's tokenizer."""
        self.model, self.tokenizer, self.protocol = model, tokenizer, protocol
        self.dtype = dtype_of(protocol.dtype)
        self.reader = reader_of(model) if self.dtype == torch.bfloat16 else None
        """What reads instead of the model under autocast, where there is one."""
        self.context_length, self.stride = _window_of(model, protocol)
        self.prefix_id = _prefix_of(model, tokenizer, protocol)
        if self.prefix_id is not None and self.prefix_id >= model.vocab_size:
            raise WeightsError(
                f"the model's vocabulary of {model.vocab_size:,} has no id {self.prefix_id}, the "
                f"end-of-text of tokenizer {tokenizer.name}; give --prefix none, or the model's own tokenizer"
            )

    def counted(self, *, in_pieces: bool = False) -> Counted:
        """The record of how this scorer counts."""
        weights = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        # Without autocast, matmuls run in the dtype of the weights.
        dtype = weights.dtype if weights is not None and self.dtype == torch.float32 else self.dtype
        return Counted(
            self.protocol.name,
            self.context_length,
            self.stride,
            "none" if self.prefix_id is None else "end-of-text",
            dtype_name(dtype),
            self.model.device.type,
            in_pieces and self.protocol.name == "lucid",
        )

    def encoded(self, document: Document) -> Excerpt:
        """The ids of a document; all of them are tokens of this model and its tokenizer.

        Where the tokenizer may change a text, the text is kept with its ids: the ids of an NFC tokenizer
        spell two bytes for an é that was three.
        """
        if isinstance(document, str):
            ids = np.asarray(self.tokenizer.encode(document), self.tokenizer.dtype)
            document = Excerpt(ids, text=None if self.tokenizer.lossless else document)
        excerpt = as_excerpt(document)
        largest = int(excerpt.ids.max()) if len(excerpt.ids) else 0
        if largest >= self.model.vocab_size:
            raise WeightsError(
                f"the text has token id {largest}, but the model has a vocabulary of "
                f"{self.model.vocab_size:,}: tokenizer {self.tokenizer.name} belongs to another model"
            )
        if largest >= self.tokenizer.vocab_size:
            raise DataError(
                f"the text has token id {largest}, but tokenizer {self.tokenizer.name} ends at "
                f"{self.tokenizer.vocab_size - 1}: larger ids are padding of the model; encode the text again"
            )
        return excerpt

    def windows(self, documents: Iterable[Excerpt]) -> Iterator[Window]:
        """The windows of the protocol, document after document."""
        context, name = self.context_length, self.protocol.name
        if name == "lucid":
            return lucid_windows(
                documents, context_length=context, stride=self.stride, prefix_id=self.prefix_id
            )
        ids = (document.ids for document in documents)  # others see nothing before a piece
        if name == "hf-guide":
            return guide_windows(ids, context_length=context, stride=self.stride)
        if name == "batch-mean":
            return course_windows(ids, context_length=context, batch_size=self.protocol.batch_size or 2)
        assert self.prefix_id is not None, "the harness always has a prefix"
        return harness_windows(ids, context_length=context, prefix_id=self.prefix_id)

    def pieces(self, documents: Iterable[Document]) -> Iterator[Scored]:
        """Every scored token, in pieces. The pieces of a window follow one another."""
        for batch in self.batches(documents):
            yield from self.scored(batch)

    def batches(self, documents: Iterable[Document]) -> Iterator[list[Window]]:
        """The windows of all documents, in batches.

        The shorter windows of a batch are padded at their ends: no place depends on a later one.
        """
        batch: list[Window] = []
        batch_size = self.protocol.batch_size
        for window in self.windows(map(self.encoded, documents)):
            batch.append(window)
            batch_size = batch_size or max(1, BATCH_TOKENS // len(window.ids))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def nats_of(self, window: Window) -> Tensor:
        """Losses of the scored tokens of one window: (N,), float64."""
        return torch.cat([piece.exact_nats for piece in self.scored([window])])

    def scored(self, batch: list[Window]) -> Iterator[Scored]:
        """The scored tokens of a batch, in pieces: its logits are never in memory at once.

        NumbersError where a loss is NaN or infinite.
        """
        model = self.model
        longest = max(len(window.ids) for window in batch) - 1
        inputs = torch.zeros(len(batch), longest, dtype=torch.int64)
        for row, window in enumerate(batch):
            inputs[row, : len(window.ids) - 1] = torch.from_numpy(window.ids[:-1])
        first = min(window.first for window in batch)
        hidden = self._hidden(inputs.to(model.device), first)  # (B, T - first, C)
        # As many rows as fit in this dtype: the head's weights are cast in each call, which takes as long as
        # the matmul of 40 to 100 rows.
        most = LOGITS_BYTES if self.reader is None else READER_LOGITS_BYTES
        at_once = max(1, most // (self.dtype.itemsize * model.vocab_size))
        for row, window in enumerate(batch):
            targets = torch.from_numpy(window.ids[1:]).to(model.device)
            for begin in range(window.first, len(targets), at_once):
                expected = targets[begin : begin + at_once]
                rows = hidden[row, begin - first :][: len(expected)]  # padding begins there
                yield from self._handed_on(window, begin, rows, expected)

    def _hidden(self, ids: Tensor, first: int) -> Tensor:
        """Hidden states of the places from `first` on: (B, T) -> (B, T - first, C)."""
        if self.reader is not None:
            return self.reader.hidden(ids, first=first)
        with evaluating(self.model, self.dtype):
            return self.model.hidden(ids)[:, first:]

    def _logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        if self.reader is not None:
            return self.reader.logits(hidden, targets)
        with evaluating(self.model, self.dtype):
            return self.model.head(hidden)

    def _handed_on(self, window: Window, position: int, hidden: Tensor, targets: Tensor) -> Iterator[Scored]:
        """The tokens of consecutive places of a window; at the end, their logits are freed."""
        logits = self._logits(hidden, targets)  # (N, V)
        count = max(1, PIECE_BYTES // (4 * self.model.vocab_size))
        for first, piece in zip(range(0, len(logits), count), logits.split(count), strict=True):
            yield self._piece(window, position + first, piece, targets[first : first + count])

    def _piece(self, window: Window, position: int, logits: Tensor, targets: Tensor) -> Scored:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        piece = Scored(window, position, logits, targets, cross_entropy(logits, targets))
        if not piece.nats.isfinite().all():
            raise NumbersError(_not_finite(self.model, piece))
        return piece


@contextlib.contextmanager
def evaluating(model: Predictor, dtype: torch.dtype) -> Generator[None]:
    """No dropout, no gradients, matmuls in dtype; then the model is as before. Draws no random number."""
    module = model if isinstance(model, nn.Module) else None
    was_training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        with torch.inference_mode(), autocast(model.device, dtype):
            yield
    finally:
        if module is not None:
            module.train(was_training)


def _window_of(model: Predictor, protocol: Protocol) -> tuple[int, int]:
    """Context and stride with their defaults: the model's context, and half of it."""
    limit, context, stride = model.context_length, protocol.context_length, protocol.stride
    context = limit if context is None else context
    if not 1 <= context <= limit:
        raise ConfigError(f"--context-length {context}: this model takes 1 to {limit} tokens")
    if protocol.name in SIDE_BY_SIDE:
        return context, context
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ConfigError(f"--stride {stride}: it must be from 1 to the context length {context}")
    return context, stride


def _prefix_of(model: Predictor, tokenizer: Tokenizer, protocol: Protocol) -> int | None:
    """The id before each document, if any: the model's own; the harness always has the tokenizer's."""
    if protocol.name in ("hf-guide", "batch-mean") or protocol.prefix == "none":
        return None
    if protocol.name != "lm-eval":
        return model.document_prefix_id
    if tokenizer.begin_of_text is not None:
        raise ConfigError(
            "--protocol lm-eval: this tokenizer puts a token of its own before each text, which the "
            "harness then scores as if it were text; use lucid"
        )
    if tokenizer.end_of_text is None:
        raise ConfigError(
            f"--protocol lm-eval: the harness puts end-of-text first, {tokenizer.name} has none; use lucid"
        )
    return tokenizer.end_of_text


def _not_finite(model: Predictor, piece: Scored) -> str:
    """The place of the first loss that is not finite, and the weight that may have caused it."""
    at = int((~piece.nats.isfinite()).nonzero()[0])
    message = (
        f"the logits at token {piece.start + at:,} of document {piece.document + 1:,} hold NaN or infinity: "
        f"the loss there is {piece.nats[at].item()}"
    )
    if not isinstance(model, nn.Module):
        return message
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"{message}; so does the weight {name}: take another checkpoint"
    return f"{message}; all weights are finite, so a dtype overflows: try --dtype float32"
