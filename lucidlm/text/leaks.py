"""Text that stands in both parts: a split comes in, shared paragraphs and near copies come out."""

import collections
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lucidlm.text.split import Part
from lucidlm.text.spool import BLOCK, Spool

LISTED = 1000
"""Of so many examples at most the manifest tells."""

_PARAGRAPH = 200
_SHINGLE = 8
_SKETCH = 64
_SKETCHED = 2_000_000
_SHARED = 32
_OVERLAP = 0.8
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def find_leaks(spool: Spool, train: Part, validation: Part) -> dict:
    """Paragraphs of 200 characters or more that stand in both parts, and documents that nearly do.

    A validation document is sketched by its smallest hashes of 8 words in a row; if 80 % of them stand in one
    training document, most of its text does (Broder 1997, "On the resemblance and containment of documents").
    """
    paragraphs, sketches = _sketched(spool, validation)
    shared: dict[int, tuple[int, str]] = {}
    near: dict[int, tuple[float, int]] = {}
    done = 0
    for document, start, end in train.ranges():
        found: list[np.ndarray] = [np.empty(0, np.int64)]
        for text in _paragraph_blocks(spool, start, end):
            for hashed, paragraph in _paragraphs(text):
                if hashed in paragraphs:
                    shared.setdefault(hashed, (document, paragraph))
            found.append(sketches.found_in(_shingles(text)))
            done += len(text)
            spool.progress("check", done, train.characters)
        rows = sketches.rows[np.unique(np.concatenate(found)).astype(np.int64)]
        for row, count in collections.Counter(rows.tolist()).items():
            overlap = count / sketches.sizes[row]
            if overlap >= _OVERLAP and overlap > near.get(row, (0, 0))[0]:
                near[row] = overlap, document
    return _told(spool, shared, paragraphs, {sketches.documents[row]: near[row] for row in sorted(near)})


@dataclass(frozen=True, slots=True)
class _Sketches:
    """Hashes of the validation documents' words, sorted, and the row to which each belongs."""

    hashes: np.ndarray
    rows: np.ndarray
    sizes: list[int]
    documents: list[int]

    def found_in(self, shingles: np.ndarray) -> np.ndarray:
        """The places of the hashes that stand among the shingles."""
        if not len(self.hashes) or not len(shingles):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.hashes, shingles)
        places[places == len(self.hashes)] = 0
        hits = np.unique(shingles[self.hashes[places] == shingles])
        first, last = (np.searchsorted(self.hashes, hits, side) for side in ("left", "right"))
        ranges = zip(first.tolist(), last.tolist())
        return np.array([place for low, high in ranges for place in range(low, high)], np.int64)


def _sketched(spool: Spool, validation: Part) -> tuple[dict[int, tuple[int, int]], _Sketches]:
    """Hash -> document and length of each long paragraph, and the sketches; of a huge text, of its start."""
    paragraphs: dict[int, tuple[int, int]] = {}
    hashes: list[np.ndarray] = []
    sizes: list[int] = []
    documents: list[int] = []
    for document, start, end in validation.ranges():
        if len(paragraphs) + len(sizes) * _SKETCH >= _SKETCHED:
            spool.notes.append(
                f"text in both parts was looked for in the first {len(documents):,} documents only"
            )
            break
        smallest = np.empty(0, np.uint64)
        for text in _paragraph_blocks(spool, start, end):
            for hashed, paragraph in _paragraphs(text):
                paragraphs.setdefault(hashed, (document, len(paragraph)))
            smallest = np.unique(np.concatenate([smallest, _shingles(text)]))[:_SKETCH]
        if len(smallest) >= _SHINGLE:  # less says nothing
            hashes.append(smallest)
            sizes.append(len(smallest))
            documents.append(document)
    joined = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(joined, kind="stable")
    # Boilerplate that stands everywhere would make each look-up as long as the list of documents.
    order = order[np.arange(len(order)) - np.searchsorted(joined[order], joined[order]) < _SHARED]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return paragraphs, _Sketches(joined[order], rows[order], sizes, documents)


def _paragraph_blocks(spool: Spool, start: int, end: int) -> Iterator[str]:
    """A stretch of the spool in blocks that end where a paragraph does, or a line of a huge one."""
    waiting = ""
    for text in spool.text(start, end):
        waiting += text
        cut = waiting.rfind("\n\n") + 1
        if not cut and len(waiting) > 4 * BLOCK:
            cut = waiting.rfind("\n") + 1 or len(waiting)
        if cut:
            yield waiting[:cut]
            waiting = waiting[cut:]
    yield waiting


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Hash and text of each long paragraph and each long line, however its lines are wrapped."""
    for block in _BLANK_LINES.split(text):
        if len(block) < _PARAGRAPH:
            continue
        lines = block.split("\n")
        whole = [block] if len(lines) > 1 else []
        for paragraph in (*whole, *(line for line in lines if len(line) >= _PARAGRAPH)):
            words = " ".join(paragraph.split())
            if len(words) >= _PARAGRAPH:
                hashed = hashlib.blake2b(words.encode("utf-8"), digest_size=8).digest()
                yield int.from_bytes(hashed, "little"), words


def _shingles(text: str) -> np.ndarray:
    """A hash of each 8 words in a row, uint64."""
    words = np.fromiter(map(zlib.crc32, text.encode("utf-8").split()), np.uint64)
    count = len(words) - _SHINGLE + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = np.zeros(count, np.uint64)
    for place in range(_SHINGLE):
        hashes = (hashes ^ words[place : place + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _told(spool: Spool, shared: dict, paragraphs: dict, near: dict[int, tuple[float, int]]) -> dict:
    """The leaks for the manifest, named, and a note on each kind."""
    examples = list(shared.items())[:LISTED]
    listed = list(near.items())[:LISTED]
    numbers = [paragraphs[hashed][0] for hashed, _ in examples] + [number for _, (number, _) in examples]
    names = spool.names(numbers + [number for place, (_, train) in listed for number in (place, train)])
    characters = sum(paragraphs[hashed][1] for hashed in shared)
    if near:
        (first, (overlap, train)) = listed[0]
        spool.notes.append(
            f"{len(near):,} validation documents stand nearly word for word in the training text (first "
            f"{names[first]}: {overlap:.0%} in {names[train]}); the validation loss will be too good"
        )
    if shared:
        spool.notes.append(
            f"{len(shared):,} paragraphs ({characters:,} characters) of the validation text stand in the "
            f"training text too (first: {examples[0][1][1][:50]!r}); the validation loss will be too good"
        )
    return {
        "near_documents": len(near),
        "documents": [
            {"validation": names[place], "train": names[train], "overlap": round(overlap, 4)}
            for place, (overlap, train) in listed
        ],
        "shared_paragraphs": len(shared),
        "shared_characters": characters,
        "paragraphs": [
            {"validation": names[paragraphs[hashed][0]], "train": names[number], "text": text[:80]}
            for hashed, (number, text) in examples
        ],
    }
