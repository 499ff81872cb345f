"""All that can be said of a model on a text: evaluation, baselines, memorization, and a verdict."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lucidlm.measure.baselines import FEWEST_BYTES, Baselines, measure_baselines, too_few_bytes
from lucidlm.measure.continuation import PROMPTS, measure_continuation
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.explanation import Explanation, explain_texts
from lucidlm.measure.intervals import HOLD_OUT_MORE, MORE_DOCUMENTS, Design
from lucidlm.measure.memorization import Memorization, measure_memorization, sentence_of
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.seen import NO_INTERVAL, Seen
from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate_batch
from lucidlm.model.gpt import GPT
from lucidlm.pages.page import notebook
from lucidlm.report.course import FEWEST_TOKENS, Course, course_of
from lucidlm.report.ladder import Ladder, ladder_of
from lucidlm.report.verdict import course_sentences, gain_sentence, place_sentences, too_little_text
from lucidlm.runs.history import History
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import whole_words
from lucidlm.text.corpus import Corpus, train_documents, validation_documents
from lucidlm.text.excerpts import Excerpt, as_excerpt, ids_of
from lucidlm.text.tokenizer import Tokenizer

WRITTEN_TEXTS = 4
"""Texts that a model writes so that memorization can be counted."""
WRITTEN_TOKENS = 256
"""Their length; a quarter of it for a large model on a processor, which would write for minutes."""
LARGE = 50_000_000
BASELINE_BYTES = 10_000_000
"""Bytes of training text that the baselines are given: half a minute's worth."""
PARAGRAPH_CHARACTERS = 500
"""About so long is the held-out paragraph that is explained."""
LONGEST_WORD = 30
REFERENCE_TOKENS = 100_000
"""Held-out tokens whose sequences are looked for in the training text, for comparison."""
COUNTED_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Judgement:
    """What can be said of a model on a held-out text, knowing what it was trained on."""

    evaluation: Evaluation
    baselines: Baselines | None
    ladder: Ladder | None
    """The model among the baselines."""
    memorization: Memorization | None
    explanation: Explanation | None
    sentences: tuple[str, ...]
    course: Course | None = None
    """How the run went whose weights these are; None where its history is not at hand."""
    seen: Seen | None = None
    """How much of the text the model was trained on; None where that is not known."""

    @property
    def verdict(self) -> str:
        """All sentences, in one line."""
        return " ".join(self.sentences)

    @property
    def warning(self) -> str:
        """That the model was trained on this text, where it was: it belongs above every number."""
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
        if self.ladder is not None:
            parts.append(str(self.ladder))
        if self.memorization is not None:
            parts.append(str(self.memorization))
        return "\n\n".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, and the numbers and baselines as tables."""
        return notebook(
            "judgement_part.html",
            sentences=[self.warning, *self.sentences] if self.warning else self.sentences,
            rows=self.evaluation.rows(),
            no_interval=self.evaluation.no_interval,
            protocol=str(self.evaluation.protocol),
            ladder=self.ladder.rows() if self.ladder else None,
        )


def judge(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Sequence[np.ndarray | Excerpt],
    *,
    corpus: Corpus,
    history: History | None = None,
    started_from: str | None = None,
    remarks: Sequence[str] = (),
    sample_of: int | None = None,
    seen: Seen | None = None,
    limit_bytes: int = BASELINE_BYTES,
    effort: float = 1.0,
    protocol: Protocol = LUCID,
    design: Design | None = None,
    fraction: float = 0.0,
    progress: Progress = SILENT,
) -> Judgement:
    """All of it, for held-out documents, as `evaluate_documents` takes them, and the corpus learnt from.

    `history` is that of a run whose own held-out text this is, and `started_from` names the weights that the
    run went on from; `remarks` are sentences that come first; `sample_of` is the number of tokens of the
    held-out part where the documents are a sample of it; `seen` says how much of them was trained on;
    `limit_bytes` of training text are given to the baselines at most, which predict the text as its tokens
    spell it; `effort` is the part of the usual length that the model generates; `protocol`, `design` and
    `fraction` are those of `evaluate_documents`. Nothing in it looks at a clock: the same weights are judged
    the same.
    """
    evaluation = evaluate_documents(
        model,
        tokenizer,
        documents,
        protocol=protocol,
        design=design,
        fraction=fraction,
        token_counts=count_tokens(corpus),
        progress=progress,
    )
    whole_documents = history is not None and corpus.design == "documents"
    if whole_documents:  # of a run's own text the way to an interval is another split
        evaluation = replace(evaluation, no_interval=_by_another_split(evaluation.no_interval))
    if sample_of is not None and evaluation.tokens_total < sample_of:
        evaluation = replace(evaluation, sample_of=sample_of)
    evaluation = _about_new_text(evaluation, seen)
    prefix_id = model.document_prefix_id if evaluation.protocol.prefix != "none" else None
    held_out = ids_of(documents)
    baselines = ladder = None
    if evaluation.bytes_scored >= FEWEST_BYTES:
        baselines = measure_baselines(
            tokenizer,
            train_documents(corpus),
            documents,
            prefix_id=prefix_id,
            limit_bytes=limit_bytes,
            progress=progress,
        )
        ladder = replace(
            ladder_of(
                evaluation.bits_per_byte,
                evaluation.units,
                evaluation.design,
                baselines,
                fraction=evaluation.fraction,
                same=evaluation.same,
                no_interval=NO_INTERVAL if seen is not None and seen.mostly else "",
            ),
            caution=evaluation.caution,
            interval=evaluation.bits_interval,
        )
        if whole_documents:
            ladder = replace(ladder, no_interval=_by_another_split(ladder.no_interval))
    progress.stage("generating text")
    # A text that was given may have been trained on: the run's own held-out text was not.
    own = held_out if history is not None else [excerpt.ids for excerpt in validation_documents(corpus)]
    reference = _first_tokens(own, REFERENCE_TOKENS)
    memorization = measure_memorization(
        tokenizer,
        write_texts(model, tokenizer, effort=effort),
        reference,
        corpus.train,
        continuation=measure_continuation(
            model,
            tokenizer,
            reference,
            corpus.train,
            prompts=_part(PROMPTS, model, effort),
        ),
        progress=progress,
    )
    course = (
        course_of(history, baselines=baselines, design=corpus.design)
        if history is not None and history.validations
        else None
    )
    longer = course is None or course.longer_helps
    few = evaluation.tokens_scored < FEWEST_TOKENS
    sentences = (
        *remarks,
        gain_sentence(history, started_from) if history is not None and started_from else "",
        course_sentences(course) if course is not None else "",
        too_little_text(evaluation.tokens_scored) if few else "",
        too_few_bytes(evaluation.bytes_scored)
        if ladder is None
        else ""
        if few
        else _with_caution(
            place_sentences(ladder, own=history is not None, longer=longer), evaluation.caution
        ),
        sentence_of(memorization, who="the best weights" if history is not None else "the model"),
    )
    told = tuple(dict.fromkeys(sentence for sentence in sentences if sentence))
    return Judgement(
        evaluation,
        baselines,
        ladder,
        memorization,
        _paragraph(model, tokenizer, documents),
        told,
        course,
        seen,
    )


def without_training_text(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[np.ndarray | Excerpt],
    *,
    remarks: Sequence[str] = (),
    seen: Seen | None = None,
    protocol: Protocol = LUCID,
    design: Design | None = None,
    fraction: float = 0.0,
    progress: Progress = SILENT,
) -> Judgement:
    """What can be said without knowing what the model was trained on: its evaluation, and a paragraph."""
    first: list[np.ndarray | Excerpt] = []

    def watched() -> Iterator[np.ndarray | Excerpt]:
        for document in documents:
            if not first:
                first.append(document)
            yield document

    evaluation = evaluate_documents(
        model, tokenizer, watched(), protocol=protocol, design=design, fraction=fraction, progress=progress
    )
    evaluation = _about_new_text(evaluation, seen)
    paragraph = _paragraph(model, tokenizer, first)
    return Judgement(evaluation, None, None, None, paragraph, tuple(remarks), seen=seen)


def _about_new_text(evaluation: Evaluation, seen: Seen | None) -> Evaluation:
    """Without intervals where the text was trained on: they would be of text that was not."""
    return evaluation.without_intervals(NO_INTERVAL) if seen is not None and seen.mostly else evaluation


def count_tokens(corpus: Corpus) -> np.ndarray:
    """How often each id stands in the training text: (V,)."""
    counts = np.zeros(corpus.tokenizer.vocab_size, np.int64)
    for start in range(0, len(corpus.train), COUNTED_AT_ONCE):
        counts += np.bincount(corpus.train[start : start + COUNTED_AT_ONCE], minlength=len(counts))
    return counts


def write_texts(model: GPT, tokenizer: Tokenizer, *, effort: float = 1.0) -> list[np.ndarray]:
    """Texts as the model believes them: temperature 1, no prompt."""
    if tokenizer.end_of_text is None:
        return []
    length = _part(WRITTEN_TOKENS, model, effort)
    decoding = Decoding(max_new_tokens=length, temperature=1.0)
    written = generate_batch(model, tokenizer, [""], decoding, num=WRITTEN_TEXTS, seed=0)
    return [
        np.array([token.id for token in text.tokens if token.id != tokenizer.end_of_text]) for text in written
    ]


def _part(count: int, model: GPT, effort: float) -> int:
    """A quarter where generating all takes minutes; else as much as the effort, a quarter at least."""
    return count // 4 if _slow(model) else max(count // 4, round(effort * count))


def _slow(model: GPT) -> bool:
    """Whether generating takes minutes."""
    return model.device.type == "cpu" and model.n_parameters > LARGE


def _by_another_split(reason: str) -> str:
    return reason.replace(MORE_DOCUMENTS, f"{HOLD_OUT_MORE}, or pieces (--split pieces)")


def _with_caution(sentence: str, caution: str) -> str:
    return f"{sentence.removesuffix('.')} ({caution})." if caution else sentence


def _first_tokens(documents: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    taken: list[np.ndarray] = []
    for ids in documents:
        if count <= 0:
            break
        taken.append(np.asarray(ids[:count]))
        count -= len(ids)
    return taken


def _paragraph(
    model: GPT, tokenizer: Tokenizer, documents: Sequence[np.ndarray | Excerpt]
) -> Explanation | None:
    """The first lines of the held-out text, in whole words, explained; None where it has too few tokens."""
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
