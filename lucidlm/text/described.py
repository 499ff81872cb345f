"""The manifest of a prepared folder comes in; an error that names a damaged field goes out, or nothing.

Manifests of earlier versions have no hash of their own, so the fields that are used later are checked here.
"""

import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lucidlm.errors import DataError
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.text.split import Design

_COUNTS = ("documents", "characters", "bytes")
_LEAKS = ("near_documents", "lines", "lines_total", "unchecked_documents")


def check_described(folder: Path, manifest: dict[str, Any]) -> None:
    """DataError unless all fields that describe a corpus exist and have the right type."""
    for place, right in _fields(manifest):
        if not right:
            raise DataError(f"{folder / MANIFEST}: {place} is damaged; prepare the text again")


def _fields(manifest: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each field and whether it is right; a table comes before its fields."""
    for name in ("tokenizer", "settings", "train", "validation"):
        yield name, isinstance(manifest.get(name), dict)
    for part in ("train", "validation"):
        for name in _COUNTS:
            yield f"{part}.{name}", _is_count(manifest[part].get(name))
    for name in ("fingerprint", "reason"):
        yield f"tokenizer.{name}", isinstance(manifest["tokenizer"].get(name), str)
    yield "settings.validation_fraction", _is_share(manifest["settings"].get("validation_fraction"))
    yield "notes", _is_list_of(str, manifest.get("notes"))
    yield "documents", _is_list_of(dict, manifest.get("documents"))
    for entry in manifest["documents"]:
        counts = (entry.get("train_bytes"), entry.get("validation_bytes"))
        yield "documents", isinstance(entry.get("source"), str) and all(map(_is_count, counts))
    yield "validation_sources", isinstance(manifest.get("validation_sources"), list)
    if "split" in manifest:
        design = manifest["split"].get("design") if isinstance(manifest["split"], dict) else None
        yield "split", isinstance(design, str) and design in typing.get_args(Design)
    leaks = manifest.get("leaks", {})
    yield "leaks", isinstance(leaks, dict)
    if "share" in leaks:  # earlier versions have none
        yield "leaks.share", _is_share(leaks["share"])
        for name in _LEAKS:
            yield f"leaks.{name}", _is_count(leaks.get(name))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
