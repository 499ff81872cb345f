"""A part of the staged text comes in, its token file goes out, encoded in parallel."""

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lucidlm.errors import DataError
from lucidlm.runtime.wording import plural
from lucidlm.text.corpus import PLACES
from lucidlm.text.split import Part
from lucidlm.text.staged_text import StagedText
from lucidlm.text.threads import in_threads
from lucidlm.text.token_file import write_array, write_tokens
from lucidlm.text.tokenizer import Tokenizer


def write_part(
    folder: Path, name: str, staged: StagedText, part: Part, tokenizer: Tokenizer, *, in_pieces: bool
) -> tuple[int, list[int]]:
    """Write a part's tokens and the starts of its documents. Returns the count and each stretch's start.

    End-of-text comes before each document, and before each piece of a part that is in pieces. Where a piece
    was cut out, the training text goes on without end-of-text: to a model it means that a new text begins.
    """
    stretches, documents = array("Q"), array("Q")
    prefix = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], tokenizer.dtype)
    new_document = np.ones(len(part.documents), bool)
    if not in_pieces:
        new_document[1:] = part.documents[1:] != part.documents[:-1]

    def encoded(pieces: list[tuple[bool, bool, str]]) -> tuple[np.ndarray, list[tuple[int, bool]], int]:
        ids: list[np.ndarray] = []
        firsts, count = [], 0
        for first, marked, text in pieces:
            if first:
                firsts.append((count, marked))
                if marked:
                    ids.append(prefix)
            ids.append(tokenizer.encode_piece(text))
            count += len(ids[-1]) + (first and marked) * len(prefix)
        return np.concatenate(ids), firsts, sum(len(text) for *_, text in pieces)

    def arrays() -> Iterator[np.ndarray]:
        tokens = 0
        staged.progress.stage("encoding", part.characters)
        for ids, firsts, length in in_threads(encoded, _groups(staged, part, tokenizer, new_document)):
            stretches.extend(tokens + first for first, _ in firsts)
            documents.extend(tokens + first for first, marked in firsts if marked)
            tokens += len(ids)
            staged.progress.advance(length)
            yield ids

    path = folder / f"{name}.npy"
    tokens = write_tokens(path, arrays(), tokenizer.vocab_size)
    if tokens < 2:
        raise DataError(
            f"{name}: only {plural(tokens, 'token')}, at least 2 are needed; add text or give --val"
        )
    write_array(folder / f"{name}_documents.npy", np.array(documents, np.uint64))
    return tokens, stretches.tolist()


def _groups(
    staged: StagedText, part: Part, tokenizer: Tokenizer, new_document: np.ndarray
) -> Iterator[list[tuple[bool, bool, str]]]:
    """Pieces of the part: whether a stretch begins with it, whether that begins a document, and the text.

    They come in groups of 64 Ki characters or more, so that a thread has enough to do.
    """
    group: list[tuple[bool, bool, str]] = []
    size = 0
    for (_, start, end), marked in zip(part.ranges(), new_document.tolist()):
        first = True
        for piece in tokenizer.cut(staged.text(start, end)):
            group.append((first, marked, piece))
            first = False
            size += len(piece)
            if size >= 1 << 16:
                yield group
                group, size = [], 0
    if group:
        yield group


def write_places(folder: Path, train: Part, validation: Part, starts: list[int]) -> None:
    """Write where each piece's document begins in the training tokens, and where the piece was cut out.

    `starts` are the starts of the training stretches, and the end of the last. The cut alone is not enough:
    at the border of two documents it does not say to which one the piece belongs.
    """
    before = np.searchsorted(train.starts, validation.starts)  # training stretches before each piece
    first = np.searchsorted(train.documents, validation.documents)  # no document is held out whole
    write_array(folder / PLACES, np.array(starts, np.uint64)[np.stack((first, before), axis=1)])
