"""How did the run go? Its validations in; one code, the numbers behind it, and a sentence made from them out.

The rules, their thresholds and a history for each are in docs/verdicts.md.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lucidlm.measure.baselines import Baselines
from lucidlm.runs.history import History, Validation
from lucidlm.runs.trend import (
    CERTAIN_RISE,
    OVER_BEST,
    WORSE,
    Trend,
    level_of,
    medians_of_three,
    noise_of,
    trend_of,
)
from lucidlm.runtime.wording import fixed, plural

Code = Literal[
    "too_short", "too_little_text", "improving", "converged", "flat", "stuck", "overfits", "memorizes",
    "unstable", "worse", "other_source",
]  # fmt: skip

MEMORIZED = 0.7
"""A training loss under this share of the validation loss is memorization, after an epoch."""
OTHER_SOURCE = 0.8
"""Within the first epoch a gap comes from the texts alone: under this share, they are of two kinds."""
GAINED = 0.5
"""A plateau that has not gained this share of the way from the unigram to the n-gram is no convergence."""
LEAST_GAIN = 0.1
"""Bits per byte between unigram and n-gram under which there is nothing to gain."""
SURGE = 0.04
"""Training and validation loss that both rise by this share on the way were trained at too high a rate."""
FEWEST_TOKENS = 100
"""Held-out tokens under which no verdict stands on a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a run went, by the losses of its validations; losses in nats per token."""

    code: Code
    best: Validation | None = None
    last: Validation | None = None
    validations: int = 0
    """The step with the best of so many was kept."""
    level_nats: float = 0.0
    """Median validation loss of the last third of the validations."""
    noise: float = 0.0
    """Standard deviation of a validation loss about its curve, relative."""
    rise: float = 0.0
    """How far the end lies over the lowest loss, relative."""
    fall: float = 0.0
    """By how much the validation loss falls in the last fifth of the steps, relative."""
    training_before_nats: float = 0.0
    """Median training loss of the three validations around the best step: a rise is measured from it."""
    same_source: bool | None = True
    """Whether held-out and training text are of one source; None where a given text leaves it open."""
    source_share: float | None = None
    """Training loss as a share of the validation loss within the first epoch; where none was measured then,
    the n-gram's bits inside the training text as a share of its bits on the held-out text."""
    source: Validation | None = None
    """The validation within the first epoch that `source_share` is of; None where it is the n-gram's."""
    before: Validation | None = None
    """The last validation in the first four fifths of the steps."""
    surge: tuple[Validation, Validation] | None = None
    """Between these two, both losses rose by far on the way, whatever came later."""
    unigram_bits: float | None = None
    ngram_bits: float | None = None
    reached: int = 0
    """The last step that was taken: beyond the last validation where the run was stopped, or is going on."""
    stopped: bool = False
    """Whether a signal ended the run."""

    @property
    def epochs(self) -> float:
        """How often the training text was read."""
        return self.last.epoch if self.last else 0.0

    @property
    def training_share(self) -> float:
        """Last training loss as a share of the last validation loss."""
        if self.last is None or not self.last.validation_loss_nats:
            return 1.0
        return self.last.training_loss_nats / self.last.validation_loss_nats

    @property
    def memorized(self) -> bool:
        """Whether the training text was read once or more and costs far less than text of its source."""
        return self.same_source is True and self.epochs >= 1 and self.training_share < MEMORIZED

    @property
    def no_use_in_longer(self) -> bool:
        """Whether more steps on the same text would not help."""
        return self.code in ("overfits", "memorizes", "unstable")

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        derived = ("epochs", "training_share", "memorized")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        """One to three short sentences."""
        parts = [_SENTENCES[self.code](self), _source(self)]
        if self.code == "other_source":
            parts.reverse()
        return " ".join(sentence for sentence in (*parts, _choice(self)) if sentence)


