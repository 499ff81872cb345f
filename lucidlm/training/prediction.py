"""A corpus and a plan come in, the bits per byte that the run should reach come out, as an interval.

The text's own compressibility is measured before the first step: what PPMd and a unigram of tokens need for
the held-out part. How far above that a run ends depends mostly on its steps. The constants and the errors
on kinds of text that were not used to fit them: docs/plan.md.
"""

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lucidlm.measure.compressors import ppmd_fed, ppmd_memory
from lucidlm.runs.settings import Plan
from lucidlm.text.corpus import Corpus, validation_documents
from lucidlm.text.excerpts import as_excerpt
from lucidlm.training.schedule import Schedule, learning_rate_factor

TRAINING_BYTES = 4_000_000
"""Maximum bytes of the training text, taken from its end: half a second for each pass."""
HELDOUT_BYTES = 400_000
"""Maximum bytes of the held-out text, taken from its start."""
LEAST_BYTES = 1 << 15
"""Minimum bytes of either text if it has them, however slow the machine is."""
PASSES = 6
"""Times that the training text is compressed: with and without the held-out one, at three orders."""

TO_UNIGRAM, TO_ORDER_2, TO_ORDER_6, STEEP = 3.0, 12.0, 140.0, 1.7
"""Effective steps after which half of the way to each level is left, at width 128; STEEP is in `predict`."""
WIDER, DIGITS_FASTER = 1.1, 0.8
"""(n / half)^STEEP is multiplied by (width / 128)^WIDER and by e^(DIGITS_FASTER * share of digits)."""
DIGITS_BELOW = 0.4
"""How far ln(bits per byte) ends below PPMd's for a text of digits alone.

A model learns that digits are noise; PPMd pays for its attempts to predict them.
"""
ERROR_AT_THE_END, ERROR_ON_THE_WAY = 0.05, 0.2
"""One standard error of ln(bits per byte): at the end of the way, and added for each unit that is left."""
DOWNWARDS, UPWARDS, DIGITS_DOWNWARDS = 2.7, 2.0, 0.9
"""Reach of the interval: in standard errors below and above, and further below in ln by the share of digits.

It is longer downwards because tables and logs are learnt faster than other texts.
"""
REGULAR_BELOW, REGULAR_DOWNWARDS = 2.2, 0.5
"""A text with fewer bits per byte at order 2 has fields and records, where a model pays less than PPMd.

The interval reaches further down by the second number times ln(REGULAR_BELOW / order 2).
"""
SHORTEST_WAY = 0.02
"""Minimum of ln(unigram / order 2), which is below 0 for noise."""


@dataclass(frozen=True, slots=True)
class Compressibility:
    """How compressible the held-out text of a corpus is without a neural model, in bits per byte."""

    ppmd_2: float
    """PPMd of order 2 given the training text: about what a model learns in its first hundred steps."""
    ppmd_6: float
    """PPMd of order 6, the strongest baseline."""
    ppmd_16: float
    """PPMd of a high order: far fewer than order 6 where long boilerplate repeats (JSON), else the same."""
    unigram: float
    """The training text's frequencies of tokens: where every model is after its first ten steps or so."""
    digits: float
    """Share of the held-out bytes that are digits."""
    nats: float
    """Loss in nats per token for each bit per byte."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Bits per byte that a run should reach on its held-out text: nine of ten runs between low and high."""

    low: float
    middle: float
    high: float
    nats: float
    """Loss in nats per token for each bit per byte."""

    def __str__(self) -> str:
        """A clause for the plan: bits per byte with one digit, rounded outwards, and the loss."""
        low, high = math.floor(10 * self.low) / 10, math.ceil(10 * self.high) / 10
        return (
            f"{low:.1f} to {high:.1f} bits per byte on the held-out text (lower is better), "
            f"which is a loss of {low * self.nats:.1f} to {high * self.nats:.1f} nats per token"
        )


