"""A split comes in; documents, passages and lines of the validation text that are also in training go out.

All of the training text is looked at, in chunks: what each process finds is added in the order of the text.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lucidlm.runtime.files import naming
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.chunks import Chunk, chunks
from lucidlm.text.copies import Copies, CopySearch, Passage
from lucidlm.text.hashing import Keys
from lucidlm.text.kept import Kept, intact
from lucidlm.text.letters import LINE, SHINGLE, read_letters
from lucidlm.text.sightings import COMMON, Look, Wanted
from lucidlm.text.split import Division, ranges
from lucidlm.text.staged_text import StagedText
from lucidlm.text.work import Piece, Work

LOOKED_AT = 1 << 24
"""Bytes of training text that a process looks at before it says what it found."""
PREFIX = "look-"
FOUND, WANTED = "npz", "wanted.npz"
"""The kinds of files: what was found in a chunk, and what is looked for in all of them."""
LOOKING = "looking for copies"
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


def find_leaks(staged: StagedText, division: Division, key: str, work: Work) -> tuple[dict, list[str]]:
    """What of the validation part also occurs in the training part, for the manifest, and notes on it.

    Letters are compared: a copy is found after changes of case, punctuation and line ends, with one word of
    ten changed, and in text without spaces. Notes say what the check cannot see. `key` is a hash of the text.
    """
    stretches = list(ranges(division.validation))
    search = CopySearch(staged.text(start, end) for _, start, end in stretches)
    digest = hashlib.sha256(f"{key} {stretches}".encode()).hexdigest()[:16]
    work.progress.stage(LOOKING, division.train.bytes)
    work.sweep(PREFIX, lambda name: name.startswith(f"{PREFIX}{digest}"))
    wanted = _write_wanted(work.kept, f"{PREFIX}{digest}", search.wanted())
    pieces = (
        Piece(f"{PREFIX}{digest}-{chunk.digest()[:16]}", look_at, (staged, chunk, wanted), LOOKING, "bytes")
        for chunk in chunks(division.train, LOOKED_AT, functools.partial(_cuts, staged))
    )
    for name, _ in work.records(pieces):
        search.add(_read_arrays(work.kept.path(name, FOUND)))
    of_one_text = division.design in ("strata", "end")
    findings = _Findings(staged, stretches, search.copies(), of_one_text)
    return findings.manifest(), list(findings.notes())


def look_at(
    staged: StagedText, chunk: Chunk, wanted: Path, kept: Kept, name: str, *, progress: Progress
) -> dict:
    """Look for the wanted hashes in a chunk and keep what is found; returns the record."""
    look = Look(_read_wanted(wanted))

    def documents() -> Iterator[tuple[int, Iterator[str]]]:
        for document, start, end in zip(*(values.tolist() for values in chunk.stretches)):
            yield document, staged.text(start, end)
            progress.advance(end - start)

    for letters in read_letters(documents()):
        look.at(letters)
    staged.close()
    return _keep_arrays(kept, name, FOUND, look.found(), {"bytes": chunk.bytes})


def _write_wanted(kept: Kept, name: str, wanted: Wanted) -> Path:
    """The path of what is looked for: each process reads it once."""
    arrays = {"every": np.array(wanted.every)}
    for part, keys in (("shingles", wanted.shingles), ("lines", wanted.lines)):
        arrays |= {f"{part}_keys": keys.keys, f"{part}_counts": keys.counts}
    if kept.record(name) is None:
        _keep_arrays(kept, name, WANTED, arrays, {})
    return kept.path(name, WANTED)


def _keep_arrays(kept: Kept, name: str, kind: str, arrays: dict[str, np.ndarray], record: dict) -> dict:
    with kept.new(name, [kind]) as piece:
        with naming(piece.paths[kind]), open(piece.paths[kind], "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        return piece.keep(record)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with intact(path), np.load(path) as arrays:
        return dict(arrays)


@functools.lru_cache(1)
def _read_wanted(path: Path) -> Wanted:
    arrays = _read_arrays(path)
    shingles, lines = (
        Keys.of_counts(arrays[f"{name}_keys"], arrays[f"{name}_counts"]) for name in ("shingles", "lines")
    )
    return Wanted(shingles, lines, int(arrays["every"]))


def _cuts(staged: StagedText, start: int, end: int) -> Iterator[int]:
    """Places in a long stretch between two characters, after a line if one ends nearby."""
    for place in range(start + LOOKED_AT, end, LOOKED_AT):
        data = next(staged.blocks(place, min(end, place + 4096)))
        if line := data.find(b"\n") + 1:
            yield place + line
            continue
        letters = np.frombuffer(data, np.uint8)
        yield place + int(np.flatnonzero((letters & 0xC0) != 0x80)[0])  # not a continuation byte


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
