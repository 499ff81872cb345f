"""Why a loss is what it is: texts in, every token's probability, rank and alternatives out, and their mean.

The lecture's steps in its order: logits, softmax, the probabilities of the targets, their logarithms, the
mean, its negative; beside it the same number from torch.nn.functional.cross_entropy. N tokens, V vocabulary.
"""

import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lucidlm.errors import ConfigError, DataError
from lucidlm.measure.diagnosis import best_of, ranks_of
from lucidlm.measure.explained import (
    DIGITS,
    ExplainedText,
    ExplainedToken,
    ExplainedTokens,
    quoted,
    written,
)
from lucidlm.measure.protocol import LUCID, Counted, Protocol
from lucidlm.measure.scoring import Document, Predictor, Scored, Scorer
from lucidlm.measure.windows import with_prefix
from lucidlm.model.loss import log_softmax, perplexity, softmax
from lucidlm.pages.page import SHOWN_STEPS, notebook, write_page
from lucidlm.pages.tokens import colour_edges, token_view
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text
from lucidlm.text.reading import READING, Reading
from lucidlm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Explanation:
    """The loss of some texts, token by token."""

    texts: tuple[ExplainedText, ...]
    torch_loss_nats: float
    """The same mean from torch.nn.functional.cross_entropy on the same logits."""
    vocab_size: int
    protocol: Counted
    account: Account | None = field(default=None, compare=False)
    """What reading the texts left out; None of texts that were cleaned before."""

    @property
    def tokens(self) -> tuple[ExplainedToken, ...]:
        """All rows, one after the other."""
        return tuple(token for text in self.texts for token in text.tokens)

    @property
    def tokens_scored(self) -> int:
        """How many rows there are."""
        return sum(len(text.tokens) for text in self.texts)

    @property
    def loss_nats(self) -> float:
        """Mean of all rows, in nats per token: what `evaluate` reports."""
        return math.fsum(math.fsum(text.tokens.nats) for text in self.texts) / self.tokens_scored

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss_nats)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        texts = [_head(text) | {"tokens": [token.to_dict() for token in text.tokens]} for text in self.texts]
        return self._summary() | {"texts": texts}

    def json_lines(self) -> Iterator[str]:
        """`to_dict` as JSON, one line for each token: the JSON of a long text is never all in memory."""
        yield json.dumps(_finite(self._summary()), ensure_ascii=False)[:-1] + ', "texts": ['
        for number, text in enumerate(self.texts):
            yield json.dumps(_finite(_head(text)), ensure_ascii=False)[:-1] + ', "tokens": ['
            for place, token in enumerate(text.tokens, start=1):
                comma = "," if place < len(text.tokens) else ""
                yield json.dumps(_finite(token.to_dict()), ensure_ascii=False) + comma
            yield "]}" + ("," if number + 1 < len(self.texts) else "")
        yield "]}"

    def _summary(self) -> dict[str, Any]:
        return {
            "loss_nats": self.loss_nats,
            "perplexity": self.perplexity,
            "torch_loss_nats": self.torch_loss_nats,
            "tokens_scored": self.tokens_scored,
            "vocab_size": self.vocab_size,
            "protocol": asdict(self.protocol),
        } | (self.account.to_dict() if self.account else {})

    def lines(self) -> Iterator[str]:
        """A table for each text, then the lecture's steps from the probabilities to the perplexity."""
        for text in self.texts:
            yield from text.lines()
            yield ""
        yield from steps(self)

    def __str__(self) -> str:
        """All the lines."""
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        """For a notebook: the coloured text and the steps."""
        return notebook("explanation_live.html", explained=page_values(self))

    def write_html(self, path: str | os.PathLike, *, model: str = "a model") -> None:
        """Writes one self-contained page: coloured texts, the alternatives of each token, and the steps."""
        write_page(path, "explanation.html", **whole_page(self, model))


