"""What a run's metrics.jsonl and samples.jsonl hold: one JSON object a line, read back as a History.

metrics.jsonl: {"event": "step", ...Step's fields}, {"event": "validation", ...Validation's fields}, and
"plan" and "end" for what a person may want to know; a finished run's "end" has "final": {...Final's fields}.
samples.jsonl: {"step", "prompt", "text", "probe_ids", "probe_log_probabilities"}.
Each line ends with "check": its number and a hash of all in it but times and speeds, so that a line that was
torn, changed, lost or doubled is known; a file of a former version has none.
"""

import hashlib
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lucidlm.errors import RunError, WeightsError
from lucidlm.runs.trend import CERTAIN_RISE, medians_of_three, noise_of
from lucidlm.runtime.small_files import lines_of
from lucidlm.runtime.wording import fixed, plural
from lucidlm.weights.header import WEIGHTS, Origin, origin_of

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CHECK = "check"
UNCHECKED = (CHECK, "time_s", "tokens_per_s", "mfu")
"""What no hash is of: two runs that are equal in all else write equal checks."""


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
class Lines:
    """The lines of a .jsonl file that can be trusted, and how many others there are."""

    events: tuple[dict[str, Any], ...] = ()
    broken: int = 0
    """Torn or changed; a last line that a crash tore is none of them."""
    missing: int = 0
    doubled: int = 0

    def without(self, events: typing.Sequence[dict[str, Any]]) -> "Lines":
        """The same where these events turned out to be no records."""
        kept = tuple(event for event in self.events if not any(event is each for each in events))
        return replace(self, events=kept, broken=self.broken + len(events))

    def remark(self, path: Path) -> str:
        """What a reader of its numbers must know; "" of a whole file."""
        parts = [f"{plural(self.broken, 'line')} damaged or not of this run"] if self.broken else []
        parts += [f"{plural(self.missing, 'line')} missing"] if self.missing else []
        parts += [f"{plural(self.doubled, 'line')} doubled"] if self.doubled else []
        return f"{path}: {', '.join(parts)}; the other {len(self.events):,} are used" if parts else ""


@dataclass(frozen=True, slots=True)
class History:
    """A run's steps and validations, in order."""

    steps: tuple[Step, ...]
    validations: tuple[Validation, ...]
    end: int | None = None
    """The signal that ended the run, 0 where it came to its end; None: it goes on, or it was killed."""
    final: Final | None = None
    """None of a run that did not come to its end, or of an older version."""
    kept: Validation | None = None
    """The losses of the weights in the run's folder, as their header says; None of an older run's."""
    remarks: tuple[str, ...] = ()
    """What does not fit: lines that were passed over, records that say otherwise than the weights."""
    unsaved: str = ""
    """That better weights than those in the folder were not saved: so it is while a run trains."""

    @property
    def last_step(self) -> int:
        """The last step that was written down."""
        return self.steps[-1].step if self.steps else 0

    @property
    def best(self) -> Validation | None:
        """That of the weights that are kept; else the one with the lowest loss, the earliest of equals."""
        return self.kept or lowest(self.validations)


def lowest(validations: typing.Sequence[Validation]) -> Validation | None:
    """The validation with the lowest loss, the earliest of equals."""
    return min(validations, key=lambda validation: validation.validation_loss_nats, default=None)


def checked_line(values: dict[str, Any], number: int) -> str:
    """A line of a .jsonl file, the `number`-th, counted from 1."""
    content = {key: value for key, value in values.items() if key != CHECK}
    return json.dumps(content | {CHECK: f"{number}:{_hash_of(content, number)}"}, ensure_ascii=False) + "\n"


