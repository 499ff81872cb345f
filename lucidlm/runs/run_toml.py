"""run.toml: a request and its plan in, its text out; and back, with each key checked."""

import dataclasses
import functools
import hashlib
import re
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import TypeAdapter, ValidationError

from lucidlm.errors import ConfigError, RunError
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.runtime.places import path_from_text, path_text
from lucidlm.runtime.small_files import read_small_file, read_small_json
from lucidlm.text.corpus import design_in
from lucidlm.text.split import Split
from lucidlm.weights.whole import SETTINGS, Whole

LARGEST_SETTINGS = 1 << 20
"""Bytes of run.toml."""
PATHS = ("text", "val", "out", "from_")
"""Settings that name files: in TOML a name that is no UTF-8 is escaped."""


def write_settings(run: Path, config: TrainConfig, plan: Plan, *, id: str = "") -> None:
    """Writes run.toml: the request, and the plan that was made from it. Training with it repeats the run.

    With the run's `id`, the last line has the id and a hash of the lines above.
    """
    document = tomlkit.document()
    document.add(
        tomlkit.comment(
            "Everything this run was made with: lucidlm train --config run.toml --out NEW repeats it."
        )
    )
    for key, value in _plain(dataclasses.asdict(config)).items():
        document.add(key, _each(path_text, value) if key in PATHS else value)
    table = tomlkit.item(_plain(dataclasses.asdict(plan)))
    table.comment(
        "Chosen from the settings above, the text and the machine. With it, the clock is never looked at."
    )
    document.add("plan", table)
    text = tomlkit.dumps(document)
    write_atomically(run / SETTINGS, f"{text}{_last_line(text, id)}" if id else text)


def _last_line(text: str, id: str) -> str:
    return f"# run {id}, SHA-256 of all above: {hashlib.sha256(text.encode('utf-8')).hexdigest()}\n"


def fault_of_settings(run: Path, whole: Whole | None) -> str:
    """What is wrong with a run's run.toml; "" if nothing is, or if a former version wrote it."""
    if whole is None or not whole.run:
        return ""
    path = run / SETTINGS
    text = read_small_file(path, LARGEST_SETTINGS, RunError).decode("utf-8", "replace")
    above, last = text[: text.rstrip("\n").rfind("\n") + 1], text[text.rstrip("\n").rfind("\n") + 1 :]
    if last == _last_line(above, whole.run):
        return ""
    other = re.match(r"# run (\w{1,64}), ", last)
    if other and other[1] != whole.run and last == _last_line(above, other[1]):
        return f"{path}: of the run {other[1]}, not of this one ({whole.run})"
    return f"{path}: changed since lucidlm wrote it"


def read_settings(path: Path) -> tuple[TrainConfig, Plan | None]:
    """The request and, if there is one, the plan in a run.toml or in a settings file that the user wrote."""
    path = path / SETTINGS if path.is_dir() else path
    values = read_toml(path)
    plan = values.pop("plan", None)
    if plan is not None:
        values.setdefault("split", _split_before(path.parent))
        if isinstance(plan, dict) and isinstance(optim := plan.get("optim"), dict):
            optim.setdefault("row_beta", 0.0)  # in a run from before rows were evened
    return _checked(TrainConfig, values, path), None if plan is None else _checked(Plan, plan, path)


def _split_before(run: Path) -> str:
    """The split of a run whose run.toml has none, because it was made before --split existed."""
    try:
        design = design_in(read_small_json(run / "data" / MANIFEST, RunError))
    except (OSError, RunError, ValueError, KeyError, TypeError, AttributeError):
        return "end"
    known = typing.get_args(Split)
    return "auto" if design == "given" else design if design in known else "end"


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a settings file, unchecked; paths as the system has them."""
    try:
        values = tomllib.loads(read_small_file(path, LARGEST_SETTINGS, RunError).decode("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: not there; give the folder of a run, or a .toml file of settings") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of a million digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return {key: _each(path_from_text, value) if key in PATHS else value for key, value in values.items()}


def _each(change: Callable[[str], str], value: Any) -> Any:
    """A string, or each string in a list, changed; any other value stays for the checks to refuse."""
    if isinstance(value, list):
        return [_each(change, item) for item in value]
    return change(value) if isinstance(value, str) else value


def _checked(kind: type, values: Any, path: Path) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: plan = {values!r:.80}: give a table, [plan]")
    _refuse_unknown(kind, values, path)
    if where := _truth_for_a_number(kind, values):
        raise ConfigError(f"{path}: {where} is true or false; give a number")
    try:
        return _checker(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where} = {first['input']!r:.80}: {first['msg']}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}: a setting has a value of the wrong type ({error})") from None


@functools.cache
def _checker(kind: type) -> TypeAdapter:
    """Building one takes tens of milliseconds."""
    return TypeAdapter(kind)


def _truth_for_a_number(kind: Any, values: dict[str, Any], table: str = "") -> str:
    """The first number that is true or false instead, or ""; pydantic would take it for 0 or 1."""
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            if found := _truth_for_a_number(hint, value, f"{table}{key}."):
                return found
        elif _holds_truth(value) and _takes_numbers(hint):
            return table + key
    return ""


def _takes_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(map(_takes_numbers, typing.get_args(hint)))


def _holds_truth(value: Any) -> bool:
    return any(map(_holds_truth, value)) if isinstance(value, list) else isinstance(value, bool)


def _refuse_unknown(kind: Any, values: dict[str, Any], path: Path, table: str = "") -> None:
    """ConfigError for a key that is no field, in nested tables too."""
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"{path}: no setting is called {table + key!r}; there are {', '.join(sorted(known))}"
            )
        if dataclasses.is_dataclass(known[key]) and isinstance(value, dict):
            _refuse_unknown(known[key], value, path, f"{table}{key}.")


def _plain(value: Any) -> Any:
    """The value without None, which TOML does not have, and with lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
