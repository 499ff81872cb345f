"""How much generated text is copied from the training text: numbers, and a code by docs/verdicts.md."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lucidlm.measure.continuation import SPAN, Continuation

NEAR = 0.2
"""A window of which at most this share must be edited to be a span of the training text is a near copy."""
MORE = 0.05
"""A share of copied spans that is larger than the held-out text's by this is memorization."""
RUN_FACTOR = 1.5
"""A run of SPAN bytes or more is memorized if it is 1.5 times as long as the held-out text's longest."""
SAME = 0.5
"""If more of the held-out text's spans occur in the training text, a copy may be text of the same kind."""
CHANCE = 0.05
"""Significance level of the test whether two shares differ."""
LEAST_CONTINUED = 2
"""Prompts that must be continued verbatim: one may be a refrain or a quotation."""

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
    """The same share for held-out text: chance, and phrases that are common everywhere."""


@dataclass(frozen=True, slots=True)
class LongestRun:
    """The longest run of bytes that occurs verbatim in the training text."""

    bytes: int
    """0 where no run has ANCHOR bytes: the search ignores shorter ones."""
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
    """How much of the generated texts is copied from the training text."""

    rows: tuple[Share, ...]
    spans: Share
    """Of SPAN bytes, comparable across tokenizers."""
    longest: LongestRun
    near: NearShare
    continuation: Continuation | None
    """None where no model was tested, or the training text is too short for a prompt."""
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

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        return asdict(self) | {"code": self.code}


def more(count: int, n: int, heldout_count: int, heldout_n: int) -> bool:
    """Whether a share is larger than the held-out text's, by more than chance (Fisher's exact test)."""
    if count == 0 or heldout_count == 0:
        return count > 0
    total = count + heldout_count
    ways = sum(math.comb(n, k) * math.comb(heldout_n, total - k) for k in range(count, min(n, total) + 1))
    return ways / math.comb(n + heldout_n, total) <= CHANCE
