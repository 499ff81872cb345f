"""How well a model predicts a text: a model, a tokenizer and a text in, sums of nats, tokens and bytes out.

T inputs of a window, S stride, V vocabulary. The protocol, docs/measure.md: each token of a document is
scored once, with at least T - S tokens before it where the document has them.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from lucidlm.errors import ConfigError
from lucidlm.measure.counts import Counts
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.intervals import STRATA, Design
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.scoring import Document, Predictor, Scorer
from lucidlm.measure.shares import Share
from lucidlm.measure.shortening import Sample, differences_of, shortening_of
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.reading import READING, Reading
from lucidlm.text.tokenizer import Tokenizer


def evaluate(
    model: Predictor,
    tokenizer: Tokenizer,
    text: str | None = None,
    *,
    path: str | None = None,
    protocol: Protocol = LUCID,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Evaluation:
    """How well the model predicts a text, or the documents at a path (a file, a folder, a pattern, a URL).

    A string is cleaned in the same way as a file (line ends become LF; a byte order mark and Project
    Gutenberg's headers and footers are removed unless `reading.raw`), so that both give the same number;
    `account` says what was left out.
    Each document is scored alone, every token once: see docs/measure.md. Other protocols reproduce how others
    count, and the result says what that does differently.
    Raises DataError for a text without a token to score, ConfigError for an impossible stride or context
    length, NumbersError for logits that are NaN.
    """
    account = Account()
    if text is not None and path is None:
        texts: Iterable[str] = [given_text(text, account, reading=reading)]
    elif path is not None and text is None:
        texts = (text for _, text in read_texts([path], account, reading=reading))
    else:
        raise ConfigError("evaluate takes either text=... or path=..., one of the two")
    evaluation = evaluate_documents(model, tokenizer, texts, protocol=protocol, progress=progress)
    return replace(evaluation, account=account)


def evaluate_documents(
    model: Predictor,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    protocol: Protocol = LUCID,
    design: Design | None = None,
    fraction: float = 0.0,
    token_counts: np.ndarray | None = None,
    share: Share | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """`evaluate` for documents that have been read: texts, their ids (without end-of-text), or excerpts.

    `design` says how the documents were chosen, which decides the interval: "strata" are the pieces of a
    stratified sample of a text, "documents" several texts, "pages" one text that goes on (default: documents
    where there are two or more); `fraction` is the share of the text that the pieces are. Protocols of others
    see nothing before a piece.
    `token_counts` (V,), how often each id is in the training text, groups the losses by frequency.
    `share` says what this process scores of it, the first of several; the others call `score_share`.
    """
    scorer = Scorer(model, tokenizer, protocol)
    counts = Counts(scorer, progress)
    progress.stage("scoring tokens")
    sample = Sample()
    if share is not None:
        differences = share.score(scorer, counts, sample, documents, progress)
    else:
        for piece in scorer.pieces(counts.watch(documents)):
            counts.add(piece)
            sample.add(piece)
        differences = differences_of(scorer, sample)
    counted = scorer.counted(in_pieces=design in STRATA)
    evaluation = counts.evaluation(counted, token_counts, design, fraction)
    return replace(evaluation, rounding=shortening_of(differences))


def score_share(
    model: Predictor,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    share: Share,
    *,
    protocol: Protocol = LUCID,
) -> None:
    """Scores what `evaluate_documents` of the first process leaves to this one."""
    scorer = Scorer(model, tokenizer, protocol)
    share.score(scorer, Counts(scorer, SILENT, whole=False), Sample(), documents)
