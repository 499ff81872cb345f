"""How much of its training text a model gives back: token ids in, shares, runs, a finding and a sentence out.

Everything is measured beside held-out text: phrases, names and templates occur in any text of a kind. The
rules and their reasons are in docs/verdicts.md. n tokens in a row are an n-gram; one that holds end-of-text
or reaches from one text into the next is none.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lucidlm.measure.continuation import CONTINUED_BYTES, SPAN, Continuation
from lucidlm.measure.copies import ANCHOR, BORDER, Chunk, Counted, Longest, Spans, Spelling, Text
from lucidlm.measure.near_copies import WINDOW, NearCopies, normalized, windows_of
from lucidlm.measure.ngram_counts import ngram_keys
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural, whole_words
from lucidlm.text.hashing import Keys
from lucidlm.text.token_file import TokenFile
from lucidlm.text.tokenizer import Tokenizer

SIZES = (4, 8, 16)
NEAR = 0.2
"""A window of which at most this share must be edited to be a span of the training text is a near copy."""
MORE = 0.05
"""A share of copied spans so far above the held-out text's is memorization."""
RUN_FACTOR = 1.5
"""A run of SPAN bytes or more is memorized if it is so many times as long as the held-out text's longest."""
SAME = 0.5
"""Where more of the held-out text's spans occur in the training text, copy and kind cannot be told apart."""
REPEATED_BYTES, REPEATED_TIMES = 20, 10
"""A sequence that is so long and occurs so often in the training text is reported with its count."""
CHANCE = 0.05
"""The probability by which two shares may differ if they are of one kind."""
LEAST_CONTINUED = 2
"""Prompts that must be continued verbatim: one may be a refrain or a quotation."""
OWN = "the run's held-out text"
"""What all is measured beside, whatever text is evaluated."""
SHOWN = 60
"""Characters of a sequence that a line shows."""

CONTROL_WINDOWS = 32
CHUNK = 1 << 18
"""Training tokens that are looked at together."""

_BETWEEN = -1  # parts one text from the next

Code = Literal[
    "too_little", "none", "memorized", "continues", "near_verbatim", "cannot_tell", "repeated_sequence"
]


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a text's n-grams stand verbatim in the training text, as a share of 1."""

    n: int
    generated: float | None
    """None where no generated text is n tokens long."""
    heldout: float | None
    """The same of held-out text: what is said by chance, or because everyone says it."""


@dataclass(frozen=True, slots=True)
class LongestRun:
    """The longest run of bytes that occurs verbatim in the training text."""

    bytes: int
    """0 where none has ANCHOR bytes: shorter ones are not looked for."""
    text: str
    times: int
    """How often the run occurs in the training text."""
    at_least: bool
    """Whether it occurs more often than that."""
    heldout_bytes: int
    """Length of the held-out text's own longest run."""


@dataclass(frozen=True, slots=True)
class NearShare:
    """Windows that are near copies of the training text: case and white space do not count."""

    windows: int
    near: int
    closest: float | None
    """Edits of the nearest, as a share of its bytes; None where no span had enough in common to compare."""
    heldout_windows: int
    heldout_near: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """A generated sequence that occurs many times in the training text."""

    text: str
    bytes: int
    times: int
    at_least: bool
    heldout_times: int