def course_of(history: History, *, baselines: Baselines | None = None, design: str = "documents") -> Course:
    """How a run went, by its validations.

    `design` is the corpus's: "given" where the validation text may be of another source. `baselines` are of
    the same held-out text: without them a plateau is "flat", since nobody knows whether it is a good one.
    """
    trained = [each for each in history.validations if each.step > 0]
    best = history.best
    if len(trained) < 2 or best is None:
        last = history.validations[-1] if history.validations else None
        return Course(
            code="too_short",
            best=best,
            last=last,
            validations=len(history.validations),
            reached=history.last_step,
            stopped=bool(history.end),
        )
    first = history.validations[0]
    if first.step == 0 and first.validation_loss_nats < trained[0].validation_loss_nats:
        trained = [first, *trained]  # weights that knew something already
    losses = np.array([each.validation_loss_nats for each in trained])
    trend = trend_of(np.array([each.step for each in trained]), losses)
    training = np.array([each.training_loss_nats for each in trained])
    source = _within_first_epoch(trained)
    share = source.training_loss_nats / source.validation_loss_nats if source is not None else None
    if share is None and baselines is not None and baselines.inside_bits_per_byte is not None:
        # Counting repeats no text either: what it pays inside the training text and on the given one.
        share = baselines.inside_bits_per_byte / max(_counting(baselines)[1] or 0.0, 1e-9)
    same = (None if share is None else share >= OTHER_SOURCE) if design == "given" else True
    at = int(trend.best)
    unigram, ngram = _counting(baselines)
    values: dict[str, Any] = {
        "best": best,
        "last": trained[-1],
        "validations": len(history.validations),
        "level_nats": float(trend.level),
        "noise": float(trend.noise),
        "rise": float(trend.rise),
        "fall": float(trend.fall),
        "training_before_nats": float(np.median(training[max(0, at - 1) : at + 2])),
        "before": next((each for each in trained[::-1] if each.step <= 0.8 * trained[-1].step), None),
        "surge": _surge(trained),
        "same_source": same,
        "source_share": share,
        "source": source,
        "reached": history.last_step,
        "stopped": bool(history.end),
        "unigram_bits": unigram,
        "ngram_bits": ngram,
    }
    course = Course(code="flat", **values)
    return Course(code=_code(course, trend, _training_rose(trained, course, trend)), **values)


def _code(course: Course, trend: Trend, training_rose: bool) -> Code:
    assert course.last is not None
    if course.last.validation_tokens < FEWEST_TOKENS:
        return "too_little_text"
    if trend.rose or trend.jumped:
        if training_rose:
            return "unstable"
        if course.same_source is False:
            return "other_source"
        if course.epochs < 1 or course.same_source is None:
            return "worse"
        return "memorizes" if course.memorized else "overfits"
    if course.surge is not None:
        return "unstable"
    if trend.falling:
        return "improving"
    if course.same_source is False:
        return "other_source"
    if course.memorized:
        return "memorizes"
    if course.unigram_bits is None or course.ngram_bits is None:
        return "flat"
    return "stuck" if _far_from_counting(course) else "converged"


def _training_rose(trained: list[Validation], course: Course, trend: Trend) -> bool:
    """Whether the training loss rose after the best step too, by more than its noise."""
    losses = np.array([each.training_loss_nats for each in trained])
    tolerance = max(WORSE, min(OVER_BEST * float(noise_of(losses)), CERTAIN_RISE))
    end = float(losses[-1])
    if trend.rose:
        end = min(end, float(level_of(losses)))
    return end > (1 + tolerance) * course.training_before_nats


def _surge(trained: list[Validation]) -> tuple[Validation, Validation] | None:
    """The largest rise of both losses between medians of three neighbours; None if none is by SURGE."""
    if len(trained) < 5:
        return None
    losses = np.array([[each.validation_loss_nats, each.training_loss_nats] for each in trained]).T
    medians = medians_of_three(losses)
    lows = np.minimum.accumulate(medians, axis=-1)
    rises = (medians / np.maximum(lows, 1e-12) - 1).min(0)
    top = int(rises.argmax())
    if rises[top] <= SURGE:
        return None
    windows = int(medians[0, : top + 1].argmin()), top
    low, high = (
        sorted(trained[at : at + 3], key=lambda each: each.validation_loss_nats)[1] for at in windows
    )
    return low, high


def _within_first_epoch(trained: list[Validation]) -> Validation | None:
    """The last validation before any training text was read twice."""
    within = [each for each in trained if 0 < each.epoch <= 1 and each.step > 0]
    return within[-1] if within and within[-1].validation_loss_nats else None


