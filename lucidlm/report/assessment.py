"""All that is known of a model's quality on a text: evaluation, baselines, memorization and a verdict."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lucidlm.measure.baseline import Baselines
from lucidlm.measure.baselines import FEWEST_BYTES, measure_baselines
from lucidlm.measure.continuation import PROMPTS, measure_continuation
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.explanation import Explanation, explain_texts
from lucidlm.measure.intervals import HOLD_OUT_MORE, MOSTLY_SEEN, Design, NoInterval
from lucidlm.measure.memorization import measure_memorization
from lucidlm.measure.memorized import Memorization
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.seen import Seen
from lucidlm.measure.shares import Share
from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate_batch
from lucidlm.model.gpt import GPT
from lucidlm.pages.page import notebook
from lucidlm.report.course import FEWEST_TOKENS, Course, course_of
from lucidlm.report.ladder import Ladder, ladder_of
from lucidlm.report.memorization import sentence_of, table_of
from lucidlm.report.verdict import (
    course_sentences,
    gain_sentence,
    place_sentences,
    too_few_bytes,
    too_little_text,
)
from lucidlm.runs.history import History
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import whole_words
from lucidlm.text.corpus import Corpus, train_documents, validation_documents
from lucidlm.text.excerpts import Excerpt, as_excerpt, ids_of
from lucidlm.text.tokenizer import Tokenizer

WRITTEN_TEXTS = 4
"""Texts that the model generates for the search for memorized text."""
WRITTEN_TOKENS = 256
"""Their length. A large model on a CPU generates a quarter of it: the whole would take minutes."""
LARGE = 50_000_000
BASELINE_BYTES = 10_000_000
"""Bytes of training text for the baselines: n-grams of 10 MB take half a minute."""
PARAGRAPH_CHARACTERS = 500
"""Approximate length of the held-out paragraph that is explained."""
LONGEST_WORD = 30
REFERENCE_TOKENS = 100_000
"""Held-out tokens that are searched for in the training text, as a reference for generated text."""
COUNTED_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The documents that a model is assessed on, and how they were chosen."""

    documents: Iterable[np.ndarray | Excerpt]
    """As `evaluate_documents` takes them."""
    design: Design | None = None
    fraction: float = 0.0
    """As in `evaluate_documents`."""
    sample_of: int | None = None
    """Tokens of the whole held-out part, where the documents are a sample of it."""


