"""The sentences of a verdict: the course of a run and its place among the baselines in, text out.

Each sentence is made from a record; the rules behind the records are in docs/verdicts.md.
"""

from lucidlm.measure.baseline import ADAPTS, STATIC
from lucidlm.measure.baselines import FEWEST_BYTES
from lucidlm.report.course import FEWEST_TOKENS, Course
from lucidlm.report.ladder import Ladder, Rung
from lucidlm.runs.history import History, Validation
from lucidlm.runtime.wording import fixed, plural

REMEDY = "More text, a smaller model or more dropout would help."
CHOICE_BITS = "0.003"
"""The most that selecting the step gained in benchmarks/choice.py: docs/numbers.md."""


# The course of a run.


def course_sentences(course: Course) -> str:
    """Up to three sentences: how the run went, the kind of its validation text, how its step was selected."""
    source = _source(course)
    parts = [_course(course), source] if course.code != "other_source" else [source, _course(course)]
    return " ".join(sentence for sentence in (*parts, _choice(course)) if sentence)


def _course(course: Course) -> str:
    """How the run went."""
    best, last = course.best, course.last
    if best is None or last is None or last.step == 0:
        return "No verdict yet: there was no validation after a training step."
    at_best = _best(course, best, last)
    after = f"{fixed(last.validation_loss_nats, 4)} at step {last.step:,} ({_training(best, last)})"
    rose = f"{at_best}, then it rose to {after}"
    match course.code:
        case "too_short":
            return f"Only one validation, too few for a verdict: {at_best}."
        case "too_little_text":
            return too_little_text(last.validation_tokens)
        case "improving":
            return _improving(course, at_best, last)
        case "flat":
            return f"The validation loss no longer falls: {at_best}; {_training(best, last)}."
        case "converged":
            return f"Converged: {at_best}, and the loss no longer falls; {_training(best, last)}."
        case "stuck":
            return (
                f"Stuck: {at_best}, and the loss no longer falls. An n-gram model needs only "
                f"{course.ngram_bits:.3f} bits per byte (unigram: {course.unigram_bits:.3f}). "
                "The learning rate is probably wrong; try a tenth of it."
            )
        case "overfits":
            return f"Overfitting: {rose}. {REMEDY}"
        case "memorizes":
            return (
                f"Memorization: after {course.epochs:.1f} epochs the training loss is "
                f"{100 * course.training_share:.0f} % of the validation loss; {at_best}, {after}. {REMEDY}"
            )
        case "unstable":
            return f"Unstable training: {_surge(course, at_best) or rose}. A lower learning rate would help."
        case "worse":
            return f"Worse: {rose}. Cause unknown: {_why_unknown(course)}."
        case "other_source":
            return f"{at_best[0].upper()}{at_best[1:]}; {_training(best, last)}."


def too_little_text(tokens: int) -> str:
    """The sentence in place of a verdict on fewer than FEWEST_TOKENS held-out tokens."""
    have = plural(tokens, "token")
    return f"Too little held-out text for a verdict: {have}, at least {FEWEST_TOKENS} are needed."


def too_few_bytes(count: int) -> str:
    """The sentence in place of a comparison with the baselines on fewer than FEWEST_BYTES."""
    have = plural(count, "scored byte")
    return f"No comparison with baselines: {have}, at least {FEWEST_BYTES} are needed."


def _best(course: Course, best: Validation, last: Validation) -> str:
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
        f"at step {best.step:,}{_of_steps(course, best, last)}"
    )


def _of_steps(course: Course, best: Validation, last: Validation) -> str:
    """The number of steps; if the run went on after its last validation, the steps of both."""
    if course.reached <= last.step:
        return f" of {last.step:,}"
    until = "the interruption at step" if course.stopped else "step"
    if best.step == last.step:
        return f", the last validation before {until} {course.reached:,}"
    return f" (last validation before {until} {course.reached:,}: step {last.step:,})"


