"""What of generated text is the training text's: the numbers, and a code by the rules of docs/verdicts.md."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lucidlm.measure.continuation import CONTINUED_BYTES, SPAN, Continuation
from lucidlm.measure.copies import ANCHOR
from lucidlm.measure.near_copies import WINDOW
from lucidlm.runtime.wording import plural, whole_words

NEAR = 0.2
"""A window of which at most this share must be edited to be a span of the training text is a near copy."""
MORE = 0.05
"""A share of copied spans so far above the held-out text's is memorization."""
RUN_FACTOR = 1.5
"""A run of SPAN bytes or more is memorized if it is 1.5 times as long as the held-out text's longest."""
SAME = 0.5
"""If more of the held-out text's spans occur in the training text, a copy may be text of the same kind."""
CHANCE = 0.05
"""The probability by which two shares may differ if they are of one kind."""
LEAST_CONTINUED = 2
"""Prompts that must be continued verbatim: one may be a refrain or a quotation."""
OWN = "the run's held-out text"
"""What all is measured beside, whatever text is evaluated."""
SHOWN = 60
"""Characters of a sequence that a line shows."""


Code = Literal[
    "too_little", "none", "memorized", "continues", "near_verbatim", "cannot_tell", "repeated_sequence"
]


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a text's n-grams occur verbatim in the training text, as a share of 1."""

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
        if more(near.near, near.windows, near.heldout_near, near.heldout_windows):
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
        return found.heldout_copied <= SAME * found.heldout_prompts and more(
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
    heldout = "no held-out text to compare with"
    if spans.heldout is not None:
        heldout = f"for comparison: {_percent(spans.heldout)} of the spans of {OWN} do"
    share = f"{_percent(spans.generated)} of the {SPAN}-byte spans"
    return f"{share} that {who} generated occur in the training text ({heldout})"


def _asked(memorization: Memorization) -> str:
    found = memorization.continuation
    if found is None:
        return ""
    heldout = f"prompts from {OWN}: {found.heldout_copied} of {found.heldout_prompts}"
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


def more(count: int, n: int, heldout_count: int, heldout_n: int) -> bool:
    """Whether a share is larger than the held-out text's, by more than chance (Fisher's exact test)."""
    if count == 0 or heldout_count == 0:
        return count > 0
    total = count + heldout_count
    ways = sum(math.comb(n, k) * math.comb(heldout_n, total - k) for k in range(count, min(n, total) + 1))
    return ways / math.comb(n + heldout_n, total) <= CHANCE


def _run(run: LongestRun) -> str:
    times = ""
    if run.bytes:
        at_least = "at least " if run.at_least else ""
        times = ", once" if run.times == 1 and not run.at_least else f", {at_least}{run.times:,} times"
    heldout = f"for comparison, {OWN}: {_bytes(run.heldout_bytes)}"
    longest = f"{_bytes(run.bytes)}{times} ({heldout})"
    return f"longest generated passage that occurs in the training text: {longest}"


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