def explain(
    model: Predictor,
    tokenizer: Tokenizer,
    texts: str | Sequence[str],
    *,
    top_k: int = 5,
    protocol: Protocol = LUCID,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Explanation:
    """Every token's probability, rank, entropy, `top_k` best alternatives; rows average to evaluate's loss.

    Several texts are one batch, as in the lecture. Long ones are read in windows, as in `evaluate`, and all
    are cleaned as it does (line ends become LF). Raises DataError for a text without a token to score.
    """
    account = Account()
    texts = [texts] if isinstance(texts, str) else list(texts)
    read = [
        given_text(text, account, f"text {number}", reading=reading) for number, text in enumerate(texts, 1)
    ]
    explanation = explain_texts(model, tokenizer, read, top_k=top_k, protocol=protocol, progress=progress)
    return replace(explanation, account=account)


def explain_texts(
    model: Predictor,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    top_k: int = 5,
    protocol: Protocol = LUCID,
    progress: Progress = SILENT,
) -> Explanation:
    """`explain` for texts that have been cleaned."""
    work = explaining(model, tokenizer, texts, top_k=top_k, protocol=protocol)
    done = 0
    while True:
        try:
            now, total = next(work)
        except StopIteration as end:
            return end.value
        if done == 0:
            progress.stage("explaining tokens", total)
        progress.advance(now - done)
        done = now


def explaining(
    model: Predictor,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    *,
    top_k: int = 5,
    protocol: Protocol = LUCID,
) -> Generator[tuple[int, int], None, Explanation]:
    """`explain_texts` piece by piece, for who has other work between: tokens done and in all; returns it.

    A document may be given by its ids too.
    """
    if top_k < 0:
        raise ConfigError(f"--top-k {top_k}: it must be 0 or more")
    if not documents:
        raise DataError("there is no text to explain; give at least one")
    if protocol.name != "lucid":
        raise ConfigError(f"--protocol {protocol.name}: explain scores every token once; use lucid")
    scorer = Scorer(model, tokenizer, protocol)
    ids = [scorer.encoded(document).ids for document in documents]
    texts = [each if isinstance(each, str) else tokenizer.decode(of) for each, of in zip(documents, ids)]
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) < (1 if scorer.prefix_id is not None else 2):
            raise DataError(
                f"{text!r} is {plural(len(tokens), 'token')}: there is no token to predict"
                + (" after it; give a longer text" if len(tokens) else "; give some text")
            )
    columns = [_Columns(with_prefix(tokens, scorer.prefix_id), top_k, model.vocab_size) for tokens in ids]
    torch_nats, done, total = 0.0, 0, sum(len(each.given) for each in columns)
    for piece in scorer.pieces(ids):
        logits = piece.logits.float()
        torch_nats += F.cross_entropy(logits, piece.targets, reduction="none").double().sum().item()
        columns[piece.document].fill(piece, logits)
        done += len(piece.targets)
        yield done, total
    spell = speller(tokenizer)
    left_out = [spell(int(tokens[0])) if scorer.prefix_id is None else "" for tokens in ids]
    return Explanation(
        texts=tuple(
            ExplainedText(text, first, ExplainedTokens(each.all(), spell))
            for text, first, each in zip(texts, left_out, columns, strict=True)
        ),
        torch_loss_nats=torch_nats / total,
        vocab_size=model.vocab_size,
        protocol=scorer.counted(),
    )


class _Columns:
    """One text's rows as they come in: arrays of its length."""

    def __init__(self, sequence: np.ndarray, top_k: int, vocab_size: int) -> None:
        size, top_k = len(sequence) - 1, min(top_k, vocab_size)
        self.given, self.ids = sequence[:-1].astype(np.int32), sequence[1:].astype(np.int32)
        self.probability, self.log_probability, self.entropy = np.zeros((3, size), np.float32)
        self.rank = np.zeros(size, np.int32)
        self.alternative_ids = np.zeros((size, top_k), np.int32)
        self.alternative_probabilities = np.zeros((size, top_k), np.float32)
        self.filled = 0

    def fill(self, piece: Scored, logits: torch.Tensor) -> None:
        """The next rows, from their logits (N, V) in float32."""
        rows = slice(self.filled, self.filled + len(logits))
        log_probabilities = log_softmax(logits)
        probabilities = softmax(logits)  # not the logarithm's exponential, which would lose a digit
        of_target = piece.targets[:, None]
        best = best_of(logits, self.alternative_ids.shape[1])
        self.log_probability[rows] = log_probabilities.gather(1, of_target)[:, 0].cpu()
        self.probability[rows] = probabilities.gather(1, of_target)[:, 0].cpu()
        self.rank[rows] = ranks_of(logits, piece.targets).cpu()
        self.entropy[rows] = -(probabilities * log_probabilities).nan_to_num(0.0).sum(1).cpu()
        self.alternative_ids[rows] = best.cpu()
        self.alternative_probabilities[rows] = probabilities.gather(1, best).cpu()
        self.filled = rows.stop

    def all(self) -> dict[str, np.ndarray]:
        """The columns by their names in ExplainedToken."""
        assert self.filled == len(self.ids), "each token is scored once"
        running = np.cumsum(-self.log_probability.astype(np.float64)) / np.arange(1, self.filled + 1)
        return {
            "given_id": self.given,
            "id": self.ids,
            "probability": self.probability,
            "log_probability": self.log_probability,
            "rank": self.rank,
            "entropy": self.entropy,
            "running_loss_nats": running,
            "alternative_ids": self.alternative_ids,
            "alternative_probabilities": self.alternative_probabilities,
        }


