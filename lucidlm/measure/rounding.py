"""What shorter weights cost: a model, a copy of it with rounded weights and a text in, bits per byte out."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lucidlm.errors import DataError
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.scoring import Document, Scorer
from lucidlm.model.gpt import GPT
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.tokenizer import Tokenizer

SAMPLE_WORK = 3e11
"""Floating-point operations of a forward pass over the sample: one or two seconds on two cores."""
SAMPLE_TOKENS = (256, 8192)


@dataclass(frozen=True, slots=True)
class RoundingCost:
    """Bits per byte of one sample, by the model and by its copy."""

    text: str
    """What the sample is the beginning of."""
    sample_bytes: int
    exact_bits_per_byte: float
    rounded_bits_per_byte: float

    @property
    def bits_per_byte(self) -> float:
        """What rounding costs; by chance it may be below 0."""
        return self.rounded_bits_per_byte - self.exact_bits_per_byte

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for --json."""
        return asdict(self) | {"bits_per_byte": self.bits_per_byte}

    def __str__(self) -> str:
        """One line for a note."""
        return (
            f"int8 costs {self.bits_per_byte:+.4f} bits per byte: {self.rounded_bits_per_byte:.4f} instead "
            f"of {self.exact_bits_per_byte:.4f} ({self.sample_bytes:,} bytes, {self.text})"
        )


def rounding_cost(
    exact: GPT, rounded: GPT, tokenizer: Tokenizer, documents: Iterable[Document], text: str
) -> RoundingCost:
    """Both models on the beginning of the documents; `text` is their name. DataError where they are empty."""
    least, most = SAMPLE_TOKENS
    size = int(min(most, max(least, SAMPLE_WORK / (2 * exact.n_parameters))))
    sample = list(_beginning(Scorer(exact, tokenizer), documents, size))
    if not sample:
        raise DataError(f"{text}: no text to measure the cost of int8 on; give one with --val")
    before, after = (evaluate_documents(model, tokenizer, sample) for model in (exact, rounded))
    return RoundingCost(text, before.bytes_scored, before.bits_per_byte, after.bits_per_byte)


def _beginning(scorer: Scorer, documents: Iterable[Document], size: int) -> Iterator[Excerpt]:
    """The first documents, or pieces of a text, with `size` tokens in all; the last one is cut off."""
    for document in documents:
        part = scorer.encoded(document).part(0, size)
        if len(part.ids):
            yield part
        size -= len(part.ids)
        if size <= 0:
            return
