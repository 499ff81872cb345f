"""Is it good? A run's losses, baselines and recitals in; a few sentences out, each by a stated rule.

The rules, their thresholds and their reasons are in docs/verdicts.md.
"""

from lucidlm.measure.baselines import Baseline, Baselines
from lucidlm.measure.history import History, Validation
from lucidlm.measure.memorization import Memorization

WORSE = 0.005
"""A validation loss this share over the best one is worse; under it, the difference is noise."""
MEMORISED = 0.7
"""A training loss under this share of the validation loss is learnt by heart."""
FALLING = 0.01
"""A loss that fell by this share over the last fifth of the steps is still falling."""
RECITED = 0.05
"""A share of long sequences from the training text so far above the held-out text's is reciting."""


def course_of(history: History) -> str:
    """The best step, what came after it, and what to try next."""
    best, last = history.best, history.validations[-1] if history.validations else None
    if best is None or last is None:
        return "No validation yet: there is no best step."
    numbers = (
        f"validation loss {best.validation_loss_nats:.4f} nats per token, "
        f"perplexity {best.validation_perplexity:,.1f}, {best.validation_bits_per_byte:.3f} bits per byte"
    )
    if best.step == last.step:
        return f"The last step, {best.step:,}, is the best: {numbers}. {_gap(best)}{_still(history)}"
    if not _worse(best, last):
        return (
            f"The best step is {best.step:,} of {last.step:,}: {numbers}. Later steps were no better "
            f"and no worse (step {last.step:,}: {last.validation_loss_nats:.4f}): "
            f"it has converged. {_gap(best)}"
        )
    return (
        f"The best step is {best.step:,} of {last.step:,}: {numbers}. Later steps were worse: by step "
        f"{last.step:,} the validation loss was {last.validation_loss_nats:.4f}, while {_why(best, last)}"
    )


def gain_of(history: History, source: str) -> str:
    """What a run that went on from other weights gained on its validation text."""
    best, first = history.best, history.validations[0] if history.validations else None
    if best is None or first is None or first.step != 0:
        return ""
    nats = best.validation_loss_nats - first.validation_loss_nats
    went = f"{first.validation_loss_nats:.4f} before, {best.validation_loss_nats:.4f} after ({nats:+.4f} nats"
    bits = f"{first.validation_bits_per_byte:.3f} and {best.validation_bits_per_byte:.3f} bits per byte"
    if best.step == 0:
        return f"{source} was best as it came: validation loss {first.validation_loss_nats:.4f}, {bits}."
    return f"From {source}: validation loss {went} per token), {bits}, on the same text."


def _why(best: Validation, last: Validation) -> str:
    """What the training loss did after the best step, and what that means."""
    went = f"from {best.training_loss_nats:.4f} to {last.training_loss_nats:.4f}"
    if last.training_loss_nats > best.training_loss_nats:
        return (
            f"the training loss rose too, {went}: the training is unstable. A lower learning rate would help."
        )
    remedy = "More text, a smaller model or more dropout would help."
    if _memorised(last):
        share = last.training_loss_nats / last.validation_loss_nats
        return (
            f"the training loss fell on {went}, {share:.0%} of it: the model overfits, so far that it "
            f"memorises its training text. {remedy}"
        )
    return f"the training loss fell on {went}: the model overfits. {remedy}"


def _memorised(validation: Validation) -> bool:
    return validation.training_loss_nats < MEMORISED * validation.validation_loss_nats


def _gap(best: Validation) -> str:
    gap = best.validation_loss_nats - best.training_loss_nats
    heart = ": it has begun to learn its training text by heart" if _memorised(best) else ""
    return f"Training text by the same protocol: {best.training_loss_nats:.4f} (gap {gap:+.4f}){heart}."


def _still(history: History) -> str:
    """Whether both losses were falling to the end: then there is more to learn."""
    last = history.validations[-1]
    before = [each for each in history.validations if each.step <= 0.8 * last.step]
    if not before:
        return ""
    falls = [
        getattr(last, loss) < (1 - FALLING) * getattr(before[-1], loss)
        for loss in ("validation_loss_nats", "training_loss_nats")
    ]
    return " Both losses were still falling: more steps would help." if all(falls) else ""


def overfits(history: History) -> bool:
    """Whether validation got worse after the best step: then longer training helps nothing."""
    best, last = history.best, history.validations[-1] if history.validations else None
    return best is not None and last is not None and _worse(best, last)


def _worse(best: Validation, last: Validation) -> bool:
    return last.validation_loss_nats > best.validation_loss_nats * (1 + WORSE)


def place_of(bits_per_byte: float, baselines: Baselines, *, longer: bool = True) -> str:
    """Between which baselines a model stands; whether to train it longer is known from its history."""
    rows = sorted(baselines.rows, key=lambda row: row.bits_per_byte)
    better = [row for row in rows if row.bits_per_byte < bits_per_byte]
    worse = [row for row in rows if row.bits_per_byte >= bits_per_byte]
    mine = f"Its {bits_per_byte:.3f} bits per byte"
    if not better:
        return f"{mine} are better than every baseline; the next is {_named(worse[0])}."
    if not worse:
        return f"{mine} are worse than every baseline, {_named(better[-1])} too: it has learnt nothing yet."
    stand = f"{mine} stand between {_named(better[-1])}, which is better, and {_named(worse[0])}"
    if "n-gram" in better[-1].name:
        advice = "train longer, or on more text" if longer else "train on more text"
        return f"{stand}: counting sequences does as well; {advice}."
    return f"{stand}."


def _named(row: Baseline) -> str:
    return f"{row.name} ({row.bits_per_byte:.3f})"


def recital_of(memorization: Memorization, *, who: str = "it writes") -> str:
    """Whether what it writes is copied from the training text; "" where there is too little to tell."""
    shares = [(row.n, row.generated, row.heldout) for row in memorization.rows if row.generated is not None]
    if not shares:
        return ""
    n, generated, heldout = shares[-1]
    held = f" (of held-out text {heldout:.0%})" if heldout is not None else ""
    stands = f"{generated:.0%} of its {n}-token sequences stand in the training text{held}"
    recited = "recited" if generated >= RECITED + (heldout or 0.0) else "not recited"
    longest = f"its longest verbatim run is {memorization.longest} tokens"
    return f"What {who} is {recited}: {stands}; {longest}."
