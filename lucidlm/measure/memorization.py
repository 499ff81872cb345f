"""How much of what a model writes stands in its training text: token ids in, shares and the longest run out.

n tokens in a row are an n-gram; those that hold end-of-text or reach from one text into the next are none.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lucidlm.measure.ngrams import ngram_keys
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.windows import TokenFile

Progress = Callable[[str, int, int | None], None]

SIZES = (4, 8, 16)
CHUNK = 1 << 21
"""Training tokens that are looked at together."""

_BETWEEN = -1  # parts one text from the next


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a text's n-grams stand verbatim in the training text, as a share of 1."""

    n: int
    generated: float | None
    """None where no generated text is n tokens long."""
    heldout: float | None
    """The same of held-out text: what is said by chance, or because everyone says it."""


@dataclass(frozen=True, slots=True)
class Memorization:
    """What of the generated texts is the training text's."""

    rows: tuple[Share, ...]
    longest: int
    """Tokens of the longest run in the generated texts that stands verbatim in the training text."""
    longest_text: str
    generated_tokens: int
    heldout_tokens: int

    def __str__(self) -> str:
        """A table of the shares, and the longest run."""
        lines = ["tokens in a row  generated  held-out"]
        lines += [
            f"{row.n:>15}  {_percent(row.generated):>9}  {_percent(row.heldout):>8}" for row in self.rows
        ]
        counted = f"of {self.generated_tokens:,} generated and {self.heldout_tokens:,} held-out tokens"
        shown = f": {self.longest_text!r}" if self.longest else ""
        lines.append(f"share that stands verbatim in the training text, {counted}")
        lines.append(f"longest verbatim run: {self.longest:,} tokens{shown}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Memorization":
        """What `to_dict` gave."""
        rows = tuple(Share(**row) for row in values["rows"])
        others = (values[name] for name in ("longest", "longest_text", "generated_tokens", "heldout_tokens"))
        return cls(rows, *others)


def measure_memorization(
    tokenizer: Tokenizer,
    generated: Sequence[np.ndarray],
    heldout: Sequence[np.ndarray],
    training: TokenFile | np.ndarray,
    *,
    sizes: Sequence[int] = SIZES,
    progress: Progress | None = None,
) -> Memorization:
    """What of the generated and the held-out texts stands in the training tokens.

    The training text is read once, in chunks: it may be larger than memory. Shares go by hashes of 64 bits;
    the longest run is compared token by token.
    """
    end_of_text = _BETWEEN if tokenizer.end_of_text is None else tokenizer.end_of_text
    texts = [_text(documents, end_of_text) for documents in (generated, heldout)]
    wanted = [_Wanted(texts, n) for n in sizes]
    run = _Run(0, 0)
    for start in range(0, len(training), CHUNK):
        end = min(start + CHUNK, len(training))
        for these in wanted:
            places, _ = these.found_in(training[start : end + these.n - 1])
            these.found[places] = True
        run = _longer(run, texts[0], training, start, end)
        if progress is not None:
            progress("compare", end, len(training))
    return Memorization(
        rows=tuple(Share(these.n, *map(these.share, texts)) for these in wanted),
        longest=run.length,
        longest_text=tokenizer.decode(texts[0].ids[run.place : run.place + run.length]),
        generated_tokens=sum(map(len, generated)),
        heldout_tokens=sum(map(len, heldout)),
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """Texts in a row, and how many borders stand before each place."""

    ids: np.ndarray
    borders: np.ndarray  # (len(ids) + 1,)

    def places(self, n: int) -> np.ndarray:
        """Where n-grams without a border in them start."""
        return np.flatnonzero(self.borders[n:] == self.borders[: max(0, len(self.borders) - n)])

    def keys(self, n: int) -> np.ndarray:
        return ngram_keys(self.ids, n)[self.places(n)]


def _text(documents: Sequence[np.ndarray], end_of_text: int) -> _Text:
    between = np.array([_BETWEEN])
    ids = np.concatenate([between, *(part for ids in documents for part in (ids, between))]).astype(np.int64)
    borders = np.cumsum((ids == _BETWEEN) | (ids == end_of_text))
    return _Text(ids, np.concatenate(([0], borders)))


class _Wanted:
    """The n-grams of some texts, and which of them were found."""

    def __init__(self, texts: list[_Text], n: int) -> None:
        self.n = n
        self.keys, firsts = np.unique(np.concatenate([text.keys(n) for text in texts]), return_index=True)
        self.firsts = firsts
        """Which of all n-grams, in order, is the first with each key."""
        self.found = np.zeros(len(self.keys), bool)
        # Most of the training text is not wanted, and the first bits of a key tell so at once.
        bits = max(10, min(26, (16 * len(self.keys)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._beginnings = np.zeros(1 << bits, bool)
        self._beginnings[self.keys >> self._shift] = True

    def found_in(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places among the keys, and in the ids, of all that is found there."""
        keys = ngram_keys(ids, self.n)
        where = np.flatnonzero(self._beginnings[keys >> self._shift])
        keys = keys[where]
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        equal = self.keys[places] == keys
        return places[equal], where[equal]

    def share(self, text: _Text) -> float | None:
        """How many of a text's n-grams were found."""
        keys = text.keys(self.n)
        return float(self.found[np.searchsorted(self.keys, keys)].mean()) if len(keys) else None


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens of a text, from a place on, that stand in the training text."""

    length: int
    place: int


def _longer(run: _Run, text: _Text, training: TokenFile | np.ndarray, start: int, end: int) -> _Run:
    """The longest run that begins in training[start:end], or the one that is known if none is longer."""
    found = _run_of(run.length + 1, text, training, start, end)
    if found is None:
        return run
    while (longer := _run_of(2 * found.length, text, training, start, end)) is not None:
        found = longer
    limit = 2 * found.length
    while (length := (found.length + limit) // 2) > found.length:
        longer = _run_of(length, text, training, start, end)
        found, limit = (found, length) if longer is None else (longer, limit)
    return found


def _run_of(n: int, text: _Text, training: TokenFile | np.ndarray, start: int, end: int) -> _Run | None:
    """A run of n tokens that begins in training[start:end]; None where there is none."""
    wanted = _Wanted([text], n)
    if len(wanted.keys) == 0:
        return None
    ids, starts = training[start : end + n - 1], text.places(n)
    for key, place in zip(*wanted.found_in(ids)):
        here = int(starts[wanted.firsts[key]])
        # Two different n-grams might have one key.
        if np.array_equal(ids[place : place + n], text.ids[here : here + n]):
            return _Run(n, here)
    return None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
