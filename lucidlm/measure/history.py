"""What a run's metrics.jsonl and samples.jsonl hold: one JSON object a line, read back as a History.

metrics.jsonl: {"event": "step", ...Step's fields}, {"event": "validation", ...Validation's fields}, and
"plan" and "end" for what a person may want to know; a finished run's "end" has "final": {...Final's fields}.
samples.jsonl: {"step", "prompt", "text", "probe_ids", "probe_log_probabilities"}.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lucidlm.errors import RunError
from lucidlm.measure.trend import CERTAIN_RISE, medians_of_three, noise_of
from lucidlm.runtime.small_files import lines_of
from lucidlm.runtime.wording import fixed

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step."""

    step: int
    epoch: float
    tokens: int
    """Tokens trained on so far."""
    loss_nats: float
    """Loss of the step's batch, dropout on."""
    learning_rate_factor: float
    grad_norm: float
    tokens_per_s: float
    mfu: float | None
    """Share of the measured peak that the model's own operations made."""
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The losses after a step, on fixed samples of the validation and the training text, by one protocol."""

    step: int
    epoch: float
    validation_loss_nats: float
    validation_perplexity: float
    validation_bits_per_byte: float
    validation_tokens: int
    training_loss_nats: float
    training_perplexity: float
    training_bits_per_byte: float
    training_tokens: int
    time_s: float
    heldout_tokens: int | None = None
    """Tokens of the whole held-out part, of which `validation_tokens` were scored; None in older runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The best weights on the held-out part, evaluated when the run had come to its end."""

    loss_nats: float
    perplexity: float
    bits_per_byte: float
    bits_low: float | None
    """95 % interval of the bits per byte; None where it has none."""
    bits_high: float | None
    tokens: int
    heldout_tokens: int
    """Of which `tokens` were scored: fewer where the minutes were over."""

    def __str__(self) -> str:
        """The numbers, and of how many tokens they are."""
        part = self.tokens < self.heldout_tokens
        of = f"sample: {self.tokens:,} of {self.heldout_tokens:,}" if part else f"all {self.tokens:,}"
        interval = (
            f" (95 % interval {fixed(self.bits_low, 4)} to {fixed(self.bits_high, 4)})"
            if self.bits_low is not None and self.bits_high is not None
            else ""
        )
        return (
            f"{fixed(self.bits_per_byte, 4)} bits per byte{interval}, "
            f"loss {fixed(self.loss_nats, 4)} nats per token, "
            f"perplexity {fixed(self.perplexity, 2)}; {of} held-out tokens"
        )


@dataclass(frozen=True, slots=True)
class History:
    """A run's steps and validations, in order."""

    steps: tuple[Step, ...]
    validations: tuple[Validation, ...]
    end: int | None = None
    """The signal that ended the run, 0 where it came to its end; None: it goes on, or it was killed."""
    final: Final | None = None
    """None of a run that did not come to its end, or of an older version."""

    @property
    def last_step(self) -> int:
        """The last step that was written down."""
        return self.steps[-1].step if self.steps else 0

    @property
    def best(self) -> Validation | None:
        """The validation with the lowest loss, the earliest of equals."""
        return min(self.validations, key=lambda validation: validation.validation_loss_nats, default=None)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that a crash tore is left out."""
    if not path.exists():
        return
    for number, line in enumerate(lines_of(path, RunError), start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError("not an object")
            yield event
        except (ValueError, RecursionError):  # not UTF-8, or not JSON
            if line.endswith(b"\n"):
                raise RunError(
                    f"{path}:{number}: not a line of JSON; delete this line to go on without it"
                ) from None


def read_history(run: Path) -> History:
    """What happened in the run at that folder."""
    steps, validations, end, final = [], [], None, None
    for event in read_events(Path(run) / METRICS):
        if event.get("event") == "step":
            steps.append(_from_event(Step, event))
        elif event.get("event") == "validation":
            validations.append(_from_event(Validation, event))
        if event.get("event") in ("step", "validation", "end"):
            end = event.get("interrupted", 0) if event["event"] == "end" else None
            final = _from_event(Final, event["final"]) if event.get("final") else None
    return History(tuple(steps), tuple(validations), end, final)


def _from_event(kind: type[Step | Validation | Final], event: dict[str, Any]) -> Any:
    """Newer versions may write more: what this one does not know it leaves."""
    values: dict[str, Any] = {field.name: event.get(field.name) for field in fields(kind)}
    return kind(**values)


def passed_its_best(validations: list[Validation], *, decay_from: int, patience: int = 5) -> bool:
    """Whether the validation loss has passed its best for good, so that training on is a waste.

    For good: the learning rate has begun to fall (`decay_from`), the best lies at least `patience`
    validations and a tenth of the steps so far back, the last three losses rise, and each lies over the
    lowest median of three neighbours by 2 % and by six times the noise of one validation (6 % are always
    enough). A bump on the way down meets none or one of these, and what a full learning rate loses, its decay
    may win back.
    """
    if len(validations) <= patience or validations[-1].step < decay_from:
        return False
    losses = np.array([validation.validation_loss_nats for validation in validations])
    best = int(losses.argmin())
    steps_since = validations[-1].step - validations[best].step
    long_ago = len(losses) - 1 - best >= patience and steps_since >= validations[-1].step / 10
    rising = losses[-3] < losses[-2] < losses[-1]
    far = max(0.02, min(6 * float(noise_of(losses)), CERTAIN_RISE))
    return bool(long_ago and rising and losses[-3] > (1 + far) * medians_of_three(losses).min())