def _training(best: Validation, last: Validation) -> str:
    """The training losses at the two validations."""
    if best.step == last.step:
        return f"training loss {fixed(last.training_loss_nats, 4)} at the same step"
    return (
        f"training loss {fixed(best.training_loss_nats, 4)} at step {best.step:,}, "
        f"{fixed(last.training_loss_nats, 4)} at step {last.step:,}"
    )


def _improving(course: Course, at_best: str, last: Validation) -> str:
    assert course.best is not None
    before = course.before
    fell = (
        f" ({fixed(before.validation_loss_nats, 4)} at step {before.step:,}, "
        f"{fixed(last.validation_loss_nats, 4)} at step {last.step:,})"
        if before is not None
        else ""
    )
    begun = (
        f" Memorization has begun: the training loss is {100 * course.training_share:.0f} % of the "
        "validation loss."
        if course.memorized
        else ""
    )
    return (
        f"Still improving: {at_best}; {_training(course.best, last)}. The validation loss was still falling "
        f"at the end{fell}: more steps would help.{begun}"
    )


def _surge(course: Course, at_best: str) -> str:
    """Between which steps both losses rose; "" where they rose at the end alone."""
    if course.surge is None:
        return ""
    low, high = course.surge
    return (
        f"from step {low.step:,} to {high.step:,} the validation loss rose from "
        f"{fixed(low.validation_loss_nats, 4)} to {fixed(high.validation_loss_nats, 4)} "
        f"and the training loss from {fixed(low.training_loss_nats, 4)} "
        f"to {fixed(high.training_loss_nats, 4)}; {at_best}"
    )


def _why_unknown(course: Course) -> str:
    if course.epochs < 1:
        return (
            f"the training text was read only {course.epochs:.2f} times, so this is not overfitting; try a "
            "lower learning rate"
        )
    return (
        "without a validation within the first epoch, nothing shows whether the given validation text is of "
        "the same kind as the training text"
    )


def _source(course: Course) -> str:
    """That the validation text is of another kind, and how this was found."""
    if course.same_source is not False or course.code == "too_little_text" or course.source_share is None:
        return ""
    kind, share = "The validation text differs in kind from the training text", 100 * course.source_share
    at = course.source
    if at is None:
        return (
            f"{kind}: on the training text an n-gram model of bytes needs {share:.0f} % of the bits per byte "
            "that it needs on the validation text."
        )
    return (
        f"{kind}: at step {at.step:,}, before any training text was read twice, the training loss was "
        f"{share:.0f} % of the validation loss ({fixed(at.training_loss_nats, 4)} and "
        f"{fixed(at.validation_loss_nats, 4)} nats per token)."
    )


def _choice(course: Course) -> str:
    """That the step was selected on the text that evaluates it."""
    if course.code in ("too_short", "too_little_text") or course.validations < 2:
        return ""
    return (
        f"The loss was measured at {course.validations} steps and the lowest is reported, so it is slightly "
        f"lower than on new text (in lucidlm's tests by up to {CHOICE_BITS} bits per byte)."
    )


def gain_sentence(history: History, source: str) -> str:
    """What a run that started from the weights `source` gained on its validation text."""
    best, first = history.best, history.validations[0] if history.validations else None
    if best is None or first is None or first.step != 0:
        return ""
    nats = best.validation_loss_nats - first.validation_loss_nats
    before, after = fixed(first.validation_loss_nats, 4), fixed(best.validation_loss_nats, 4)
    bits = f"{first.validation_bits_per_byte:.3f} and {best.validation_bits_per_byte:.3f} bits per byte"
    if best.step == 0:
        return f"Training did not improve {source}: validation loss {before}, {bits}."
    return (
        f"Trained from {source}: validation loss {before} before, {after} after "
        f"({nats:+.4f} nats per token), {bits}, on the same text."
    )


# The place among the baselines.


