"""How much of a text a model was trained on: texts and corpora come in, a share and a sentence come out."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.copies import CopySearch
from lucidlm.text.corpus import Corpus, train_documents
from lucidlm.text.passages import EVIDENCE
from lucidlm.text.tokenizer import Tokenizer

DECODED = 1 << 17
"""Tokens that are decoded together."""
ALL = 0.99
"""From this share on, all of a text counts as trained on: its title may differ."""
NEARLY_ALL = 0.9
"""Where this much of a document is lines of the training text, those of templates count, too."""
LEAST = 0.001
"""A smaller share is not worth a line: texts of one kind share a phrase."""
FEW = 0.01
MOSTLY = 0.5
"""From this share on a text is no sample of text that was not trained on, so its number has no interval."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How much of a text occurs in the training texts of a model."""

    share: float | None
    """Share of the text's letters; None for a text that is too short to tell."""
    documents: int
    """Whole documents that occur there, of `documents_total`."""
    documents_total: int
    lines: int
    """Lines of 24 letters or more that occur there word for word, of `lines_total`."""
    lines_total: int
    searched: tuple[str, ...]
    """The runs in whose training texts it was looked for."""
    found_in: tuple[str, ...]
    """Those of them in which it was found."""
    unknown: tuple[str, ...] = ()
    """Earlier weights that the model was trained from and whose training text is not known."""
    unchecked: int = 0
    """Documents that were not searched for: those before them are enough for the share."""
    held_out: bool = False
    """Whether the text is the held-out part of the first of the runs."""

    @property
    def mostly(self) -> bool:
        """Whether most of the text was trained on: then its number is about this text only."""
        return not self.held_out and self.share is not None and self.share >= MOSTLY

    @property
    def sentence(self) -> str:
        """What to say above a number for this text; empty where nothing needs saying."""
        if self.share is None or self.share < LEAST:
            return ""
        text = "this held-out text" if self.held_out else "this text"
        where = f"letter for letter, in the training text of {' and of '.join(self.found_in)}"
        if self.share < FEW or self.held_out:
            effect = (
                "too little to change the number much" if self.share < FEW else "new text has a higher loss"
            )
            return f"{_percent(self.share)} of {text} also occurs, {where}: {effect}."
        if self.share >= ALL:
            what = (
                f"All of this text was trained on: it occurs, {where}. The number says how well the model "
                "remembers it, not how well it predicts new text."
            )
        else:
            counts = []
            if self.documents_total > 1:
                counts.append(f"{self.documents:,} of {plural(self.documents_total, 'document')} completely")
            if self.lines_total:
                counts.append(f"{self.lines:,} of {plural(self.lines_total, 'line')}")
            said = f" ({', '.join(counts)})" if counts else ""
            what = (
                f"{_percent(self.share)} of this text was trained on: it occurs, {where}"
                f"{said}. This is not a held-out number."
            )
        return f"{what} `lucidlm evaluate {self.searched[0]}` without a text gives the held-out number."

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return asdict(self)


def find_seen(
    texts: Iterable[Iterable[str]],
    runs: Sequence[tuple[str, Corpus]],
    *,
    unknown: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Seen:
    """How much of the texts, each in blocks, occurs in the training texts of these runs.

    By the thresholds of text/copies.py: what is changed more, or is shorter, than they say is not seen.
    """
    search = CopySearch(texts)
    for number, (_, corpus) in enumerate(runs):
        progress.stage("searching the training text", corpus.train_tokens)
        search.look(_documents(number, corpus, progress))
    found = search.copies()
    letters = int(found.letters.sum())
    # Lines of a template are everybody's; a text that has no others was trained on all the same.
    nearly_all = found.with_all_lines >= NEARLY_ALL * found.letters
    seen = np.where(nearly_all, found.with_all_lines, found.with_lines)
    return Seen(
        share=round(float(seen.sum() / letters), 4) if letters >= EVIDENCE else None,
        documents=int((seen >= ALL * found.letters)[found.letters > 0].sum()),
        documents_total=len(found.letters) + found.unchecked,
        lines=found.lines,
        lines_total=found.lines_total,
        searched=tuple(name for name, _ in runs),
        found_in=tuple(runs[number][0] for number in found.sources),
        unknown=tuple(unknown),
        unchecked=found.unchecked,
    )


def decoded(tokenizer: Tokenizer, documents: Iterable[np.ndarray]) -> Iterator[Iterator[str]]:
    """Documents of ids as text, each in blocks."""
    return (_blocks(tokenizer, ids) for ids in documents)


def _documents(number: int, corpus: Corpus, progress: Progress) -> Iterator[tuple[int, Iterator[str]]]:
    """The training documents of a run, each with the number of the run."""
    for ids in train_documents(corpus):
        yield number, _blocks(corpus.tokenizer, ids)
        progress.advance(len(ids))


def _blocks(tokenizer: Tokenizer, ids: np.ndarray) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a block may end within a character
    for start in range(0, len(ids), DECODED):
        yield decoder.decode(tokenizer.decode_bytes(ids[start : start + DECODED]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
