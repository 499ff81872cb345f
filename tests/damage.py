"""Damage at random, to files that were right: bytes in, bytes out, and JSON that is valid and wrong."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucidlm.errors import WeightsError
from lucidlm.weights.load import load

ODD = [None, True, -1, 0, 1, 2, 3.5, 7, 2**16, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf")]
ODD += ["", "x", "../x.safetensors", "/etc/passwd", "\x00", "a" * 10_000, [], [1], [[]], {}, {"a": 1}]
"""Values that no field expects, and some that several do."""
GONE = "(gone)"
DEEP = json.loads("[" * 400 + "]" * 400)
CONFUSING = [None, True, -1, 0, 2**63, 1e308, float("nan"), "", "x\0", [], {}, DEEP, GONE]
"""One of each kind of what a place in a file of JSON or TOML may hold unexpectedly."""


def refusal(folder: Path) -> str:
    """The message with which a model's folder is refused: one line, first a path in it, last a way out."""
    with pytest.raises(WeightsError) as refused:
        load(folder)
    message = str(refused.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    assert "; " in message
    return message


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one thing wrong, or two."""
    data = data or b"\0"
    size = len(data)
    start, end, other = sorted(int(place) for place in rng.integers(0, size + 1, 3))
    place, few = int(rng.integers(0, size)), rng.bytes(int(rng.integers(1, 9)))
    match int(rng.integers(0, 9)):
        case 0:
            return data[:start]
        case 1:
            return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(0, 8)))]) + data[place + 1 :]
        case 2:
            return data[:place] + few[:1] + data[place + 1 :]
        case 3:
            return data[:place] + few + data[place:]
        case 4:
            return data[:place] + data[place + len(few) :]
        case 5:
            return data[:start] + data[end:other] + data[start:end] + data[other:]
        case 6:
            return data[:start] + bytes(min(64, end - start)) + data[start + min(64, end - start) :]
        case 7:
            return data[:end] + data[start:end][:5000] + data[end:]
        case _:
            return mutated(mutated(data, rng), rng)


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """The JSON with one value, or two, gone, doubled, changed or exchanged, at any depth."""
    values = json.loads(data)
    for _ in range(int(rng.integers(1, 3))):
        holder: Any = values
        while True:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            if not len(keys):
                break
            key = keys[int(rng.integers(0, len(keys)))]
            if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.7:
                holder = holder[key]
                continue
            match int(rng.integers(0, 4)):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, dict):
                    holder[f"{key}x"] = holder.pop(key)
                case 2 if isinstance(holder[key], int):
                    holder[key] += int(rng.integers(-3, 4))
                case _:
                    holder[key] = ODD[int(rng.integers(0, len(ODD)))]
            break
    return json.dumps(values).encode()


def places_in(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Each place in a document; of a list the first item, of a vocabulary two entries."""
    yield path
    if isinstance(value, dict):
        keys = list(value)
        for key in keys if len(keys) < 100 else (keys[0], keys[-1]):
            yield from places_in(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places_in(value[0], (*path, 0))


def with_odd(value: Any, path: tuple, odd: Any) -> Any:
    """The document with one value changed, or gone."""
    if not path:
        return {} if odd == GONE else odd
    changed = copy.deepcopy(value)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if odd == GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = odd
    return changed
