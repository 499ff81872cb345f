"""What the tests of the command line share: a quick training, a command's answer, strict JSON."""

import json
from dataclasses import dataclass

WORDS = ["the", "river", "ran", "past", "a", "house", "and", "nobody", "knew", "why", "light", "fell"]


QUICK = ("--tokenizer", "bytes", "--preset", "modern-1m", "--context-length", "32", "--batch-tokens", "64")


QUICK += ("--threads", "1", "--dtype", "float32", "--device", "cpu")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left: exit code, results, the rest."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()


def shown(numbers: str) -> dict:
    """Strict JSON: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(numbers, parse_constant=refuse)
