"""Why a loss is what it is: texts in, every token's probability, rank and alternatives out, and their mean.

The lecture's steps in its order: logits, softmax, the probabilities of the targets, their logarithms, the
mean, its negative; beside it the same number from torch.nn.functional.cross_entropy.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.measure.evaluation import Protocol, checked_window, prefix_of, scored_logits
from lucidlm.model.gpt import GPT
from lucidlm.model.loss import bits, log_softmax, perplexity, softmax
from lucidlm.runtime.device import dtype_name
from lucidlm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come, and how likely the model held it."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class ExplainedToken:
    """One target: what the model thought of the token that did come."""

    id: int
    text: str
    probability: float
    log_probability: float
    rank: int
    """1 for the token held most likely."""
    entropy: float
    """Nats that the model expected to pay here: -sum p ln p over the vocabulary."""
    alternatives: tuple[Alternative, ...]

    @property
    def nats(self) -> float:
        """The token's loss: -ln p."""
        return -self.log_probability

    @property
    def bits(self) -> float:
        """The token's loss in halvings: -log2 p."""
        return bits(self.nats)


@dataclass(frozen=True, slots=True)
class ExplainedText:
    """One text, its tokens in order."""

    text: str
    left_out: str
    """What was not scored: the first token, where no prefix stands before it."""
    tokens: tuple[ExplainedToken, ...]

    @property
    def loss_nats(self) -> float:
        """Mean loss of this text's tokens."""
        return math.fsum(token.nats for token in self.tokens) / len(self.tokens)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The loss of some texts, token by token."""

    texts: tuple[ExplainedText, ...]
    torch_loss_nats: float
    """The same mean from torch.nn.functional.cross_entropy on the same logits."""
    vocab_size: int
    protocol: Protocol

    @property
    def tokens(self) -> tuple[ExplainedToken, ...]:
        """All rows, one after the other."""
        return tuple(token for text in self.texts for token in text.tokens)

    @property
    def loss_nats(self) -> float:
        """Mean of all rows, in nats per token: what `evaluate` reports."""
        rows = self.tokens
        return math.fsum(token.nats for token in rows) / len(rows)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss_nats)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        return {
            "loss_nats": self.loss_nats,
            "perplexity": self.perplexity,
            "torch_loss_nats": self.torch_loss_nats,
            "tokens_scored": len(self.tokens),
            "vocab_size": self.vocab_size,
            "protocol": asdict(self.protocol),
            "texts": [
                {
                    "text": text.text,
                    "left_out": text.left_out,
                    "loss_nats": text.loss_nats,
                    "tokens": [
                        asdict(token) | {"nats": token.nats, "bits": token.bits} for token in text.tokens
                    ],
                }
                for text in self.texts
            ],
        }

    def __str__(self) -> str:
        """A table a text, then the lecture's steps from the probabilities to the perplexity."""
        return "\n\n".join([*(_table(text) for text in self.texts), _steps(self)])


def explain(
    model: GPT,
    tokenizer: Tokenizer,
    texts: str | Sequence[str],
    *,
    top_k: int = 5,
    context_length: int | None = None,
    stride: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
    batch_size: int = 8,
    dtype: torch.dtype = torch.float32,
) -> Explanation:
    """Every token's probability, rank, entropy, `top_k` best alternatives; rows average to evaluate's loss.

    Several texts are one batch, as in the lecture. Raises DataError for a text without a token to score.
    """
    if top_k < 0:
        raise ConfigError(f"--top-k {top_k}: it must be 0 or more")
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: it must be at least 1")
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise DataError("there is no text to explain; give at least one")
    context_length, stride = checked_window(model, context_length, stride)
    prefix_id = prefix_of(model, prefix)
    ids = [np.asarray(tokenizer.encode(text), dtype=np.int64) for text in texts]
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) < (1 if prefix_id is not None else 2):
            raise DataError(
                f"{text!r} is {len(tokens)} token{'' if len(tokens) == 1 else 's'}: there is none to predict"
                + (" from another; write more" if len(tokens) else "; write something")
            )
    rows: list[list[ExplainedToken]] = [[] for _ in texts]
    torch_nats = 0.0
    for piece in scored_logits(
        model,
        ids,
        context_length=context_length,
        stride=stride,
        prefix_id=prefix_id,
        batch_size=batch_size,
        dtype=dtype,
    ):
        logits = piece.logits.float()
        torch_nats += F.cross_entropy(logits, piece.targets, reduction="none").double().sum().item()
        if not math.isfinite(torch_nats):
            raise WeightsError("the model's logits hold NaN or infinity: take another checkpoint")
        rows[piece.document] += _explain_rows(logits, piece.targets, tokenizer, top_k)
    explained = tuple(
        ExplainedText(
            text, "" if prefix_id is not None else _token_text(tokenizer, int(tokens[0])), tuple(row)
        )
        for text, tokens, row in zip(texts, ids, rows, strict=True)
    )
    name = "none" if prefix_id is None else "end-of-text"
    return Explanation(
        texts=explained,
        torch_loss_nats=torch_nats / sum(map(len, rows)),
        vocab_size=model.config.vocab_size,
        protocol=Protocol(
            "lucid",
            context_length,
            stride,
            name,
            dtype_name(dtype if dtype != torch.float32 else model.head.weight.dtype),
            model.device.type,
        ),
    )


