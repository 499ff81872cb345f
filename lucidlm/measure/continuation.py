"""How far a model continues beginnings of texts verbatim: model and token ids in, counts of bytes out.

The likeliest continuation (greedy decoding) is the text's own up to the first token that is not the likeliest
given the text before it. So one pass over the text gives what decoding token by token would write: nothing is
generated. The same bytes in other tokens are not looked for.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Predictor, Scorer
from lucidlm.text.token_file import Tokens
from lucidlm.text.tokenizer import Tokenizer

SPAN = 50
"""Bytes in a row, some ten words: two writers do not choose them alike by chance."""
PROMPTS = 32
PROMPT_BYTES = 100
"""Least bytes of a prompt; a prompt ends with a whole token."""
CONTINUED_BYTES = 100
"""Bytes of the continuation that are compared."""
TRIES = 8
"""Places that are tried for each prompt: a text may end there."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """How many prompts were continued verbatim, of the training text and of held-out text."""

    prompts: int
    copied: int
    """Prompts that were continued verbatim for SPAN bytes or more."""
    median_bytes: float
    """Bytes that are continued verbatim, CONTINUED_BYTES at most."""
    heldout_prompts: int
    heldout_copied: int
    heldout_median_bytes: float
    """0 where there is no prompt."""


def measure_continuation(
    model: Predictor,
    tokenizer: Tokenizer,
    heldout: Sequence[np.ndarray],
    training: Tokens | np.ndarray,
    *,
    prompts: int = PROMPTS,
) -> Continuation | None:
    """Prompts from places spread over the training text, and over the held-out text; None without any.

    The places depend on the lengths of the texts alone: the same weights are measured the same.
    """
    border = np.array([-1])
    control = np.concatenate([border, *(part for ids in heldout for part in (np.asarray(ids), border))])
    asked = [_prompts(tokenizer, text, len(text), prompts) for text in (training, control)]
    if not asked[0]:
        return None
    lengths = continued_bytes(model, tokenizer, asked[0] + asked[1])
    of_training, of_heldout = lengths[: len(asked[0])], lengths[len(asked[0]) :]
    return Continuation(
        prompts=len(of_training),
        copied=sum(length >= SPAN for length in of_training),
        median_bytes=float(median(of_training)),
        heldout_prompts=len(of_heldout),
        heldout_copied=sum(length >= SPAN for length in of_heldout),
        heldout_median_bytes=float(median(of_heldout)) if of_heldout else 0.0,
    )


def continued_bytes(
    model: Predictor, tokenizer: Tokenizer, prompts: Sequence[tuple[np.ndarray, int]]
) -> list[int]:
    """For each (ids, number of those that are given): bytes of the rest that the model goes on with."""
    likeliest = [np.full(len(ids), -1) for ids, _ in prompts]
    scorer = Scorer(model, tokenizer, Protocol(prefix="none"))
    for piece in scorer.pieces(ids for ids, _ in prompts):
        # Padding ids are never drawn.
        ids = piece.logits[:, : tokenizer.vocab_size].argmax(-1).cpu().numpy()
        likeliest[piece.document][piece.start : piece.start + len(ids)] = ids
    return [
        min(CONTINUED_BYTES, _equal_bytes(tokenizer, ids[given:], chosen[given:]))
        for (ids, given), chosen in zip(prompts, likeliest, strict=True)
    ]


def _equal_bytes(tokenizer: Tokenizer, ids: np.ndarray, chosen: np.ndarray) -> int:
    """Bytes of the ids that the chosen ones spell, up to the first byte that differs."""
    differ = np.flatnonzero(ids != chosen)
    equal = int(differ[0]) if len(differ) else len(ids)
    length = len(tokenizer.decode_bytes(ids[:equal]))
    if equal < len(ids):
        left, right = tokenizer.decode_bytes(ids[equal:]), tokenizer.token_bytes(int(chosen[equal]))
        while right and left[: len(right)] != right:
            right = right[:-1]
        length += len(right)
    return length


def _prompts(
    tokenizer: Tokenizer, text: Tokens | np.ndarray, length: int, count: int
) -> list[tuple[np.ndarray, int]]:
    """(ids, number of those that are given), one from each of `count` equal parts of the text if it fits."""
    draw = np.random.default_rng(0)
    lengths = tokenizer.token_lengths()
    # Each token is a byte at least: from a later place too little would follow.
    bounds = np.linspace(0, max(1, length - PROMPT_BYTES - SPAN), count + 1).astype(int)
    found: dict[int, tuple[np.ndarray, int]] = {}
    for start, end in itertools.pairwise(bounds.tolist()):
        for place in draw.integers(start, max(start + 1, end), TRIES).tolist():
            prompt = _prompt(np.asarray(text[place : place + PROMPT_BYTES + CONTINUED_BYTES]), lengths)
            if prompt is not None and place not in found:
                found[place] = prompt
                break
    return list(found.values())


def _prompt(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, int] | None:
    """The prompt that begins these ids; None where a text ends before a span of its continuation does."""
    ids = ids.astype(np.int64)
    # A control token, or -1, separates one text from the next.
    ends = np.flatnonzero((ids < 0) | (lengths[np.maximum(ids, 0)] == 0))
    ids = ids[: ends[0]] if len(ends) else ids
    spelled = np.cumsum(lengths[ids])
    given = int(np.searchsorted(spelled, PROMPT_BYTES)) + 1
    if len(spelled) <= given or spelled[-1] - spelled[given - 1] < SPAN:
        return None
    end = int(np.searchsorted(spelled, spelled[given - 1] + CONTINUED_BYTES)) + 1
    return ids[:end], given