@dataclass(frozen=True, slots=True)
class Memorization:
    """What of the generated texts is the training text's."""

    rows: tuple[Share, ...]
    spans: Share
    """Of SPAN bytes, comparable across tokenizers."""
    longest: LongestRun
    near: NearShare
    continuation: Continuation | None
    """None where no model was asked, or the training text has no place for a prompt."""
    repeated: Repeated | None
    generated_tokens: int
    heldout_tokens: int
    generated_bytes: int
    heldout_bytes: int

    @property
    def code(self) -> Code:
        """What was found, by the rules of docs/verdicts.md."""
        near = self.near
        same_kind = (self.spans.heldout or 0.0) > SAME or near.heldout_near > SAME * near.heldout_windows
        if not same_kind and (self._copies_spans or self._copies_a_run):
            return "memorized"
        if self._continues:
            return "continues"
        if same_kind and self._copies_at_all:
            return "cannot_tell"
        if _more(near.near, near.windows, near.heldout_near, near.heldout_windows):
            return "near_verbatim"
        if self.repeated is not None:
            return "repeated_sequence"
        return "too_little" if self.spans.generated is None else "none"

    @property
    def _copies_at_all(self) -> bool:
        return (self.spans.generated or 0.0) >= MORE or self.longest.bytes >= SPAN or self.near.near > 0

    @property
    def _copies_spans(self) -> bool:
        return (self.spans.generated or 0.0) >= MORE + (self.spans.heldout or 0.0)

    @property
    def _copies_a_run(self) -> bool:
        run = self.longest
        return run.bytes >= max(SPAN, RUN_FACTOR * run.heldout_bytes)

    @property
    def _continues(self) -> bool:
        found = self.continuation
        if found is None or found.copied < LEAST_CONTINUED:
            return False
        return found.heldout_copied <= SAME * found.heldout_prompts and _more(
            found.copied, found.prompts, found.heldout_copied, found.heldout_prompts
        )

    def __str__(self) -> str:
        """A table of the shares, and what else was found."""
        lines = [f"     in a row  generated  {OWN}"]
        for row, unit in [*((row, "tokens") for row in self.rows), (self.spans, "bytes")]:
            lines.append(
                f"{row.n:>6} {unit:<6}  {_or_none(row.generated):>9}  {_or_none(row.heldout):>{len(OWN)}}"
            )
        lines.append(
            f"share found verbatim in the training text, of {self.generated_tokens:,} generated tokens and "
            f"{self.heldout_tokens:,} of {OWN}"
        )
        return "\n".join([*lines, *self.facts()])

    def facts(self) -> list[str]:
        """A line on each of longest run, near copies, continuation and repeated sequence."""
        run, near, found, repeated = self.longest, self.near, self.continuation, self.repeated
        shown = f": {_shortened(run.text)}" if run.bytes else ""
        lines = [f"{_run(run)}{shown}"]
        if near.windows:
            closest = "" if near.closest is None else f"; the closest has {_percent(near.closest)} edited"
            heldout = f"{OWN} {near.heldout_near} of {near.heldout_windows}"
            lines.append(
                f"near copies (up to {_percent(NEAR)} edited, case and white space ignored): "
                f"{near.near} of {near.windows} windows, {heldout}{closest}"
            )
        if found is not None:
            most = " or more" if found.median_bytes >= CONTINUED_BYTES else ""
            lines.append(
                f"greedy decoding: {_asked(self)}; median {plural(found.median_bytes, 'byte')}{most}"
            )
        if repeated is not None:
            lines.append(
                f"sequence that occurs {_times(repeated)} in the training text, "
                f"{repeated.heldout_times:,} times in {OWN}: {_shortened(repeated.text)}"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return asdict(self) | {"code": self.code}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Memorization":
        """What `to_dict` gave."""
        parts: dict[str, Any] = {name: value for name, value in values.items() if name != "code"}
        parts["rows"] = tuple(Share(**row) for row in values["rows"])
        for name, kind in (
            ("spans", Share),
            ("longest", LongestRun),
            ("near", NearShare),
            ("continuation", Continuation),
            ("repeated", Repeated),
        ):
            parts[name] = None if values[name] is None else kind(**values[name])
        return cls(**parts)


def sentence_of(memorization: Memorization, *, who: str = "the model") -> str:
    """What was found, in a sentence or two; "" where there is too little. `who` generated the texts."""
    near, run = memorization.near, _run(memorization.longest)
    copied, asked, also = _copied(memorization, who), _asked(memorization), _also(memorization)
    match memorization.code:
        case "memorized":
            return f"Memorization in generated text: {_joined(copied, run)}.{also}"
        case "continues":
            return f"Memorization of passages that are begun: {_joined(asked, copied, run)}.{also}"
        case "cannot_tell":
            reason = f"cannot tell, as {OWN} repeats the training text as well"
            return f"Memorization: {reason}: {_joined(copied, run)}."
        case "near_verbatim":
            passages = (
                f"{near.near} of {near.windows} passages of {WINDOW} bytes that {who} generated differ from "
                f"the training text in at most {_percent(NEAR)} of their bytes, case and white space ignored "
                f"({OWN}: {near.heldout_near} of {near.heldout_windows})"
            )
            return f"Memorization, nearly verbatim: {_joined(passages, copied)}.{also}"
        case "repeated_sequence":
            return f"No memorization of passages: {_joined(copied, asked)}.{also}"
        case "none":
            return f"No memorization found in generated text: {_joined(copied, run, asked)}."
    return ""


def _copied(memorization: Memorization, who: str) -> str:
    spans = memorization.spans
    if spans.generated is None:
        return ""
    known = spans.heldout is not None
    heldout = f"{OWN}: {_percent(spans.heldout)}" if known else "no held-out text to compare with"
    share = f"{_percent(spans.generated)} of the {SPAN}-byte spans"
    return f"{share} that {who} generated occur in the training text ({heldout})"


def _asked(memorization: Memorization) -> str:
    found = memorization.continuation
    if found is None:
        return ""
    heldout = f"{OWN}: {found.heldout_copied} of {found.heldout_prompts}"
    if not found.heldout_prompts:
        heldout = "no held-out text to compare with"
    asked = f"{found.copied} of {found.prompts} prompts from the training text"
    return f"{asked} are continued verbatim for {SPAN} bytes or more ({heldout})"


def _also(memorization: Memorization) -> str:
    repeated = memorization.repeated
    if repeated is None:
        return ""
    return f" It repeated {_shortened(repeated.text)}, which occurs {_times(repeated)} in the training text."


def _joined(*clauses: str) -> str:
    return "; ".join(clause for clause in clauses if clause)


def _more(count: int, n: int, heldout_count: int, heldout_n: int) -> bool:
    """Whether a share is larger than the held-out text's, by more than chance (Fisher's exact test)."""
    if count == 0 or heldout_count == 0:
        return count > 0
    total = count + heldout_count
    ways = sum(math.comb(n, k) * math.comb(heldout_n, total - k) for k in range(count, min(n, total) + 1))
    return ways / math.comb(n + heldout_n, total) <= CHANCE


def _run(run: LongestRun) -> str:
    heldout = f"longest of {OWN}: {_bytes(run.heldout_bytes)}"
    if not run.bytes:
        return f"longest verbatim run: {_bytes(0)} ({heldout})"
    at_least = "at least " if run.at_least else ""
    times = "once" if run.times == 1 and not run.at_least else f"{at_least}{run.times:,} times"
    return f"longest verbatim run: {_bytes(run.bytes)}, {times} in the training text ({heldout})"


def _bytes(count: int) -> str:
    return f"{plural(count, 'byte')}" if count else f"under {ANCHOR} bytes"


def _times(repeated: Repeated) -> str:
    return f"{'at least ' if repeated.at_least else ''}{repeated.times:,} times"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= SHOWN else whole_words(text, SHOWN) + "...")


