"""A split comes in; documents, passages and lines of the validation text that are also in training go out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.runtime.wording import plural
from lucidlm.text.copies import COMMON, Copies, CopySearch, Passage
from lucidlm.text.letters import LINE, SHINGLE
from lucidlm.text.split import Part
from lucidlm.text.staged_text import StagedText

LISTED = 1000
"""Examples of each kind in the manifest, at most."""
MUCH = 0.4
"""A validation document with at least this share in copied passages is called a copy."""
NEARLY = 0.8
"""The same share for passages and whole lines together."""
MANY_LINES = 0.1
"""Copied lines count if they make up at least this share of the validation text."""
FEW = 0.01
"""A share of the validation text that hardly changes its loss."""
NOTED = 0.5
"""A share in templates, or of documents too short to check, that is noted."""


def find_leaks(staged: StagedText, train: Part, validation: Part) -> dict:
    """What of the validation part also occurs in the training part; adds notes on it to the staged text.

    Letters are compared: a copy is found after changes of case, punctuation and line ends, with one word of
    ten changed, and in text without spaces. Notes say what the check cannot see.
    """
    stretches = list(validation.ranges())
    search = CopySearch(staged.text(start, end) for _, start, end in stretches)

    def documents() -> Iterator[tuple[int, Iterator[str]]]:
        for document, start, end in train.ranges():
            yield document, staged.text(start, end)
            staged.progress.advance(end - start)

    staged.progress.stage("looking for copies", train.bytes)
    search.look(documents())
    of_one_text = bool(np.isin(validation.documents, train.documents).any())
    findings = _Findings(staged, stretches, search.copies(), of_one_text)
    staged.notes.extend(findings.notes())
    return findings.manifest()


@dataclass(frozen=True, slots=True)
class _Findings:
    """What was found, for the manifest and in words."""

    staged: StagedText
    stretches: list[tuple[int, int, int]]
    """Document, first byte and end of each stretch of the validation part."""
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
        """A note on each kind of copy, and on what the check could not see."""
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
                f"also in the training text: {plural(len(passages), 'passage')} of the validation text "
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
        if (template := self._share_of(copies.template)) >= NOTED:
            yield (
                f"{template:.0%} of the validation text follows templates (sequences that occur more than "
                f"{COMMON} times {self._where_templates_occur()}): these are not counted as copies"
            )
        short = copies.letters < SHINGLE
        if short.mean() >= NOTED:
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
        """The passages outside copied documents."""
        near = set(self._near())
        return [each for each in self.copies.passages if each.text not in near]

    def _lines_count(self) -> bool:
        """Whether copied lines make up enough of the text to count."""
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
            # The loss is right for this text: the rest of it repeats itself as much.
            return f"{share:.0%} of the held-out text is in both; a text without repetition has a higher loss"
        return f"{share:.0%} of the validation text is in both, so its loss is too low"

    def _of_all(self, count: int, one: str, many: str) -> str:
        """The number of pieces or documents, with its verb."""
        return f"{count:,} of {plural(len(self.copies.letters), self._noun())} {one if count == 1 else many}"

    def _noun(self) -> str:
        return "held-out piece" if self.of_one_text else "validation document"

    def _documents_of(self, passage: Passage) -> tuple[int, int]:
        return self.stretches[passage.text][0], passage.source

    def _texts(self, passages: list[Passage]) -> Iterator[str]:
        """The text of these passages."""
        row, text = -1, ""
        for each in passages:
            if each.text != row:
                row, text = each.text, "".join(self.staged.text(*self.stretches[each.text][1:]))
            yield text[each.start : each.end]