def _explain_rows(
    logits: torch.Tensor, targets: torch.Tensor, tokenizer: Tokenizer, top_k: int
) -> Iterable[ExplainedToken]:
    """Logits (N, V) and targets (N,) to N explained tokens."""
    log_probabilities = log_softmax(logits)  # (N, V)
    of_target = log_probabilities.gather(1, targets[:, None])  # (N, 1)
    # Ties stand behind the target, so that of equal logits none is held likelier than the token that came.
    ranks = (log_probabilities > of_target).sum(1) + 1
    probabilities = softmax(logits)  # not the logarithm's exponential, which would lose a digit
    p_of_target = probabilities.gather(1, targets[:, None])
    entropies = -(probabilities * log_probabilities).nan_to_num(0.0).sum(1)
    best = probabilities.topk(min(top_k, logits.shape[1]), dim=1)
    for row in range(len(targets)):
        yield ExplainedToken(
            id=int(targets[row]),
            text=_token_text(tokenizer, int(targets[row])),
            probability=p_of_target[row].item(),
            log_probability=of_target[row].item(),
            rank=int(ranks[row]),
            entropy=entropies[row].item(),
            alternatives=tuple(
                Alternative(id, _token_text(tokenizer, id), probability)
                for id, probability in zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
            ),
        )


def _token_text(tokenizer: Tokenizer, id: int) -> str:
    """What a token spells; bytes that are no whole character as \\x.., special and padded ids by name."""
    if id == tokenizer.end_of_text:
        return "<|endoftext|>"
    if id >= tokenizer.vocab_size:
        return f"<id {id}>"
    return tokenizer.token_bytes(id).decode("utf-8", errors="backslashreplace")


def _table(explained: ExplainedText) -> str:
    """One line a token: the target, its probability and surprise, and what the model would have said."""
    shown = repr(explained.text if len(explained.text) <= 80 else explained.text[:77] + "...")
    wide = max(9, *(len(_quoted(token.text)) for token in explained.tokens))
    lines = [
        f"text {shown}"
        + (
            f" (first token {_quoted(explained.left_out)} has nothing before it)"
            if explained.left_out
            else ""
        ),
        f"{'target':<{wide}} {'id':>6} {'p(target)':>11} {'ln p':>9} "
        f"{'bits':>7} {'rank':>7} {'entropy':>8}  likeliest",
    ]
    for token in explained.tokens:
        likeliest = "  ".join(
            f"{_quoted(other.text)} {other.probability:.2g}" for other in token.alternatives[:3]
        )
        lines.append(
            f"{_quoted(token.text):<{wide}} {token.id:>6} {token.probability:>11.4e} "
            f"{token.log_probability:>9.4f} {token.bits:>7.3f} "
            f"{token.rank:>7,} {token.entropy:>8.4f}  {likeliest}"
        )
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """In quotes, what does not print made visible; the bytes that _token_text wrote as \\x.. are left so."""
    return "'" + "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text) + "'"


def _steps(explanation: Explanation) -> str:
    """From the targets' probabilities to the perplexity, one step a line, torch's own number last."""
    tokens, loss = explanation.tokens, explanation.loss_nats
    shown = tokens[:6]
    more = f"  ... {len(tokens):,} in all" if len(tokens) > len(shown) else ""
    difference = abs(loss - explanation.torch_loss_nats)
    rows = [
        ("probabilities of the targets", "  ".join(f"{token.probability:.4e}" for token in shown) + more),
        ("their logarithms", "  ".join(f"{token.log_probability:.4f}" for token in shown) + more),
        ("mean", f"{-loss:.4f}"),
        ("negative mean = cross entropy", f"{loss:.4f} nats per token"),
        ("torch's cross_entropy", f"{explanation.torch_loss_nats:.4f} (difference {difference:.1e})"),
        ("exp = perplexity", f"{explanation.perplexity:,.1f} of a vocabulary of {explanation.vocab_size:,}"),
    ]
    lines = [f"{name:<30} {value}" for name, value in rows]
    return "\n".join([*lines, str(explanation.protocol)])