def predict(text: Compressibility, plan: Plan) -> Prediction | None:
    """What a run by this plan should reach on this text; None for AdamW and for texts of a byte or two.

    In ln(bits per byte) a model falls from the vocabulary's uniform level to the unigram's, more slowly to
    PPMd's of order 2, and from there to that of order 6. After n effective steps 1 / (1 + (n / half)^STEEP)
    of each way is left.
    """
    if plan.optim.name != "muon":
        return None
    if min(text.nats, text.unigram, text.ppmd_2, text.ppmd_6) <= 0:
        return None  # a held-out byte or two cost nothing: there is no level to fall from
    steps = max(1.0, effective_steps(plan.schedule, plan.steps))
    faster = WIDER * math.log(plan.model.emb_dim / 128) + DIGITS_FASTER * text.digits

    def left(half_way: float) -> float:
        return 1 / (1 + math.exp(STEEP * math.log(steps / half_way) + faster))

    level = min(text.ppmd_2, text.ppmd_6)  # in tables of numbers long contexts mislead
    uniform = math.log(plan.model.vocab_size) / text.nats
    rest = (
        math.log(max(1.0, uniform / text.unigram)) * left(TO_UNIGRAM)
        + max(SHORTEST_WAY, math.log(text.unigram / text.ppmd_2)) * left(TO_ORDER_2)
        + math.log(text.ppmd_2 / level) * left(TO_ORDER_6)
    )
    middle = level * math.exp(rest - DIGITS_BELOW * text.digits * (1 - left(TO_ORDER_2)))
    regular = max(0.0, math.log(REGULAR_BELOW / text.ppmd_2))
    longer = max(0.0, math.log(level / text.ppmd_16))  # attention reads on where six bytes are not enough
    error = ERROR_AT_THE_END + ERROR_ON_THE_WAY * rest
    return Prediction(
        low=middle
        * math.exp(
            -DOWNWARDS * error - DIGITS_DOWNWARDS * text.digits - REGULAR_DOWNWARDS * regular - longer
        ),
        middle=middle,
        # No run ends above a uniform guess.
        high=min(middle * math.exp(UPWARDS * error), max(middle, uniform)),
        nats=text.nats,
    )


def effective_steps(schedule: Schedule, steps: int) -> float:
    """Steps at the peak rate that move the weights as far: the area under the schedule up to that step."""
    corners = sorted({0, steps, *(step for step, _ in schedule if 0 < step < steps)})
    return sum(
        (end - start) * (learning_rate_factor(schedule, start) + learning_rate_factor(schedule, end)) / 2
        for start, end in pairwise(corners)
    )


def compressibility(corpus: Corpus, *, seconds: float | None = None) -> Compressibility:
    """How compressible the held-out text is, given the training text: a second for large texts.

    Measured on at most TRAINING_BYTES and HELDOUT_BYTES, and on less of both where a first piece shows that
    they would take more than `seconds`.
    """
    tokenizer = corpus.tokenizer
    known = _without(np.asarray(corpus.train[-TRAINING_BYTES:]), tokenizer.end_of_text)
    training = tokenizer.decode_bytes(known)[-TRAINING_BYTES:]
    most = TRAINING_BYTES + HELDOUT_BYTES
    if seconds is not None and len(training) > LEAST_BYTES:
        most = int(seconds * _bytes_per_s(training[:LEAST_BYTES]) / PASSES)
    heldout, data = _heldout(corpus, limit=min(HELDOUT_BYTES, max(LEAST_BYTES, most // 2)))
    training = training[-max(LEAST_BYTES, most - len(data)) :]
    counts = np.bincount(known, minlength=tokenizer.vocab_size) + 1.0
    return Compressibility(
        ppmd_2=ppmd_bits_per_byte(training, data, order=2),
        ppmd_6=ppmd_bits_per_byte(training, data, order=6),
        ppmd_16=ppmd_bits_per_byte(training, data, order=16),
        unigram=float(-np.log2(counts / counts.sum())[heldout].sum() / len(data)),
        digits=sum(map(data.count, b"0123456789")) / len(data),
        nats=math.log(2) * len(data) / len(heldout),
    )


def _bytes_per_s(text: bytes) -> float:
    began = time.perf_counter()
    ppmd_bits_per_byte(text[:-1], text[-1:], order=6)
    return 2 * len(text) / max(1e-6, time.perf_counter() - began)


def ppmd_bits_per_byte(training: bytes, heldout: bytes, *, order: int) -> float:
    """compressed(training + heldout) - compressed(training), in bits per byte, as for the baseline PPMd."""
    memory = ppmd_memory(len(training) + len(heldout))
    sizes = []
    for texts in ((training,), (training, heldout)):
        encoder, size = ppmd_fed(texts, memory, order=order)
        sizes.append(size + len(encoder.flush()))
    return 8 * (sizes[1] - sizes[0]) / len(heldout)


def _heldout(corpus: Corpus, *, limit: int) -> tuple[np.ndarray, bytes]:
    """Ids and bytes of the first held-out documents or pieces, until they have `limit` bytes."""
    ids: list[np.ndarray] = []
    data: list[bytes] = []
    size = 0
    for excerpt in map(as_excerpt, validation_documents(corpus)):
        ids.append(np.asarray(excerpt.ids[:limit]))
        data.append(corpus.tokenizer.decode_bytes(ids[-1]))
        size += len(data[-1])
        if size >= limit:
            break
    return np.concatenate(ids), b"".join(data)


def _without(ids: np.ndarray, end_of_text: int | None) -> np.ndarray:
    return ids if end_of_text is None else ids[ids != end_of_text]