def speller(tokenizer: Tokenizer) -> Callable[[int], str]:
    """A function that spells a token; parts of a character are \\x.., special and padded ids have names."""

    @cache
    def spell(id: int) -> str:
        if id == tokenizer.end_of_text:
            return "<|endoftext|>"
        if id >= tokenizer.vocab_size:
            return f"<id {id}>"
        return tokenizer.token_bytes(id).decode("utf-8", errors="backslashreplace")

    return spell


def _head(text: ExplainedText) -> dict[str, Any]:
    return {"text": text.text, "left_out": text.left_out, "loss_nats": text.loss_nats}


def whole_page(explanation: Explanation, model: str) -> dict[str, Any]:
    """What explanation.html shows of an explanation by this model."""
    return {
        "title": "Why the loss is what it is",
        "model": model,
        "loss_nats": explanation.loss_nats,
        "tokens_scored": explanation.tokens_scored,
        "explained": page_values(explanation),
    }


def page_values(explanation: Explanation) -> dict[str, Any]:
    """What explanation_part.html shows."""
    columns = [text.tokens.columns for text in explanation.texts]
    most = math.log(explanation.vocab_size)
    edges = {
        "nats": colour_edges(np.concatenate([text.tokens.nats for text in explanation.texts]), most),
        "entropy": colour_edges(np.concatenate([each["entropy"] for each in columns]), most),
    }
    return {
        "digits": json.dumps(DIGITS),
        "written": written,
        "tokens_scored": explanation.tokens_scored,
        "texts": [
            token_view(text.tokens.columns, text.tokens.spell, edges)
            | {"loss_nats": text.loss_nats, "first": text.first()}
            for text in explanation.texts
        ],
        "first": [
            asdict(token) | {"shown": quoted(token.text), "given_shown": quoted(token.given)}
            for token in _first(explanation, SHOWN_STEPS)
        ],
        # The first three of the steps are the table's own rows.
        "steps": step_rows(explanation)[3:],
        "protocol": str(explanation.protocol),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Infinity as null: JSON has no word for it."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def steps(explanation: Explanation, *, shown: int = 6) -> list[str]:
    """From the targets' probabilities to the perplexity, one step a line, torch's own number last but one."""
    return [*(f"{name:<30} {value}" for name, value in step_rows(explanation, shown=shown)),
            *(explanation.account.lines() if explanation.account else []),
            str(explanation.protocol)]  # fmt: skip


def step_rows(explanation: Explanation, *, shown: int = 6) -> list[tuple[str, str]]:
    """Name and value of each of the lecture's steps."""
    first = _first(explanation, shown)
    loss, count = explanation.loss_nats, explanation.tokens_scored
    more = f"  ... {count:,} in all" if count > len(first) else ""
    difference = abs(loss - explanation.torch_loss_nats)
    return [
        ("ids of the targets", "  ".join(str(token.id) for token in first) + more),
        (
            "probabilities of the targets",
            "  ".join(written("probability", token.probability) for token in first) + more,
        ),
        ("their logarithms", "  ".join(written("nats", token.log_probability) for token in first) + more),
        ("mean", written("nats", -loss)),
        ("negative mean = cross entropy", f"{written('nats', loss)} nats per token"),
        (
            "exp = perplexity",
            f"{written('perplexity', explanation.perplexity)} of a vocabulary of {explanation.vocab_size:,}",
        ),
        (
            "torch's cross_entropy",
            f"{written('nats', explanation.torch_loss_nats)} (difference {difference:.1e})",
        ),
    ]


def _first(explanation: Explanation, count: int) -> list[ExplainedToken]:
    """The first rows of all."""
    first: list[ExplainedToken] = []
    for text in explanation.texts:
        first += text.tokens[: count - len(first)]
    return first
