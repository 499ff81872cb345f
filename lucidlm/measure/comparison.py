"""Which of two models, or of two recipes, predicts a text better: runs and a text in, the difference out."""

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lucidlm.errors import ConfigError, DataError
from lucidlm.measure.atoms import Atoms, Judge, Passage, blocks_of, common_atoms, equal_weights
from lucidlm.measure.compared import Comparison, Run, Side
from lucidlm.measure.intervals import STRATA, Design, NoInterval, interval_of_ratio, interval_of_recipes
from lucidlm.measure.protocol import LUCID, Protocol
from lucidlm.measure.scoring import Predictor, Scorer
from lucidlm.measure.spans import best_spans
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.documents import given_text, read_texts
from lucidlm.text.reading import READING, Reading
from lucidlm.text.repetition import RepetitionCount
from lucidlm.text.tokenizer import Tokenizer

TOGETHER_BYTES = 1 << 20
"""Bytes of text that all models score before the next part is read: a long text is never all in memory."""


Loaded = tuple[Predictor, Tokenizer]
Loads = Loaded | Sequence[Loaded]
"""A model with its tokenizer, or those of several runs of a recipe."""


def compare(
    a: Loads,
    b: Loads,
    text: str | None = None,
    *,
    path: str | None = None,
    names: tuple[str | Sequence[str], str | Sequence[str]] = ("A", "B"),
    protocol: Protocol = LUCID,
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Comparison:
    """Two models with their tokenizers, as `load` gives them, on a text or the documents at a path.

    With a list of several runs on each side it compares recipes: then both seeds and text are sources of
    variance. A run that is given twice is not a second seed: ConfigError.
    A given text is cleaned as a file is: see `evaluate`.
    Each scores by evaluate's protocol, with its own context unless one is given; only bytes that all score
    count. Raises DataError where there are none, ConfigError for a tokenizer that changes the text.
    """
    if (text is None) == (path is None):
        raise ConfigError("compare takes either text=... or path=..., one of the two")
    account = Account()
    texts = (
        [given_text(text, account, reading=reading)]
        if text is not None
        else (text for _, text in read_texts([str(path)], account, reading=reading))
    )
    result = compare_texts(a, b, texts, names=names, protocol=protocol, progress=progress)
    return replace(result, account=account)


def compare_texts(
    a: Loads,
    b: Loads,
    texts: Iterable[str | Passage],
    *,
    design: Design | None = None,
    fraction: float = 0.0,
    names: tuple[str | Sequence[str], str | Sequence[str]] = ("A", "B"),
    protocol: Protocol = LUCID,
    progress: Progress = SILENT,
) -> Comparison:
    """`compare` for any number of documents, or of pieces of a book (`design` "strata").

    Without `design`, several are documents and one is cut into pages; `fraction` is the share of the book
    that the pieces are.
    """
    work = comparing(a, b, texts, design=design, fraction=fraction, names=names, protocol=protocol)
    progress.stage("comparing bytes")
    while True:
        try:
            progress.advance(next(work))
        except StopIteration as end:
            return end.value


def comparing(
    a: Loads,
    b: Loads,
    texts: Iterable[str | Passage],
    *,
    design: Design | None = None,
    fraction: float = 0.0,
    names: tuple[str | Sequence[str], str | Sequence[str]] = ("A", "B"),
    protocol: Protocol = LUCID,
) -> Generator[int, None, Comparison]:
    """`compare_texts` for who has other work between: yields the bytes done after each piece of it."""
    if protocol.name != "lucid":
        raise ConfigError(f"--protocol {protocol.name}: compare scores every token once; use lucid")
    judges = [
        Judge(name, Scorer(*loaded, protocol))
        for side, called in ((a, names[0]), (b, names[1]))
        for loaded, name in _named(side, called)
    ]
    if len(judges) > 2:
        _refuse_equal_weights(judges)
    scored = _Scored(judges, of_a=1 if _is_one(a) else len(a))
    for group in _groups(texts):
        yield from scored.adding(group)
    if not scored.atoms:
        raise DataError(
            f"no byte of the {scored.bytes_total:,} is scored by both models: give a longer text"
            + (" or leave --prefix none out" if protocol.prefix == "none" else "")
        )
    return scored.comparison(design, fraction)


class _Scored:
    """What all models paid for the documents so far, on the bytes that all of them score."""

    def __init__(self, judges: list[Judge], *, of_a: int) -> None:
        self.judges, self.of_a = judges, of_a
        self.atoms: list[Atoms] = []
        self.rows: list[np.ndarray] = []
        """(document, nats of each model, bytes) of each block."""
        self.bytes_total = self.documents = 0
        self.repetition = RepetitionCount()

    def adding(self, group: list[Passage]) -> Generator[int]:
        """Scores some documents; yields the bytes done after each piece of work."""
        scores = []
        for judge in self.judges:
            scores.append((yield from judge.scoring(group)))
        for passage, *tokens in zip(group, *scores, strict=True):
            self.bytes_total += len(passage.data)
            self.repetition.add(passage.data.decode("utf-8", "replace"))
            if (common := common_atoms(passage.data, tokens, self.of_a)) is not None:
                self.atoms.append(common)
                self.rows.append(blocks_of(self.documents, common, tokens, self.judges))
            self.documents += 1
            yield len(passage.data)

    def comparison(self, design: Design | None, fraction: float) -> Comparison:
        """The difference and its intervals."""
        blocks, of_a = np.concatenate(self.rows), self.of_a
        documents = blocks[np.flatnonzero(np.diff(blocks[:, 0], prepend=-1)), 0].astype(np.int64)
        nats, counts, design = _units(blocks, design)
        repetition = self.repetition.repetition()
        # Pieces are a random sample of a book that repeats itself as much.
        same = None if design in STRATA else repetition.same_units(len(counts), documents)
        how: dict[str, Any] = {"design": design, "fraction": fraction, "same": same}
        bits = nats / math.log(2)
        interval, no_interval = interval_of_ratio(bits[:of_a].mean(0) - bits[of_a:].mean(0), counts, **how)
        same_model = len(self.judges) == 2 and self.judges[0].is_same_model(self.judges[1])
        if same_model:
            interval, no_interval = None, NoInterval("same_model", "both are the same model")
        several = min(of_a, len(self.judges) - of_a) > 1
        recipes = interval_of_recipes(bits[:of_a], bits[of_a:], counts, **how)[0] if several else None
        runs = [_run(judge, float(each.sum())) for judge, each in zip(self.judges, nats, strict=True)]
        kind = "recipe " if several else ""
        return Comparison(
            a=_side(f"{kind}A", runs[:of_a]),
            b=_side(f"{kind}B", runs[of_a:]),
            bytes_scored=int(counts.sum()),
            bytes_total=self.bytes_total,
            documents=self.documents,
            interval=interval,
            no_interval=no_interval,
            recipes=recipes,
            repetition=repetition,
            a_wins=best_spans(self.atoms, sign=-1),
            b_wins=best_spans(self.atoms, sign=1),
            atoms=tuple(self.atoms),
            same_model=same_model,
        )


def _run(judge: Judge, nats: float) -> Run:
    scorer = judge.scorer
    return Run(judge.name, nats, judge.tokens, scorer.context_length, scorer.stride, scorer.tokenizer.name)


def _refuse_equal_weights(judges: list[Judge]) -> None:
    """ConfigError for a run that is given twice: as two seeds, it would make the interval too narrow."""
    for one, other in itertools.combinations(judges, 2):
        if equal_weights(one.scorer.model, other.scorer.model):
            raise ConfigError(
                f"{one.name} and {other.name} have equal weights: one run is not two seeds; give each run "
                "once (lucidlm train --seed N makes others)"
            )


def _is_one(side: Loads) -> bool:
    return not isinstance(side[0], tuple | list)


def _named(side: Loads, called: str | Sequence[str]) -> Iterator[tuple[Loaded, str]]:
    """Each run of a side with its name."""
    runs: Any = [side] if _is_one(side) else list(side)
    if isinstance(called, str):
        called = [called] if len(runs) == 1 else [f"{called}{number}" for number in range(1, len(runs) + 1)]
    if len(called) != len(runs):
        raise ConfigError(f"{len(called)} names for {plural(len(runs), 'run')}: give one each")
    return zip(runs, called, strict=True)


def _side(several: str, runs: list[Run]) -> Side:
    """One run has its own name; only where both sides have several runs are they called recipes."""
    name = runs[0].name if len(runs) == 1 else f"{several} ({plural(len(runs), 'run')})"
    return Side(name, tuple(runs))


def _units(rows: np.ndarray, design: Design | None) -> tuple[np.ndarray, np.ndarray, Design]:
    """Nats of each model (M, n) and bytes (n,) of each unit: documents or pieces, else blocks of one text."""
    starts = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))
    design = design or ("documents" if len(starts) > 1 else "pages")
    if design != "pages":
        rows = np.add.reduceat(rows, starts)
    return rows[:, 1:-1].T, rows[:, -1], design


def _groups(texts: Iterable[str | Passage]) -> Iterator[list[Passage]]:
    """Documents, about TOGETHER_BYTES at a time."""
    group: list[Passage] = []
    for text in texts:
        group.append(text if isinstance(text, Passage) else Passage(text.encode("utf-8")))
        if sum(len(each.data) for each in group) >= TOGETHER_BYTES:
            yield group
            group = []
    if group:
        yield group
