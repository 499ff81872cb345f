"""Text that occurs in both parts: a split comes in, copied documents, passages and lines come out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.runtime.wording import plural
from lucidlm.text.copies import COMMON, Copies, CopySearch, Passage
from lucidlm.text.letters import LINE, SHINGLE
from lucidlm.text.split import Part
from lucidlm.text.staged_text import StagedText

LISTED = 1000
"""Of so many examples at most the manifest tells."""
MUCH = 0.4
"""Share of a validation document in copied passages from which on the document is called a copy."""
NEARLY = 0.8
"""The same for passages and whole lines together."""
MANY_LINES = 0.1
"""Share of the validation text in lines that also occur in training, from which on lines count as copied."""
FEW = 0.01
"""A share of the validation text that changes its loss by next to nothing."""
MOSTLY = 0.5
"""Share of the validation text in templates, or in documents too short to check, that is said."""


def find_leaks(staged: StagedText, train: Part, validation: Part) -> dict:
    """What of the validation part also occurs in the training part; notes on it go to the staged's notes.

    Compared are letters: a copy is found whatever happened to case, punctuation and line ends, with one word
    of ten changed, and in text without spaces. What the check cannot see is said.
    """
    stretches = list(validation.ranges())
    search = CopySearch(staged.text(start, end) for _, start, end in stretches)

    def documents() -> Iterator[tuple[int, Iterator[str]]]:
        for document, start, end in train.ranges():
            yield document, staged.text(start, end)
            staged.progress.advance(end - start)

    staged.progress.stage("looking for copies", train.bytes)
    for _ in search.look(documents()):
        pass
    of_one_text = bool(np.isin(validation.documents, train.documents).any())
    findings = _Findings(staged, stretches, search.copies(), of_one_text)
    staged.notes.extend(findings.notes())
    return findings.manifest()


@dataclass(frozen=True, slots=True)
class _Findings:
    """What was found, and how to say it."""

    staged: StagedText
    stretches: list[tuple[int, int, int]]
    """Document, first and last byte of each stretch of the validation part."""
    copies: Copies
    of_one_text: bool
    """Whether both parts are pieces of the same documents."""

    def manifest(self) -> dict:
        """The findings with names and examples."""
        copies, near = self.copies, self._near()
        listed, passages = near[:LISTED], self._passages()
        documents = [self.stretches[row][0] for row in listed] + copies.source[listed].tolist()
        documents += [number for each in passages[:LISTED] for number in self._documents_of(each)]
        names = self.staged.names(documents)
        return {
            "share": round(self._share(), 4),
            "near_documents": len(near),
            "documents": [
                {
                    "validation": names[self.stretches[row][0]],
                    "train": names[int(copies.source[row])],
                    "overlap": round(float(copies.with_lines[row] / copies.letters[row]), 4),
                }
                for row in listed
            ],
            "passages": len(passages),
            "passage_characters": sum(each.end - each.start for each in passages),
            "examples": [
                {"validation": names[place], "train": names[train], "text": text[:80]}
                for (place, train), text in zip(
                    map(self._documents_of, passages[:LISTED]), self._texts(passages[:LISTED])
                )
            ],
            "lines": copies.lines,
            "lines_total": copies.lines_total,
            "template_share": round(self._share_of(copies.template), 4),
            "too_short_documents": int((copies.letters < SHINGLE).sum()),
            "unchecked_documents": copies.unchecked,
        }

    def notes(self) -> Iterator[str]:
        """A sentence on each kind of copy, and on what the check could not see."""
        copies, near, passages = self.copies, self._near(), self._passages()
        if near and self.of_one_text:
            yield (
                f"{self._of_all(len(near), 'repeats', 'repeat')} the training text, each in "
                f"{MUCH:.0%} of its letters or more: {self._effect()}"
            )
        elif near:
            first = near[0]
            place, source = self.stretches[first][0], int(copies.source[first])
            names = self.staged.names([place, source])
            overlap = copies.with_lines[first] / copies.letters[first]
            count = self._of_all(len(near), "is", "are")
            yield (
                f"{count} copied from training documents, each by {MUCH:.0%} or more "
                f"(first: {names[place]}, {overlap:.0%} in {names[source]}): {self._effect()}"
            )
        if passages:
            characters = sum(each.end - each.start for each in passages)
            example = " ".join(next(iter(self._texts(passages[:1]))).split())[:50]
            yield (
                f"found in the training text too: {plural(len(passages), 'passage')} of the validation text "
                f"({plural(characters, 'character')}, first: {example!r}): {self._effect()}"
            )
        if self._lines_count():
            occur = "occurs" if copies.lines == 1 else "occur"
            yield (
                f"{copies.lines:,} of {plural(copies.lines_total, 'validation line')} with {LINE} letters or "
                f"more also {occur} in the training text: {self._effect()}"
            )
        yield from self._unseen()

    def _unseen(self) -> Iterator[str]:
        copies = self.copies
        if (template := self._share_of(copies.template)) >= MOSTLY:
            yield (
                f"{template:.0%} of the validation text follows templates (sequences that occur more than "
                f"{COMMON} times {self._where_templates_occur()}): these are not counted as copies"
            )
        short = copies.letters < SHINGLE
        if short.mean() >= MOSTLY:
            yield (
                f"{self._of_all(int(short.sum()), 'has', 'have')} fewer than {SHINGLE} letters: "
                "too short to check for copies from the training text"
            )
        if copies.unchecked:
            yield (
                "copies from the training text were looked for in the first "
                f"{plural(len(copies.letters), self._noun())} only, not in the other {copies.unchecked:,}"
            )

    def _where_templates_occur(self) -> str:
        copies = self.copies
        training, validation = map(self._share_of, (copies.template_elsewhere, copies.template_here))
        if validation < FEW:
            return "in the training text"
        if training < FEW:
            return "in the validation text itself"
        return f"in the training text: {training:.0%}, in the validation text itself: {validation:.0%}"

    def _near(self) -> list[int]:
        """The stretches that are copies."""
        copies = self.copies
        letters = np.maximum(copies.letters, 1)
        near = (copies.copied >= MUCH * letters) & (copies.copied > 0)
        near |= (copies.with_lines >= NEARLY * letters) & (copies.with_lines > 0)
        return np.flatnonzero(near).tolist()

    def _passages(self) -> list[Passage]:
        """Those outside the copied documents."""
        near = set(self._near())
        return [each for each in self.copies.passages if each.text not in near]

    def _lines_count(self) -> bool:
        """Whether lines make up much of the text in both parts."""
        return self._share_of(self.copies.with_lines - self.copies.copied) >= MANY_LINES

    def _share(self) -> float:
        return self._share_of(self.copies.with_lines if self._lines_count() else self.copies.copied)

    def _share_of(self, letters: np.ndarray) -> float:
        total = int(self.copies.letters.sum())
        return float(letters.sum() / total) if total else 0.0

    def _effect(self) -> str:
        share = self._share()
        if share < FEW:
            return f"{share:.2%} of it, too little to change the validation loss much"
        if self.of_one_text:
            # Of this text the number is right all the same: the rest of it repeats itself as much.
            return f"{share:.0%} of the held-out text is in both; a text without repetition has a higher loss"
        return f"{share:.0%} of the validation text is in both, so its loss is too low"

    def _of_all(self, count: int, one: str, many: str) -> str:
        """How many of the pieces or documents, and the verb of as many."""
        return f"{count:,} of {plural(len(self.copies.letters), self._noun())} {one if count == 1 else many}"

    def _noun(self) -> str:
        return "held-out piece" if self.of_one_text else "validation document"

    def _documents_of(self, passage: Passage) -> tuple[int, int]:
        return self.stretches[passage.text][0], passage.source

    def _texts(self, passages: list[Passage]) -> Iterator[str]:
        """The passages as they stand in the validation text."""
        row, text = -1, ""
        for each in passages:
            if each.text != row:
                row, text = each.text, "".join(self.staged.text(*self.stretches[each.text][1:]))
            yield text[each.start : each.end]