@dataclass(frozen=True, slots=True)
class Background:
    """What is known of a model's training."""

    corpus: Corpus | None = None
    """What it was trained on; without it there are no baselines and no search for memorized text."""
    history: History | None = None
    """The history of the run, if the documents are its own held-out text."""
    started_from: str | None = None
    """The weights that the run started from."""
    seen: Seen | None = None
    """How much of the documents the model was trained on; None where that is not known."""
    remarks: tuple[str, ...] = ()
    """Sentences that come first in the verdict."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is computed beside the evaluation."""

    baseline_bytes: int = BASELINE_BYTES
    """Bytes of training text for the baselines, at most."""
    generated: float = 1.0
    """Share of the usual length of generated text; a quarter at least."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """A model's quality on a held-out text, compared with what it was trained on."""

    evaluation: Evaluation
    baselines: Baselines | None = None
    ladder: Ladder | None = None
    """The model among the baselines."""
    memorization: Memorization | None = None
    explanation: Explanation | None = None
    """Of a paragraph of the text."""
    sentences: tuple[str, ...] = ()
    """The verdict."""
    course: Course | None = None
    """How the run of these weights went; None where its history is not known."""
    seen: Seen | None = None
    """How much of the text the model was trained on; None where that is not known."""

    @property
    def verdict(self) -> str:
        """All sentences, in one line."""
        return " ".join(self.sentences)

    @property
    def warning(self) -> str:
        """That the model was trained on this text, or "": to be shown above every number."""
        return self.seen.sentence if self.seen else ""

    def to_dict(self) -> dict[str, Any]:
        """The evaluation's keys, those of the other fields, and "seen_in_training", for --json."""
        return self.evaluation.to_dict() | {
            "baselines": self.baselines.to_dict() if self.baselines else None,
            "ladder": self.ladder.to_dict() if self.ladder else None,
            "memorization": self.memorization.to_dict() if self.memorization else None,
            "course": self.course.to_dict() if self.course else None,
            "verdict": self.verdict,
            "seen_in_training": self.seen.to_dict() if self.seen else None,
        }

    def __str__(self) -> str:
        """The verdict, the evaluation, its place among the baselines, memorization."""
        parts = [self.warning, "\n".join(self.sentences), str(self.evaluation)]
        parts += [str(self.ladder or ""), table_of(self.memorization) if self.memorization else ""]
        return "\n\n".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, and the numbers and baselines as tables."""
        return notebook(
            "assessment_part.html",
            sentences=[self.warning, *self.sentences] if self.warning else self.sentences,
            rows=self.evaluation.rows(),
            no_interval=self.evaluation.no_interval,
            protocol=str(self.evaluation.protocol),
            ladder=self.ladder.rows() if self.ladder else None,
        )


def assess(
    model: GPT,
    tokenizer: Tokenizer,
    text: HeldOut,
    background: Background,
    *,
    protocol: Protocol = LUCID,
    effort: Effort | None = None,
    share: Share | None = None,
    progress: Progress = SILENT,
) -> Assessment:
    """The assessment of a model on held-out documents; without a corpus, the evaluation and a paragraph.

    It never reads a clock: the same weights get the same assessment. `share`: as in `evaluate_documents`.
    """
    seen, corpus = background.seen, background.corpus
    if corpus is None:
        text, first = _watched(text)
        evaluation = _evaluated(model, tokenizer, text, None, seen, protocol, share, progress)
        paragraph = explained_paragraph(model, tokenizer, first)
        return Assessment(evaluation, explanation=paragraph, sentences=background.remarks, seen=seen)
    effort = effort or Effort()
    documents = list(text.documents)
    text = replace(text, documents=documents)
    evaluation = _evaluated(model, tokenizer, text, corpus, seen, protocol, share, progress)
    baselines = ladder = None
    if evaluation.bytes_scored >= FEWEST_BYTES:
        prefix_id = model.document_prefix_id if evaluation.protocol.prefix != "none" else None
        baselines = measure_baselines(
            tokenizer,
            train_documents(corpus),
            documents,
            prefix_id=prefix_id,
            limit_bytes=effort.baseline_bytes,
            progress=progress,
        )
        ladder = _ladder(evaluation, baselines, seen)
    history = background.history
    if history is not None and corpus.design != "given":
        evaluation = replace(evaluation, no_interval=_by_another_split(evaluation.no_interval))
        ladder = ladder and replace(ladder, no_interval=_by_another_split(ladder.no_interval))
    memorization = _memorization(model, tokenizer, text, background, effort.generated, progress)
    course = None
    if history is not None and history.validations:
        course = course_of(history, baselines=baselines, design=corpus.design)
    return Assessment(
        evaluation,
        baselines,
        ladder,
        memorization,
        explained_paragraph(model, tokenizer, documents),
        _sentences(background, evaluation, ladder, memorization, course),
        course,
        seen,
    )


def _watched(text: HeldOut) -> tuple[HeldOut, list[np.ndarray | Excerpt]]:
    """The text, and a list that has its first document as soon as that is read."""
    first: list[np.ndarray | Excerpt] = []

    def documents() -> Iterator[np.ndarray | Excerpt]:
        for document in text.documents:
            if not first:
                first.append(document)
            yield document

    return replace(text, documents=documents()), first


def _evaluated(
    model: GPT,
    tokenizer: Tokenizer,
    text: HeldOut,
    corpus: Corpus | None,
    seen: Seen | None,
    protocol: Protocol,
    share: Share | None,
    progress: Progress,
) -> Evaluation:
    evaluation = evaluate_documents(
        model,
        tokenizer,
        text.documents,
        protocol=protocol,
        design=text.design,
        fraction=text.fraction,
        token_counts=count_tokens(corpus) if corpus is not None else None,
        share=share,
        progress=progress,
    )
    if text.sample_of is not None and evaluation.tokens_total < text.sample_of:
        evaluation = replace(evaluation, sample_of=text.sample_of)
    if seen is not None and seen.mostly:  # an interval is about text that was not trained on
        evaluation = evaluation.without_intervals(MOSTLY_SEEN)
    return evaluation


def _ladder(evaluation: Evaluation, baselines: Baselines, seen: Seen | None) -> Ladder:
    ladder = ladder_of(
        evaluation.bits_per_byte,
        evaluation.units,
        evaluation.design,
        baselines,
        fraction=evaluation.fraction,
        same=evaluation.same,
        no_interval=MOSTLY_SEEN if seen is not None and seen.mostly else None,
    )
    return replace(ladder, caution=evaluation.caution)


def _memorization(
    model: GPT,
    tokenizer: Tokenizer,
    text: HeldOut,
    background: Background,
    generated: float,
    progress: Progress,
) -> Memorization:
    """What the model has memorized, beside the run's own held-out text: other text may be trained on."""
    corpus = background.corpus
    assert corpus is not None
    progress.stage("generating")
    own = text.documents if background.history is not None else validation_documents(corpus)
    reference = _first_tokens(ids_of(own), REFERENCE_TOKENS)
    continuation = measure_continuation(
        model, tokenizer, reference, corpus.train, prompts=_part(PROMPTS, model, generated)
    )
    written = write_texts(model, tokenizer, generated=generated)
    return measure_memorization(
        tokenizer, written, reference, corpus.train, continuation=continuation, progress=progress
    )


