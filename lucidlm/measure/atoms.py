"""What several models pay for the same bytes: passages come in, atoms and blocks that can be compared go out.

Bytes are what models with different tokenizers have in common. A token's nats belong to the byte at which it
starts. Where tokens of all models start at the same byte, the text is cut into atoms, and the sums of nats
over an atom can be compared.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lucidlm.errors import ConfigError
from lucidlm.measure.scoring import Predictor, Scorer
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.tokenizer import Tokenizer

BEFORE_CONTEXTS = 16
"""Contexts of ids of another tokenizer that are read before a piece: enough where each of them is a byte."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to score, and the text before it: a piece of a book is read as in its place."""

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
class Atoms:
    """A document cut where tokens of all models start: `bounds` (n + 1,) bytes, mean bits (n,) of a side."""

    text: bytes
    bounds: np.ndarray
    bits_a: np.ndarray
    bits_b: np.ndarray


@dataclass(frozen=True, slots=True)
class Tokens:
    """A document as one model reads it: where its scored tokens start, and their losses."""

    starts: np.ndarray
    nats: np.ndarray


class Judge:
    """One model, and counts of what it has read."""

    def __init__(self, name: str, scorer: Scorer) -> None:
        self.name, self.scorer, self.tokenizer = name, scorer, scorer.tokenizer
        self.lengths = scorer.tokenizer.token_lengths().astype(np.int64)
        self.tokens = self.read_tokens = self.read_bytes = 0

    @property
    def window_bytes(self) -> float:
        """Bytes that a window of this model holds, in the mean."""
        return self.scorer.context_length * self.read_bytes / max(1, self.read_tokens)

    def is_same_model(self, other: "Judge") -> bool:
        """Whether both give every text the same score: equal weights, shape and tokenizer."""
        mine, theirs = self.scorer, other.scorer
        return (
            type(mine.model) is type(theirs.model)
            and getattr(mine.model, "config", None) == getattr(theirs.model, "config", None)
            and equal_weights(mine.model, theirs.model)
            and self._same_tokenizer(other.tokenizer)
        )

    def scoring(self, group: list[Passage]) -> Generator[int, None, list[Tokens]]:
        """Returns the losses of all tokens of some documents; yields 0 bytes done after each piece."""
        excerpts = [self._read(passage) for passage in group]
        for passage, excerpt in zip(group, excerpts, strict=True):
            if self.tokenizer.decode_bytes(excerpt.ids) != passage.data:
                raise ConfigError(
                    f"tokenizer {self.tokenizer.name} changes the text, so its bytes cannot be compared with "
                    "another's; convert the text to that form first (usually NFC), or use another model"
                )
            self.read_tokens += len(excerpt.ids)
            self.read_bytes += len(passage.data)
        # The first token is scored only after something: the prefix, or the text before a piece.
        unscored = self.scorer.prefix_id is None
        skipped = [int(unscored and len(each.before) == 0) for each in excerpts]
        nats = [np.empty(max(0, len(each.ids) - skip)) for each, skip in zip(excerpts, skipped, strict=True)]
        for piece in self.scorer.pieces(excerpts):
            first = piece.start - skipped[piece.document]
            nats[piece.document][first : first + len(piece.nats)] = piece.exact_nats
            yield 0
        starts = [np.cumsum(self.lengths[each.ids]) - self.lengths[each.ids] for each in excerpts]
        return [
            Tokens(start[skip:], losses) for start, skip, losses in zip(starts, skipped, nats, strict=True)
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


def equal_weights(one: Predictor, other: Predictor) -> bool:
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


def common_atoms(data: bytes, tokens: list[Tokens], of_a: int) -> Atoms | None:
    """The document from the first byte at which scored tokens of all models start; None without one."""
    starts = tokens[0].starts
    for each in tokens[1:]:
        starts = np.intersect1d(starts, each.starts)
    if len(starts) == 0:
        return None
    bits = np.stack(
        [np.add.reduceat(each.nats, np.searchsorted(each.starts, starts)) / math.log(2) for each in tokens]
    )
    return Atoms(data, np.append(starts, len(data)), bits[:of_a].mean(0), bits[of_a:].mean(0))


def _block_bytes(judges: list[Judge]) -> int:
    """Bytes of the widest window: blocks of this size are nearly independent for all models."""
    return max(1, round(max(judge.window_bytes for judge in judges)))


def blocks_of(document: int, common: Atoms, tokens: list[Tokens], judges: list[Judge]) -> np.ndarray:
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
