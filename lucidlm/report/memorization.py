"""The words for memorization: the numbers come in, a sentence, facts and a table go out."""

from lucidlm.measure.continuation import CONTINUED_BYTES, SPAN
from lucidlm.measure.copies import ANCHOR
from lucidlm.measure.memorized import NEAR, LongestRun, Memorization, Repeated
from lucidlm.measure.near_copies import WINDOW
from lucidlm.runtime.wording import plural, whole_words

OWN = "the run's held-out text"
"""The reference for all shares and counts, whatever text is evaluated."""
SHOWN = 60
"""Characters of a sequence that a line shows."""


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


def table_of(memorization: Memorization) -> str:
    """A table of the shares, and a line on each other fact."""
    lines = [f"     in a row  generated  {OWN}"]
    for row, unit in [*((row, "tokens") for row in memorization.rows), (memorization.spans, "bytes")]:
        lines.append(
            f"{row.n:>6} {unit:<6}  {_or_none(row.generated):>9}  {_or_none(row.heldout):>{len(OWN)}}"
        )
    lines.append(
        "share found verbatim in the training text, of "
        f"{memorization.generated_tokens:,} generated tokens and {memorization.heldout_tokens:,} of {OWN}"
    )
    return "\n".join([*lines, *facts_of(memorization)])


def facts_of(memorization: Memorization) -> list[str]:
    """A line on each of longest run, near copies, continuation and repeated sequence."""
    run, near = memorization.longest, memorization.near
    found, repeated = memorization.continuation, memorization.repeated
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
            f"greedy decoding: {_asked(memorization)}; median {plural(found.median_bytes, 'byte')}{most}"
        )
    if repeated is not None:
        lines.append(
            f"sequence that occurs {_times(repeated)} in the training text, "
            f"{repeated.heldout_times:,} times in {OWN}: {_shortened(repeated.text)}"
        )
    return lines


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
