"""How a run went: its validations in; one code and the numbers behind it out.

The rules, their thresholds and an example of each are in docs/verdicts.md; verdict.py makes the sentences.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from lucidlm.measure.baseline import NGRAMS, Baselines
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

Code = Literal[
    "too_short", "too_little_text", "improving", "converged", "flat", "stuck", "overfits", "memorizes",
    "unstable", "worse", "other_source",
]  # fmt: skip

MEMORIZED = 0.7
"""After an epoch, a training loss below this share of the validation loss is memorization: two parts of one
text differ by some percent, a gap of a tenth is ordinary, and a memorized text costs far less than 70 %."""
OTHER_SOURCE = 0.8
"""Within the first epoch no text is read twice: below this share the texts differ in kind."""
GAINED = 0.5
"""A plateau is convergence if it gained at least this share of the way from the unigram to the n-gram."""
LEAST_GAIN = 0.1
"""Bits per byte between unigram and n-gram below which counting finds nothing to learn."""
SURGE = 0.04
"""If training and validation loss both rise by this share on the way, the learning rate was too high."""
FEWEST_TOKENS = 100
"""Held-out tokens below which a loss is too uncertain for a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a run went, by the losses of its validations; losses in nats per token."""

    code: Code
    best: Validation | None = None
    last: Validation | None = None
    validations: int = 0
    """Validations from which the best step was selected."""
    level_nats: float = 0.0
    """Median validation loss of the last third of the validations."""
    noise: float = 0.0
    """Standard deviation of a validation loss about its curve, relative."""
    rise: float = 0.0
    """How far the end lies above the lowest loss, relative."""
    fall: float = 0.0
    """How far the validation loss falls in the last fifth of the steps, relative."""
    training_before_nats: float = 0.0
    """Median training loss of the three validations around the best step; a rise is measured from it."""
    same_source: bool | None = True
    """Whether held-out and training text are of one kind; None: unknown, for a text given by --val."""
    source_share: float | None = None
    """Training loss / validation loss within the first epoch. Without a validation in it: the n-gram's bits
    per byte inside the training text / its bits per byte on the held-out text."""
    source: Validation | None = None
    """The validation within the first epoch that `source_share` comes from; None where the n-gram gave it."""
    before: Validation | None = None
    """The last validation in the first four fifths of the steps."""
    surge: tuple[Validation, Validation] | None = None
    """Two validations between which both losses rose strongly, whatever came later."""
    unigram_bits: float | None = None
    ngram_bits: float | None = None
    reached: int = 0
    """The last step taken: after the last validation if the run was stopped, or is still training."""
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
        """Whether the training text was read once or more and costs far less than held-out text like it."""
        return self.same_source is True and self.epochs >= 1 and self.training_share < MEMORIZED

    @property
    def longer_helps(self) -> bool:
        """Whether more steps on the same text may help."""
        return self.code not in ("overfits", "memorizes", "unstable")

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for JSON."""
        derived = ("epochs", "training_share", "memorized")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def course_of(history: History, *, baselines: Baselines | None = None, design: str = "documents") -> Course:
    """How a run went, by its validations.

    `design` is the corpus's: "given" where the validation text may be of another kind. `baselines` are of the
    same held-out text; without them a plateau is "flat", since nothing says whether it is a good one.
    """
    validations = history.validations
    course = Course(
        code="too_short",
        best=history.best,
        last=validations[-1] if validations else None,
        validations=len(validations),
        reached=history.last_step,
        stopped=bool(history.end),
    )
    trained = [each for each in validations if each.step > 0]
    if len(trained) < 2:
        return course
    if validations[0].step == 0 and validations[0].validation_loss_nats < trained[0].validation_loss_nats:
        trained = [validations[0], *trained]  # pretrained weights: step 0 is a part of the curve
    losses = np.array([each.validation_loss_nats for each in trained])
    training = np.array([each.training_loss_nats for each in trained])
    trend = trend_of(np.array([each.step for each in trained]), losses)
    at = int(trend.best)
    unigram, ngram = _counting(baselines)
    source = _within_first_epoch(trained)
    share = _source_share(source, baselines, ngram)
    course = replace(
        course,
        level_nats=float(trend.level),
        noise=float(trend.noise),
        rise=float(trend.rise),
        fall=float(trend.fall),
        training_before_nats=float(np.median(training[max(0, at - 1) : at + 2])),
        before=next((each for each in trained[::-1] if each.step <= 0.8 * trained[-1].step), None),
        surge=_surge(trained),
        same_source=design != "given" or (None if share is None else share >= OTHER_SOURCE),
        source_share=share,
        source=source,
        unigram_bits=unigram,
        ngram_bits=ngram,
    )
    return replace(course, code=_code(course, trend, _training_rose(training, course, trend)))


def _code(course: Course, trend: Trend, training_rose: bool) -> Code:
    assert course.best is not None
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
    far = _far_from_counting(course.best.validation_bits_per_byte, course.unigram_bits, course.ngram_bits)
    return "stuck" if far else "converged"


def _training_rose(losses: np.ndarray, course: Course, trend: Trend) -> bool:
    """Whether the training loss rose after the best step too, by more than its noise."""
    tolerance = max(WORSE, min(OVER_BEST * float(noise_of(losses)), CERTAIN_RISE))
    end = float(losses[-1])
    if trend.rose:
        end = min(end, float(level_of(losses)))
    return end > (1 + tolerance) * course.training_before_nats


def _surge(trained: Sequence[Validation]) -> tuple[Validation, Validation] | None:
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


def _within_first_epoch(trained: Sequence[Validation]) -> Validation | None:
    """The last validation before any training text was read twice."""
    within = [each for each in trained if 0 < each.epoch <= 1 and each.step > 0]
    return within[-1] if within and within[-1].validation_loss_nats else None


def _source_share(
    source: Validation | None, baselines: Baselines | None, ngram_bits: float | None
) -> float | None:
    """`Course.source_share`; None where neither a validation nor the n-gram can give it."""
    if source is not None:
        return source.training_loss_nats / source.validation_loss_nats
    if baselines is None or baselines.inside_bits_per_byte is None:
        return None
    # The n-gram is fitted to text that it is not scored on, so its gap too comes from the texts alone.
    return baselines.inside_bits_per_byte / max(ngram_bits or 0.0, 1e-9)


def _counting(baselines: Baselines | None) -> tuple[float | None, float | None]:
    """Bits per byte of the unigram and of the best n-gram, where both were measured."""
    rows = baselines.rows if baselines is not None else ()
    unigram = [row.bits_per_byte for row in rows if row.code == "unigram_tokens"]
    ngrams = [row.bits_per_byte for row in rows if row.code in NGRAMS]
    return (min(unigram), min(ngrams)) if unigram and ngrams else (None, None)


def _far_from_counting(bits: float, unigram: float, ngram: float) -> bool:
    """Whether a plateau gained less than GAINED of what counting gains."""
    if unigram - ngram < LEAST_GAIN:
        return bits > unigram + LEAST_GAIN
    return unigram - bits < GAINED * (unigram - ngram)
