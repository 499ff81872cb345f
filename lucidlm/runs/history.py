"""A run's history: metrics.jsonl and the header of its weights in, steps and validations as records out.

metrics.jsonl: {"event": "step", ...Step's fields}, {"event": "validation", ...Validation's fields}, changes
of the "plan", and the "end"; a finished run's "end" has "final": {...Final's fields} and
"baselines": [{...Level's fields}, ...].
samples.jsonl: {"step", "prompt", "text", "probe_ids", "probe_log_probabilities"}.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucidlm.errors import WeightsError
from lucidlm.runs.records import read_lines, record_of
from lucidlm.runs.trend import CERTAIN_RISE, medians_of_three, noise_of
from lucidlm.runtime.wording import fixed
from lucidlm.weights.header import WEIGHTS, Origin, origin_of

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
    """Model FLOPs utilization: the model's operations per second as a share of the measured peak."""
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Losses after a step, on fixed samples of the validation and the training text, by one protocol."""

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
    """The best weights on the held-out part, evaluated at the end of the run."""

    loss_nats: float
    perplexity: float
    bits_per_byte: float
    bits_low: float | None
    """95 % interval of the bits per byte; None if there is none."""
    bits_high: float | None
    tokens: int
    heldout_tokens: int
    """Tokens of the whole held-out part; `tokens` is lower where the time was over."""

    def __str__(self) -> str:
        """The numbers and how many tokens they come from."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What a baseline needs for the held-out text that `Final` is of."""

    name: str
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class History:
    """A run's steps and validations, in order."""

    steps: tuple[Step, ...]
    validations: tuple[Validation, ...]
    end: int | None = None
    """The signal that ended the run, 0 if it finished; None: it is training, or it was killed."""
    final: Final | None = None
    """None for a run that did not finish, or of an older version."""
    baselines: tuple[Level, ...] = ()
    """Beside `final`, the worst first; () for an older version and for a text that is too short."""
    kept: Validation | None = None
    """The losses of the weights in the run's folder, from their header; None for older runs."""
    remarks: tuple[str, ...] = ()
    """Notes about damage: lines that were skipped, records that contradict the weights."""
    unsaved: str = ""
    """A note that better weights than those in the folder were not saved, as while a run trains; or ""."""

    @property
    def last_step(self) -> int:
        """The last step in the records."""
        return self.steps[-1].step if self.steps else 0

    @property
    def best(self) -> Validation | None:
        """The validation of the saved weights; without weights, the lowest, the earliest of equals."""
        return self.kept or lowest(self.validations)


def lowest(validations: Sequence[Validation]) -> Validation | None:
    """The validation with the lowest loss, the earliest of equals."""
    return min(validations, key=lambda validation: validation.validation_loss_nats, default=None)


def read_history(run: str | Path) -> History:
    """The history of the run in a folder, from the intact lines of its records and from its weights."""
    run = Path(run)
    lines = read_lines(run / METRICS)
    steps, validations, ended, odd = [], [], _Ended(), []
    for event in lines.events:
        kind = event.get("event")
        try:
            if kind == "step":
                steps.append(record_of(Step, event))
            elif kind == "validation":
                validations.append(record_of(Validation, event))
            if kind in ("step", "validation", "end"):
                ended = _end_of(event) if kind == "end" else _Ended()
        except (ValueError, TypeError):
            odd.append(event)
    kept, origin, damage = None, None, ""
    try:
        origin = origin_of(run / WEIGHTS) if (run / WEIGHTS).is_file() else None
        kept = _kept(origin, validations)
    except (WeightsError, ValueError, TypeError):
        damage = f"{run / WEIGHTS}: damaged, so the best step is taken from the records"
    last = steps[-1].step if steps else 0
    disagreement = _disagreement(run, kept, validations, last_step=last) if kept is not None else ""
    remarks = (lines.without(odd).remark(run / METRICS), damage, disagreement)
    return History(
        tuple(steps),
        tuple(validations),
        ended.signal,
        ended.final,
        ended.baselines,
        kept,
        tuple(remark for remark in remarks if remark),
        _unsaved(run, origin.step, kept, validations) if origin is not None else "",
    )


@dataclass(frozen=True, slots=True)
class _Ended:
    """The end of a run; without values while there is none."""

    signal: int | None = None
    final: Final | None = None
    baselines: tuple[Level, ...] = ()


def _end_of(event: dict[str, Any]) -> _Ended:
    signal, final = event.get("interrupted", 0), event.get("final")
    if type(signal) is not int or not 0 <= signal < 1000:
        raise ValueError
    rows = event.get("baselines", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError
    baselines = tuple(record_of(Level, row) for row in rows)
    return _Ended(signal, record_of(Final, final) if final else None, baselines)


def _kept(origin: Origin | None, validations: list[Validation]) -> Validation | None:
    """The losses of the weights from their header, with the time of their record where there is one."""
    if origin is None:
        return None
    record = next((each for each in validations if each.step == origin.step), None)
    if origin.validation is None:
        return record
    stored = record_of(Validation, {"time_s": 0.0} | origin.validation)
    return record if record is not None and untimed(record) == untimed(stored) else stored


def untimed(validation: Validation) -> dict[str, Any]:
    """A validation's fields without the time, which differs between machines."""
    return {name: value for name, value in asdict(validation).items() if name != "time_s"}


def _disagreement(run: Path, kept: Validation, validations: list[Validation], *, last_step: int) -> str:
    """How the records contradict the weights; "" where they agree."""
    record = next((each for each in validations if each.step == kept.step), None)
    at = f"{run / METRICS}: the losses of step {kept.step:,}"
    if record is None and kept.step > last_step:  # killed between two saves, resumed before that step
        return f"{run / METRICS} ends at step {last_step:,}, but {WEIGHTS} is from step {kept.step:,}"
    if record is None:
        return f"{at}, the step of the weights, are missing: they are read from {WEIGHTS}"
    if record is kept:
        return ""
    return (
        f"{at} differ from those in {WEIGHTS} (validation loss {record.validation_loss_nats:.4f} and "
        f"{kept.validation_loss_nats:.4f} nats per token)"
    )


def _unsaved(run: Path, step: int, kept: Validation | None, validations: list[Validation]) -> str:
    """That a step with a lower loss than the weights was not saved; "" where none was."""
    best = lowest(validations)
    if best is None or best.step == step:
        return ""
    if kept is None:
        return f"{run / WEIGHTS} is from step {step:,}, which was not validated"
    if not best.validation_loss_nats < kept.validation_loss_nats:
        return ""
    return (
        f"step {best.step:,} had a lower validation loss ({best.validation_loss_nats:.4f} nats per token) "
        f"than the saved weights of step {step:,}, but was not saved"
    )


def passed_its_best(validations: list[Validation], *, decay_from: int, patience: int = 5) -> bool:
    """Whether the validation loss will not fall below its best again, so that training can stop.

    All of these must hold: the learning rate has begun to fall (step `decay_from`); the best is at least
    `patience` validations and a tenth of the steps ago; the last three losses rise; each of them is above the
    lowest median of three neighbours by 2 % and by six times the noise of one validation (6 % are always
    enough). A bump on the way down meets one of these at most. Before the decay nothing stops a run: losses
    that a high learning rate causes often fall again in the decay.
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