def place_sentences(ladder: Ladder, *, own: bool, longer: bool = True) -> str:
    """How the model compares with the baselines, with the caution that belongs beside its number.

    `own`: the text is the run's own held-out text, so it can be said that the model has learnt nothing, if
    that text does not differ from the training text. `longer`: more steps on the same text may help.
    """
    said = _place(ladder, own=own, longer=longer)
    return f"{said.removesuffix('.')} ({ladder.caution})." if ladder.caution else said


def _place(ladder: Ladder, *, own: bool, longer: bool) -> str:
    if not own or ladder.differs is not None:
        return " ".join(filter(None, (_likeness(ladder), _against_best(ladder, ""))))
    if ladder.learnt == "nothing":
        uniform = ladder["uniform_vocabulary"].baseline.bits_per_byte
        return (
            f"The model has learnt nothing yet: its {ladder.bits_per_byte:.3f} bits per byte are no better "
            f"than a uniform guess over the vocabulary ({uniform:.3f})."
        )
    advice = "train longer, or on more text" if longer else "train on more text"
    little = _little(ladder["unigram_tokens"]) if ladder.learnt == "little" else ""
    return " ".join(filter(None, (little, _against_best(ladder, advice))))


def _little(unigram: Rung) -> str:
    bits = f"{unigram.baseline.bits_per_byte:.3f} bits per byte"
    said = {
        "worse": f"predict the text better ({bits})",
        "open": f"predict the text as well ({bits})",
        "not tested": f"need {bits}, {unigram.difference:.3f} fewer (no interval)",
    }[unigram.outcome]
    return f"The model has learnt little yet: token frequencies alone (the unigram) {said}."


def _likeness(ladder: Ladder) -> str:
    if ladder.differs is None:
        return ""
    bits = ladder["ngram_bytes"].baseline.bits_per_byte
    how = "differs from" if ladder.unlike is None else "is unlike"
    return (
        f"This text {how} the training text: an n-gram model of bytes fitted to the training text needs "
        f"{bits:.3f} bits per byte here; fitted to four fifths of the training text, it needs "
        f"{ladder.inside_bits_per_byte:.3f} on the other fifth."
    )


def _against_best(ladder: Ladder, advice: str) -> str:
    static, adaptive = ladder.best(STATIC), ladder.best(ADAPTS)
    all_of_them = ", better than every baseline" if ladder.better_than_all else ""
    counts = ""
    if advice and ladder.counting is not None:
        found = "the model is not shown to beat an n-gram model"
        counts = f"; {found if ladder.counting == 'open' else 'an n-gram model does better'}: {advice}"
    of_adaptive = _against(adaptive, clause=static.interval is None)
    parts = (
        f"The model needs {ladder.bits_per_byte:.3f} bits per byte (lower is better){all_of_them}.",
        f"Best baseline that stops learning after training, as the model does: {_against(static)}{counts}.",
        f"Best baseline that also learns from the text it is scored on: {of_adaptive}.",
    )
    return " ".join(parts)


def _against(rung: Rung, *, clause: bool = True) -> str:
    """The model against a baseline; `clause`: what the interval is of, which is said once."""
    named = f"{rung.baseline.name} ({rung.baseline.bits_per_byte:.3f})"
    gap, interval = abs(rung.difference), rung.interval
    if interval is None:
        word = "fewer" if rung.difference < 0 else "more"
        return f"{named}; the model needs {gap:.3f} bits {word} (no interval)"
    of = f", {interval.clause}" if clause else ""
    if rung.outcome == "open":
        numbers = f"{rung.difference:+.3f}, 95 % interval {interval.low:+.3f} to {interval.high:+.3f}{of}"
        return f"{named}; this text cannot show which is better (model minus baseline: {numbers})"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{named}; the model is {rung.outcome} by {gap:.3f} (95 % interval {low:.3f} to {high:.3f}{of})"