def _hash_of(values: dict[str, Any], number: int) -> str:
    content = {key: value for key, value in values.items() if key not in UNCHECKED}
    return hashlib.sha256(f"{number} {json.dumps(content)}".encode("ascii")).hexdigest()[:12]


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file that can be trusted."""
    return iter(read_lines(path).events)


def read_lines(path: Path) -> Lines:
    """The lines of a .jsonl file, and how many were passed over; none where there is no file."""
    numbered: dict[int, dict[str, Any]] = {}
    plain: list[dict[str, Any]] = []
    broken = doubled = 0
    before = b""
    for line in lines_of(path, RunError) if path.exists() else ():
        try:
            event = json.loads(line)
            check = event.pop(CHECK, None)
            number = 0 if check is None else _number_in(check, event)
        except (ValueError, TypeError, AttributeError, RecursionError):  # no JSON object, or a changed one
            broken += line.endswith(b"\n")
            continue
        if line == before or numbered.get(number) == event:
            doubled += 1
        elif number in numbered:
            broken += 1  # of another file: it has the place of a line that is there
        elif number:
            numbered[number] = event
        else:
            plain.append(event)
        before = line
    if not numbered:
        return Lines(tuple(plain), broken, 0, doubled)
    broken += len(plain)  # in a file that has checks each line has one
    missing = max(0, max(numbered) - len(numbered) - broken)
    return Lines(tuple(numbered[number] for number in sorted(numbered)), broken, missing, doubled)


def _number_in(check: str, event: dict[str, Any]) -> int:
    """The line's number; ValueError where the hash beside it is another's."""
    number, _, found = check.partition(":")
    if found != _hash_of(event, int(number)) or str(int(number)) != number:
        raise ValueError
    return int(number)


def read_history(run: str | Path) -> History:
    """What happened in the run at that folder, by the lines that can be trusted and by its weights."""
    run = Path(run)
    lines = read_lines(run / METRICS)
    steps, validations, end, final, odd = [], [], None, None, []
    for event in lines.events:
        kind = event.get("event")
        try:
            if kind == "step":
                steps.append(record_of(Step, event))
            elif kind == "validation":
                validations.append(record_of(Validation, event))
            if kind in ("step", "validation", "end"):
                end, final = _end_of(event) if kind == "end" else (None, None)
        except (ValueError, TypeError):
            odd.append(event)
    kept, origin, damage = None, None, ""
    try:
        origin = origin_of(run / WEIGHTS) if (run / WEIGHTS).is_file() else None
        kept = _kept(origin, validations)
    except (WeightsError, ValueError, TypeError):
        damage = f"{run / WEIGHTS}: damaged, so the best step is that of the records"
    last = steps[-1].step if steps else 0
    disagreement = _disagreement(run, kept, validations, last_step=last) if kept is not None else ""
    remarks = (lines.without(odd).remark(run / METRICS), damage, disagreement)
    return History(
        tuple(steps),
        tuple(validations),
        end,
        final,
        kept,
        tuple(remark for remark in remarks if remark),
        _unsaved(run, origin.step, kept, validations) if origin is not None else "",
    )


def _end_of(event: dict[str, Any]) -> tuple[int, Final | None]:
    signal, final = event.get("interrupted", 0), event.get("final")
    if type(signal) is not int or not 0 <= signal < 1000:
        raise ValueError
    return signal, record_of(Final, final) if final else None


def _kept(origin: Origin | None, validations: list[Validation]) -> Validation | None:
    """The losses of the weights: as their header says, with the time of the record where there is one."""
    if origin is None:
        return None
    record = next((each for each in validations if each.step == origin.step), None)
    if origin.validation is None:
        return record
    told = record_of(Validation, {"time_s": 0.0} | origin.validation)
    return record if record is not None and untimed(record) == untimed(told) else told


def untimed(validation: Validation) -> dict[str, Any]:
    """A validation's fields without the time, which another machine would not repeat."""
    return {name: value for name, value in asdict(validation).items() if name != "time_s"}


def _disagreement(run: Path, kept: Validation, validations: list[Validation], *, last_step: int) -> str:
    """What the records say otherwise than the weights; "" where they agree."""
    record = next((each for each in validations if each.step == kept.step), None)
    at = f"{run / METRICS}: its losses of step {kept.step:,}"
    if record is None and kept.step > last_step:  # a kill between two saves, gone on with before that step
        return f"{run / METRICS} ends at step {last_step:,}, and {WEIGHTS} holds the weights of {kept.step:,}"
    if record is None:
        return f"{at}, whose weights these are, are missing: they are read from {WEIGHTS}"
    if record is kept:
        return ""
    return (
        f"{at} are not those of these weights (validation loss {record.validation_loss_nats:.4f} there, "
        f"{kept.validation_loss_nats:.4f} nats per token in {WEIGHTS})"
    )


def _unsaved(run: Path, step: int, kept: Validation | None, validations: list[Validation]) -> str:
    best = lowest(validations)
    if best is None or best.step == step:
        return ""
    if kept is None:
        return f"{run / WEIGHTS} holds the weights of step {step:,}, which was not validated"
    if not best.validation_loss_nats < kept.validation_loss_nats:
        return ""
    return (
        f"step {best.step:,} had a lower validation loss ({best.validation_loss_nats:.4f} nats per token) "
        f"than step {step:,}, whose weights these are, and was not saved"
    )


def record_of(kind: type[Any], event: dict[str, Any]) -> Any:
    """A record of these fields; ValueError for one that is missing or of another type.

    Newer versions may write more: what this one does not know it leaves.
    """
    values = {}
    for name, (kinds, required) in _fields_of(kind).items():
        if name not in event and not required:
            continue
        value = event.get(name)
        if type(value) is float and float not in kinds and value.is_integer() and value < 2**53:
            value = int(value)
        if type(value) not in kinds or (type(value) is int and not 0 <= value < 2**63):
            raise ValueError(f"{name} is {value!r:.80}")
        values[name] = float(value) if float in kinds and type(value) is int else value
    return kind(**values)


@cache
def _fields_of(kind: type[Any]) -> dict[str, tuple[tuple[type, ...], bool]]:
    """Of each field the types that JSON may have for it, and whether it must be there."""
    hints = typing.get_type_hints(kind)
    found = {}
    for each in fields(kind):
        hint = hints[each.name]
        allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found[each.name] = (
            (*allowed, int) if float in allowed else allowed,
            each.default is MISSING and type(None) not in allowed,
        )
    return found


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
