"""How a count is written for a reader: a number and a noun in, "1 step" or "2,000 steps" out."""


def plural(count: float, noun: str) -> str:
    """The count and its noun, with an s unless the count is 1: 2 heads, 1 head, 2 pieces of it."""
    head, of, tail = noun.partition(" of ")
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {head}{'' if count == 1 else 's'}{of}{tail}"


def duration(seconds: float) -> str:
    """Seconds under a minute, minutes with one decimal from there on."""
    if seconds < 1:
        return "under 1 second"
    return plural(round(seconds), "second") if round(seconds) < 60 else f"{seconds / 60:.1f} minutes"