def _sentences(
    background: Background,
    evaluation: Evaluation,
    ladder: Ladder | None,
    memorization: Memorization,
    course: Course | None,
) -> tuple[str, ...]:
    """The verdict: each sentence once."""
    history, source = background.history, background.started_from
    said = [*background.remarks]
    if history is not None and source:
        said.append(gain_sentence(history, source))
    if course is not None:
        said.append(course_sentences(course))
    if evaluation.tokens_scored < FEWEST_TOKENS:
        said.append(too_little_text(evaluation.tokens_scored))
    if ladder is None:
        said.append(too_few_bytes(evaluation.bytes_scored))
    elif evaluation.tokens_scored >= FEWEST_TOKENS:
        longer = course is None or course.longer_helps
        said.append(place_sentences(ladder, own=history is not None, longer=longer))
    who = "the saved model" if history is not None else "the model"
    said.append(sentence_of(memorization, who=who))
    return tuple(dict.fromkeys(sentence for sentence in said if sentence))


def count_tokens(corpus: Corpus) -> np.ndarray:
    """How often each id occurs in the training text: (V,)."""
    counts = np.zeros(corpus.tokenizer.vocab_size, np.int64)
    for start in range(0, len(corpus.train), COUNTED_AT_ONCE):
        counts += np.bincount(corpus.train[start : start + COUNTED_AT_ONCE], minlength=len(counts))
    return counts


def write_texts(model: GPT, tokenizer: Tokenizer, *, generated: float = 1.0) -> list[np.ndarray]:
    """Texts generated without a prompt from the model's own distribution (temperature 1)."""
    if tokenizer.end_of_text is None:
        return []
    length = _part(WRITTEN_TOKENS, model, generated)
    decoding = Decoding(max_new_tokens=length, temperature=1.0)
    written = generate_batch(model, tokenizer, [""], decoding, num=WRITTEN_TEXTS, seed=0)
    return [
        np.array([token.id for token in text.tokens if token.id != tokenizer.end_of_text]) for text in written
    ]


def _part(count: int, model: GPT, share: float) -> int:
    """This share of a count, at least a quarter; a quarter where generating all takes minutes."""
    slow = model.device.type == "cpu" and model.n_parameters > LARGE
    return count // 4 if slow else max(count // 4, round(share * count))


def _by_another_split(missing: NoInterval | None) -> NoInterval | None:
    """The reason with another way out: nothing can be added to a run's own held-out text."""
    if missing is None or missing.code not in ("few_documents", "few_blocks"):
        return missing
    return replace(missing, way_out=f"{HOLD_OUT_MORE}, or pieces (--split pieces)")


def _first_tokens(documents: Iterable[np.ndarray], count: int) -> list[np.ndarray]:
    taken: list[np.ndarray] = []
    for ids in documents:
        if count <= 0:
            break
        taken.append(np.asarray(ids[:count]))
        count -= len(ids)
    return taken


def explained_paragraph(
    model: GPT, tokenizer: Tokenizer, documents: Iterable[np.ndarray | Excerpt]
) -> Explanation | None:
    """The first lines of the held-out text, in whole words, explained; None if it has too few tokens."""
    for excerpt in map(as_excerpt, documents):
        text = tokenizer.decode(excerpt.ids[: 2 * PARAGRAPH_CHARACTERS])[: 2 * PARAGRAPH_CHARACTERS]
        if len(excerpt.before) and not tokenizer.decode(excerpt.before[-8:])[-1:].isspace():
            # The piece may begin in the middle of a word.
            start = re.search(r"\s", text[:LONGEST_WORD])
            text = text[start.end() if start else 0 :]
        end = text.find("\n\n", PARAGRAPH_CHARACTERS // 2)
        text = text[:end] if 0 < end < PARAGRAPH_CHARACTERS else whole_words(text, PARAGRAPH_CHARACTERS)
        if len(tokenizer.encode(text)) > 1:
            with torch.inference_mode():
                return explain_texts(model, tokenizer, [text])
    return None
