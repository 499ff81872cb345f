"""The regular expressions of a tokenizer.json come in; one that can run without end is refused.

The library's engine backtracks, up to ten million times per place, and then panics. No rule says which
expressions can do that, so each is tried on texts made from the characters that it names.
"""

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Generator, Iterable

_USUAL = ("a", "A", "1", " ", "\n", "!", "'", "é", "日", "\u0301")
_LONG, _SHORT = 4000, 60
"""Characters of a trial: enough to make a cubic, or an exponential, expression fail."""
_MOST_SEEDS = 24


def check_patterns(patterns: Iterable[str]) -> None:
    """ValueError for an expression on which the library fails."""
    from tokenizers import Regex, pre_tokenizers

    for pattern in patterns:
        with _quiet_errors():
            try:
                split = pre_tokenizers.Split(Regex(pattern), "isolated")
                for text in _trials(pattern):
                    split.pre_tokenize_str(text)
            except (KeyboardInterrupt, SystemExit, MemoryError):
                raise
            except BaseException as error:  # the library's panics are not Exceptions
                reason = " ".join(str(error).split())[:100]
                raise ValueError(f"its pattern {pattern[:60]!r} fails on some texts ({reason})") from None


def _trials(pattern: str) -> Iterable[str]:
    """Repetitions of characters in the expression and of usual ones, with and without a different end."""
    literal = re.sub(r"\\[pP]\{\^?\w*\}|\\.|\(\?[a-zA-Z:=!<>-]*", " ", pattern)
    runs = [run for run in re.findall(r"\w+", literal) if len(run) <= 8]
    seeds = list(dict.fromkeys((*_USUAL, *runs, *(character for run in runs for character in run))))[
        :_MOST_SEEDS
    ]
    # The engine first checks that the text has the characters with which the expression must end.
    end = "\0" + "".join(seeds)
    for seed, tail in itertools.product(seeds, ("", end)):
        yield (seed * _LONG)[:_LONG] + tail
    for first, second in itertools.permutations(seeds, 2):
        yield (first + second) * (_SHORT // 2) + end


@contextlib.contextmanager
def _quiet_errors() -> Generator[None]:
    """Hides what the library writes to standard error: a page for each panic."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError, ValueError):  # there is no standard error
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
