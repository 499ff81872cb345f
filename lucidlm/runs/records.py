"""Lines of a .jsonl file: objects in, lines with a check out; and back, without those that are damaged.

Each line ends with "check": its number and a hash of its other values except times and speeds, so that a line
that was torn, changed, lost or doubled is found. Files of former versions have no checks.
"""

import hashlib
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from lucidlm.errors import RunError
from lucidlm.runtime.small_files import lines_of
from lucidlm.runtime.wording import plural

CHECK = "check"
UNCHECKED = (CHECK, "time_s", "tokens_per_s", "mfu")
"""Keys that are not hashed: two runs that are equal except in time write equal checks."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The intact lines of a .jsonl file, and how many others there are."""

    events: tuple[dict[str, Any], ...] = ()
    broken: int = 0
    """Torn or changed; a last line that a crash cut off is not counted."""
    missing: int = 0
    doubled: int = 0

    def without(self, events: typing.Sequence[dict[str, Any]]) -> "Lines":
        """The lines without these events, which are counted as broken."""
        kept = tuple(event for event in self.events if not any(event is each for each in events))
        return replace(self, events=kept, broken=self.broken + len(events))

    def remark(self, path: Path) -> str:
        """How many lines are damaged, missing or doubled; "" if none is."""
        parts = [f"{plural(self.broken, 'line')} damaged or not of this run"] if self.broken else []
        parts += [f"{plural(self.missing, 'line')} missing"] if self.missing else []
        parts += [f"{plural(self.doubled, 'line')} doubled"] if self.doubled else []
        return f"{path}: {', '.join(parts)}; the other {len(self.events):,} are used" if parts else ""


def checked_line(values: dict[str, Any], number: int) -> str:
    """The `number`-th line of a .jsonl file, counted from 1."""
    content = {key: value for key, value in values.items() if key != CHECK}
    return json.dumps(content | {CHECK: f"{number}:{_hash_of(content, number)}"}, ensure_ascii=False) + "\n"


def _hash_of(values: dict[str, Any], number: int) -> str:
    content = {key: value for key, value in values.items() if key not in UNCHECKED}
    return hashlib.sha256(f"{number} {json.dumps(content)}".encode("ascii")).hexdigest()[:12]


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of the intact lines of a .jsonl file."""
    return iter(read_lines(path).events)


def read_lines(path: Path) -> Lines:
    """The lines of a .jsonl file and how many were skipped; no lines if there is no file."""
    numbered: dict[int, dict[str, Any]] = {}
    plain: list[dict[str, Any]] = []
    broken = doubled = 0
    before = b""
    for line in lines_of(path, RunError) if path.exists() else ():
        try:
            event = json.loads(line)
            check = event.pop(CHECK, None)
            number = 0 if check is None else _number_in(check, event)
        except (ValueError, TypeError, AttributeError, RecursionError):  # not a JSON object, or a changed one
            broken += line.endswith(b"\n")
            continue
        if line == before or numbered.get(number) == event:
            doubled += 1
        elif number in numbered:
            broken += 1  # from another file: this file has its own line of this number
        elif number:
            numbered[number] = event
        else:
            plain.append(event)
        before = line
    if not numbered:
        return Lines(tuple(plain), broken, 0, doubled)
    broken += len(plain)  # in a file with checks each line has one
    missing = max(0, max(numbered) - len(numbered) - broken)
    return Lines(tuple(numbered[number] for number in sorted(numbered)), broken, missing, doubled)


def _number_in(check: str, event: dict[str, Any]) -> int:
    """The line's number; ValueError if the hash is not that of the event."""
    number, _, found = check.partition(":")
    if found != _hash_of(event, int(number)) or str(int(number)) != number:
        raise ValueError
    return int(number)


def record_of(kind: type[Any], event: dict[str, Any]) -> Any:
    """A record of this class; ValueError if a field is missing or has another type.

    Keys that the class does not have are ignored: newer versions may write more.
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
    """For each field: the types that JSON may have for it, and whether it is required."""
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