def _counting(baselines: Baselines | None) -> tuple[float | None, float | None]:
    """Bits per byte of the unigram and of the best n-gram, where both were measured."""
    rows = baselines.rows if baselines is not None else ()
    unigram = [row.bits_per_byte for row in rows if "unigram" in row.name]
    ngrams = [row.bits_per_byte for row in rows if "n-gram" in row.name]
    return (min(unigram), min(ngrams)) if unigram and ngrams else (None, None)


def _far_from_counting(course: Course) -> bool:
    assert course.best is not None
    assert course.unigram_bits is not None
    assert course.ngram_bits is not None
    bits, room = course.best.validation_bits_per_byte, course.unigram_bits - course.ngram_bits
    if room < LEAST_GAIN:
        return bits > course.unigram_bits + LEAST_GAIN
    return course.unigram_bits - bits < GAINED * room


def _best(course: Course) -> str:
    best, last = course.best, course.last
    assert best is not None
    assert last is not None
    whole = best.heldout_tokens
    sample = (
        f", on a sample of {best.validation_tokens:,} of {plural(whole, 'token')}"
        if whole is not None and whole > best.validation_tokens
        else ""
    )
    return (
        f"best validation loss {fixed(best.validation_loss_nats, 4)} nats per token "
        f"(perplexity {fixed(best.validation_perplexity, 1)}, "
        f"{fixed(best.validation_bits_per_byte, 3)} bits per byte{sample}) "
        f"at step {best.step:,}{_of_steps(course)}"
    )


def _of_steps(course: Course) -> str:
    """Of how many steps; where the run went on after its last validation, both are named."""
    assert course.best is not None
    assert course.last is not None
    if course.reached <= course.last.step:
        return f" of {course.last.step:,}"
    until = "the interruption at step" if course.stopped else "step"
    if course.best.step == course.last.step:
        return f", the last validation before {until} {course.reached:,}"
    return f" (last validation before {until} {course.reached:,}: step {course.last.step:,})"


def _training(course: Course) -> str:
    """The training losses of the two validations that a verdict names."""
    best, last = course.best, course.last
    assert best is not None
    assert last is not None
    if best.step == last.step:
        return f"training loss {fixed(last.training_loss_nats, 4)} at the same step"
    return (
        f"training loss {fixed(best.training_loss_nats, 4)} at step {best.step:,}, "
        f"{fixed(last.training_loss_nats, 4)} at step {last.step:,}"
    )


def _too_short(course: Course) -> str:
    if course.best is None or course.last is None or course.last.step == 0:
        return "No validation after a training step yet: nothing can be said of the run."
    return f"One validation only, too few to say how the run went: {_best(course)}."


def _too_little_text(course: Course) -> str:
    assert course.last is not None
    return too_little_text(course.last.validation_tokens)


def too_little_text(tokens: int) -> str:
    """The sentence in place of a verdict on so few held-out tokens."""
    have = plural(tokens, "token")
    return f"Too little held-out text to judge: {have}, at least {FEWEST_TOKENS} are needed."


def _improving(course: Course) -> str:
    begun = (
        f" Memorization has begun: the training loss is {100 * course.training_share:.0f} % of the "
        "validation loss."
        if course.memorized
        else ""
    )
    before, last = course.before, course.last
    fell = ""
    if before is not None and last is not None:
        fell = (
            f" ({fixed(before.validation_loss_nats, 4)} at step {before.step:,}, "
            f"{fixed(last.validation_loss_nats, 4)} at step {last.step:,})"
        )
    return (
        f"Still learning: {_best(course)}; {_training(course)}. The validation loss falls to the end{fell}: "
        f"more steps would help.{begun}"
    )


def _flat(course: Course) -> str:
    return f"The validation loss no longer falls: {_best(course)}; {_training(course)}."


def _converged(course: Course) -> str:
    return f"Converged: {_best(course)}, and the loss no longer falls; {_training(course)}."


def _stuck(course: Course) -> str:
    return (
        f"Stuck: {_best(course)}, and the loss no longer falls, although counting reaches "
        f"{course.ngram_bits:.3f} bits per byte (n-gram; unigram {course.unigram_bits:.3f}). "
        "The learning rate is probably wrong; try a tenth of it."
    )


