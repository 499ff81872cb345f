"""Regular expressions by which a tokenizer.json splits text: in they come, one that may not end is refused.

The library's engine goes back and tries again, up to ten million times a place, and then panics. No rule
tells which expression can come to that: each is tried on texts that are made of what it names.
"""

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Generator, Iterable

_USUAL = ("a", "A", "1", " ", "\n", "!", "'", "é", "日", "\u0301")
_LONG, _SHORT = 4000, 60
"""Characters of a trial: enough for a cubic expression to give up, and for an exponential one."""
_MOST_SEEDS = 24


def check_patterns(patterns: Iterable[str]) -> None:
    """ValueError for an expression on which the library gives up."""
    from tokenizers import Regex, pre_tokenizers

    for pattern in patterns:
        with _quiet_errors():
            try:
                split = pre_tokenizers.Split(Regex(pattern), "isolated")
                for text in _trials(pattern):
                    split.pre_tokenize_str(text)
            except (KeyboardInterrupt, SystemExit, MemoryError):
                raise
            except BaseException as error:  # the library's panics are no Exception
                reason = " ".join(str(error).split())[:100]
                raise ValueError(f"its pattern {pattern[:60]!r} gives up on some texts ({reason})") from None


def _trials(pattern: str) -> Iterable[str]:
    """Repetitions of what the expression names and of usual characters, with and without another end."""
    literal = re.sub(r"\\[pP]\{\^?\w*\}|\\.|\(\?[a-zA-Z:=!<>-]*", " ", pattern)
    runs = [run for run in re.findall(r"\w+", literal) if len(run) <= 8]
    seeds = list(dict.fromkeys((*_USUAL, *runs, *(character for run in runs for character in run))))[
        :_MOST_SEEDS
    ]
    # The engine looks first whether the text has the characters that an expression must end with.
    end = "\0" + "".join(seeds)
    for seed, tail in itertools.product(seeds, ("", end)):
        yield (seed * _LONG)[:_LONG] + tail
    for first, second in itertools.permutations(seeds, 2):
        yield (first + second) * (_SHORT // 2) + end


@contextlib.contextmanager
def _quiet_errors() -> Generator[None]:
    """Nothing that the library writes to standard error: each panic is a page of it."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError, ValueError):  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