def _or_none(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _percent(share: float) -> str:
    """A whole number, but never 0 for what is not 0."""
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def measure_memorization(
    tokenizer: Tokenizer,
    generated: Sequence[np.ndarray],
    heldout: Sequence[np.ndarray],
    training: TokenFile | np.ndarray,
    *,
    continuation: Continuation | None = None,
    sizes: Sequence[int] = SIZES,
    progress: Progress = SILENT,
) -> Memorization:
    """What of the generated and the held-out texts stands in the training tokens.

    The training text is read once, in chunks: it may be larger than memory. Shares and counts go by hashes of
    64 bits; the longest run is compared byte by byte. `continuation` is what `measure_continuation` gave.
    """
    end_of_text = _BETWEEN if tokenizer.end_of_text is None else tokenizer.end_of_text
    texts = [_text(documents, end_of_text) for documents in (generated, heldout)]
    wanted = [_Wanted(texts, n) for n in sizes]
    search = _Search(tokenizer, generated, heldout)
    progress.stage("searching for copies", len(training))
    for start in range(0, len(training), CHUNK):
        end = min(start + CHUNK, len(training))
        for these in wanted:
            places, _ = these.found_in(training[start : end + these.n - 1])
            these.found[places] = True
        search.look(training, start, end)
        progress.advance(end - start)
    return Memorization(
        rows=tuple(Share(these.n, *map(these.share, texts)) for these in wanted),
        spans=Share(SPAN, *(spans.share() for spans in search.spans)),
        longest=search.longest_run(),
        near=search.near_share(),
        continuation=continuation,
        repeated=search.repeated(),
        generated_tokens=sum(map(len, generated)),
        heldout_tokens=sum(map(len, heldout)),
        generated_bytes=search.texts[0].n_bytes,
        heldout_bytes=search.texts[1].n_bytes,
    )


class _Search:
    """All that is looked for by bytes, and what was found so far."""

    def __init__(
        self, tokenizer: Tokenizer, generated: Sequence[np.ndarray], heldout: Sequence[np.ndarray]
    ) -> None:
        self._spelling = Spelling(tokenizer)
        self.texts = [Text([self._spelling.units(ids) for ids in ids_]) for ids_ in (generated, heldout)]
        self._anchors = Keys(
            np.concatenate([text.hashes.keys(text.places(ANCHOR), ANCHOR) for text in self.texts])
        )
        self.spans = [Spans(text, SPAN) for text in self.texts]
        self._longest = [Longest(text) for text in self.texts]
        self._counted = Counted(self.texts[0])
        written, control = (
            [normalized(tokenizer.decode_bytes(ids)) for ids in ids_] for ids_ in (generated, heldout)
        )
        windows = windows_of(written)
        self._written_windows = len(windows)
        self._near = NearCopies(windows + windows_of(control, most=CONTROL_WINDOWS))
        self._before = 0
        """Units of the training text that were looked at."""

    def look(self, training: TokenFile | np.ndarray, start: int, end: int) -> None:
        """Looks at training[start:end], and at what spans that begin there reach into."""

        def chunk(behind: int) -> Chunk:
            # Each token is one unit at least.
            units = self._spelling.units(training[start : end + behind])
            return Chunk(units, length, self._anchors)

        length = int(self._spelling.lengths[training[start:end]].sum())
        longest = max(each.run.length for each in self._longest)
        first = chunk(max(512, 2 * longest))
        for spans in self.spans:
            spans.look(first)
        for each in self._longest:
            each.look(first, chunk)
        self._counted.look(first, self._before)
        self._before += length
        text = np.where(first.units == BORDER, ord("\n"), first.units).astype(np.uint8)
        self._near.look(normalized(text.tobytes()))

    def longest_run(self) -> LongestRun:
        run, heldout = (each.run for each in self._longest)
        if not run.length:
            return LongestRun(0, "", 0, False, heldout.length)
        times = self._counted.occurrences(run.place, run.length)
        text = self.texts[0].spelled(run.place, run.length).decode("utf-8", "replace")
        return LongestRun(run.length, text, times.count, times.at_least, heldout.length)

    def near_share(self) -> NearShare:
        shares = self._near.shares
        written, control = shares[: self._written_windows], shares[self._written_windows :]
        near, heldout_near = (sum(share <= NEAR for share in each) for each in (written, control))
        compared = [share for share in written if share < 1]
        return NearShare(len(written), near, min(compared, default=None), len(control), heldout_near)

    def repeated(self) -> Repeated | None:
        """The sequence that occurs often: one with a number or an address first, then the longest."""
        found = [
            (self.texts[0].spelled(run.place, run.length), times)
            for run, times in self._counted.repeated(REPEATED_TIMES)
            if run.length >= REPEATED_BYTES
        ]
        if not found:
            return None
        sequence, times = max(found, key=lambda each: (_personal(each[0]), len(each[0])))
        return Repeated(
            sequence.decode("utf-8", "replace"),
            len(sequence),
            times.count,
            times.at_least,
            self.texts[1].count(sequence),
        )


def _personal(sequence: bytes) -> bool:
    """Whether it may be what nobody wants repeated: a number of six digits or more, an address."""
    return sum(byte in b"0123456789" for byte in sequence) >= 6 or b"@" in sequence


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