def _overfits(course: Course) -> str:
    return f"Overfitting: {_best(course)}, then it rose to {_after(course)}. {REMEDY}"


def _memorizes(course: Course) -> str:
    return (
        f"Memorization: after {course.epochs:.1f} epochs the training text costs "
        f"{100 * course.training_share:.0f} % of what held-out text costs; {_best(course)}, "
        f"{_after(course)}. {REMEDY}"
    )


def _unstable(course: Course) -> str:
    if course.surge is not None:
        low, high = course.surge
        return (
            f"Unstable training: from step {low.step:,} to {high.step:,} the validation loss rose from "
            f"{fixed(low.validation_loss_nats, 4)} to {fixed(high.validation_loss_nats, 4)} "
            f"and the training loss from {fixed(low.training_loss_nats, 4)} "
            f"to {fixed(high.training_loss_nats, 4)}; {_best(course)}. "
            "A lower learning rate would help."
        )
    return (
        f"Unstable training: {_best(course)}, then it rose to {_after(course)}. "
        "A lower learning rate would help."
    )


def _worse(course: Course) -> str:
    why = (
        f"the training text was read only {course.epochs:.2f} times, so this is not overfitting; try a lower "
        "learning rate"
        if course.epochs < 1
        else "the validation text was given, and no validation within the first epoch shows whether it is of "
        "the same kind"
    )
    return f"Worse: {_best(course)}, then it rose to {_after(course)}. Cause unknown: {why}."


def _other_source(course: Course) -> str:
    return f"{_best(course)[0].upper()}{_best(course)[1:]}; {_training(course)}."


def _after(course: Course) -> str:
    assert course.last is not None
    return f"{fixed(course.last.validation_loss_nats, 4)} at step {course.last.step:,} ({_training(course)})"


def _source(course: Course) -> str:
    """The sentence on a validation text of another kind."""
    if course.same_source is not False or course.code == "too_little_text" or course.source_share is None:
        return ""
    kind, share = "The validation text is of another kind than the training text", 100 * course.source_share
    at = course.source
    if at is None:
        return f"{kind}: an n-gram of bytes needs {share:.0f} % as many bits on the training text as on it."
    return (
        f"{kind}: at step {at.step:,}, when no training text had been read twice, the training loss was "
        f"{share:.0f} % of the validation loss ({fixed(at.training_loss_nats, 4)} and "
        f"{fixed(at.validation_loss_nats, 4)} nats per token)."
    )


def _choice(course: Course) -> str:
    """The sentence on the step that was chosen on the text that judges it."""
    if course.code in ("too_short", "too_little_text") or course.validations < 2:
        return ""
    return (
        f"The step was chosen on this text, the best of {course.validations} validations: that flatters its "
        f"loss a little ({CHOICE_BITS} bits per byte or less where it was measured)."
    )


REMEDY = "More text, a smaller model or more dropout would help."
CHOICE_BITS = "0.003"
"""What that choice gained at most in benchmarks/choice.py: docs/numbers.md."""

_SENTENCES = {
    "too_short": _too_short,
    "too_little_text": _too_little_text,
    "improving": _improving,
    "converged": _converged,
    "flat": _flat,
    "stuck": _stuck,
    "overfits": _overfits,
    "memorizes": _memorizes,
    "unstable": _unstable,
    "worse": _worse,
    "other_source": _other_source,
}


def gain_of(history: History, source: str) -> str:
    """What a run that went on from other weights gained on its validation text."""
    best, first = history.best, history.validations[0] if history.validations else None
    if best is None or first is None or first.step != 0:
        return ""
    nats = best.validation_loss_nats - first.validation_loss_nats
    before, after = fixed(first.validation_loss_nats, 4), fixed(best.validation_loss_nats, 4)
    went = f"{before} before, {after} after ({nats:+.4f} nats"
    bits = f"{first.validation_bits_per_byte:.3f} and {best.validation_bits_per_byte:.3f} bits per byte"
    if best.step == 0:
        return f"{source} was best as it came: validation loss {before}, {bits}."
    return f"From {source}: validation loss {went} per token), {bits}, on the same text."
