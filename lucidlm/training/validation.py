"""A model in; the losses of two fixed samples, a generated text and log-probabilities out.

None of it draws from the generators that training draws from: with or without it, the weights are the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lucidlm.errors import DataError
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.intervals import Design
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate
from lucidlm.model.gpt import GPT
from lucidlm.runs.history import Validation
from lucidlm.text.corpus import Corpus, train_documents, validation_documents
from lucidlm.text.excerpts import Excerpt, as_excerpt
from lucidlm.text.tokenizer import Tokenizer

SPANS = 8
"""A sample of one long text has this many spans, evenly spread."""
FEWEST_PIECES = 8
"""A sample of fewer whole pieces would represent too few places of the text."""
PROBE_TOKENS = 64
SAMPLE_CHARACTERS = 120
"""Approximate length of the samples that a run generates, whatever its tokenizer is."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The fixed texts that a run is validated on."""

    validation: list[Excerpt]
    training: list[Excerpt]
    probe: np.ndarray
    """The first tokens of the validation sample, whose log-probabilities are kept at each validation."""
    prompt: str


def choose_samples(corpus: Corpus, *, tokens: int, prompt: str | None) -> Samples:
    """At most about `tokens` tokens of each side, the same ones for the same corpus."""
    validation = sample_of(corpus, tokens=tokens)
    documents = scorable(train_documents(corpus), corpus.tokenizer)
    training = sample_documents(documents, total=corpus.train_tokens, tokens=tokens)
    long = (excerpt.ids for excerpt in validation if len(excerpt.ids) > 1)
    return Samples(
        validation=validation,
        training=training,
        probe=next(long, validation[0].ids)[:PROBE_TOKENS],
        prompt=first_words(corpus.tokenizer, validation[0].ids) if prompt is None else prompt,
    )


def sample_of(corpus: Corpus, *, tokens: int) -> list[Excerpt]:
    """About `tokens` of the held-out tokens, evenly spread; all if there are no more.

    Of a text held out in pieces these are whole pieces, which is a stratified sample again; where that would
    be too few of them, a span of each piece with what stands before it.
    """
    total = corpus.validation_tokens
    if corpus.design == "strata" and tokens < total:
        pieces = list(scorable(validation_documents(corpus), corpus.tokenizer))
        count = round(len(pieces) * tokens / total)
        if count >= FEWEST_PIECES:
            return [pieces[place] for place in ((np.arange(count) + 0.5) * len(pieces) / count).astype(int)]
    documents = scorable(validation_documents(corpus), corpus.tokenizer)
    return sample_documents(documents, total=total, tokens=tokens)


def scorable(documents: Iterable[np.ndarray | Excerpt], tokenizer: Tokenizer) -> Iterator[Excerpt]:
    """Documents with a token that can be scored; without an end-of-text the first of a document cannot."""
    for excerpt in map(as_excerpt, documents):
        if tokenizer.end_of_text is not None or len(excerpt.before) + len(excerpt.ids) > 1:
            yield excerpt


def check_scorable(corpus: Corpus) -> None:
    """Raises DataError if the training text or the held-out text has no token that can be scored."""
    sides = (("training", train_documents(corpus)), ("validation", validation_documents(corpus)))
    for side, documents in sides:
        if next(scorable(documents, corpus.tokenizer), None) is None:
            raise DataError(
                f"{side} text: each document is one token, and {corpus.tokenizer.name} has no end-of-text to "
                "predict it from; give longer documents, or --tokenizer bytes"
            )


def sample_documents(documents: Iterable[np.ndarray | Excerpt], *, total: int, tokens: int) -> list[Excerpt]:
    """About `tokens` of the `total` tokens in these documents, evenly spread; all if they are that few.

    Each span has what stands before it in its document as context, so that it is scored as in the whole.
    """
    if total <= tokens:
        return [as_excerpt(document) for document in documents]
    step = total / tokens
    every = max(1, round(step))
    sample: list[Excerpt] = []
    spare: list[Excerpt] = []
    for number, document in enumerate(map(as_excerpt, documents)):
        if number % every == 0 and not sample:
            spare.append(document)
        length = len(document.ids)
        wanted = round(length / step)
        if wanted < 2:
            continue
        spans = max(1, min(SPANS, wanted // 512))
        size = wanted // spans
        starts = (np.arange(spans) * (length / spans)).astype(int).tolist()
        sample += [document.part(start, start + size) for start in starts]
    # Many short documents, each less than its share: whole ones, at a distance.
    return sample or spare


def design_of(corpus: Corpus, *, sampled: bool = False) -> Design | None:
    """How the held-out documents were chosen, which decides what an interval refers to.

    Spans of one document that was given, or of the end of a book, are pages of it.
    """
    if corpus.design == "strata":
        return "strata" if corpus.manifest["train"]["documents"] == 1 else "strata of documents"
    return "pages" if sampled and corpus.manifest["validation"]["documents"] == 1 else None


def fraction_of(corpus: Corpus, *, tokens: int | None = None) -> float:
    """The share of the whole text that its held-out pieces are, or a sample of so many of their tokens."""
    held_out = corpus.validation_bytes
    share = 1.0 if tokens is None else min(1.0, tokens / corpus.validation_tokens)
    return share * held_out / (held_out + corpus.train_bytes)


def first_words(tokenizer: Tokenizer, ids: np.ndarray, *, words: int = 5) -> str:
    """The first words after the first end of a sentence: a prompt from the text itself."""
    text = rest = tokenizer.decode(ids[:400])
    for mark in (". ", "\n"):
        if mark in text:
            rest = text.split(mark, 1)[1]
            break
    # Where nothing follows it, the text's own; an empty prompt would need an end-of-text.
    return " ".join(rest.split()[:words]) or " ".join(text.split()[:words]) or text[:1]


def validate(
    model: GPT, tokenizer: Tokenizer, samples: Samples, *, step: int, epoch: float, time_s: float
) -> Validation:
    """Both losses after a step, by evaluate's protocol, in float32."""
    validation = evaluate_documents(model, tokenizer, samples.validation)
    training = evaluate_documents(model, tokenizer, samples.training)
    return Validation(
        step=step,
        epoch=epoch,
        time_s=time_s,
        **_named("validation", validation),
        **_named("training", training),
    )


def _named(side: str, evaluation: Evaluation) -> dict[str, Any]:
    names = ("loss_nats", "perplexity", "bits_per_byte")
    values = {f"{side}_{name}": getattr(evaluation, name) for name in names}
    return values | {f"{side}_tokens": evaluation.tokens_scored}


def write_sample(model: GPT, tokenizer: Tokenizer, samples: Samples, *, step: int) -> dict:
    """What samples.jsonl holds of a step: a text after the prompt, and the probe's log-probabilities."""
    characters = len(tokenizer.decode(samples.probe)) / len(samples.probe)
    length = round(SAMPLE_CHARACTERS / max(1.0, characters))
    written = generate(model, tokenizer, samples.prompt, Decoding(max_new_tokens=length), seed=0)
    # A probe of one token that nothing stands before has none that can be scored.
    scorer = Scorer(model, tokenizer, Protocol(stride=model.context_length))
    nats = [value for piece in scorer.pieces([samples.probe]) for value in piece.nats.tolist()]
    return {
        "step": step,
        "prompt": samples.prompt,
        "text": written.text,
        "probe_ids": samples.probe.tolist(),
        "probe_log_probabilities": [-value for value in nats],
    }
