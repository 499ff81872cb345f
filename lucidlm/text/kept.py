"""Finished pieces of long work come in and are kept in a folder; after a kill, the whole ones come out."""

import json
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from lucidlm.runtime.files import naming, write_atomically

RECORD = "json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of pieces: a few files NAME.KIND each, and a record NAME.json that is written last.

    A name is a hash of all that the piece is made from, so a piece is found again only by the same work.
    """

    folder: Path
    durable: bool = True
    """Whether a piece is on the disk before its record is. No use where there is one."""

    def path(self, name: str, kind: str) -> Path:
        """The path of a file of a piece."""
        return self.folder / f"{name}.{kind}"

    def record(self, name: str) -> dict | None:
        """The record of a piece that is whole; None for one that is missing or was not finished."""
        try:
            record = json.loads(self.path(name, RECORD).read_bytes())
            for kind, size in record["sizes"].items():
                if self.path(name, kind).stat().st_size != size:
                    return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record

    def keep(self, name: str, kinds: Collection[str], record: dict) -> dict:
        """Write the record of a piece whose files are complete; returns it."""
        sizes = {}
        for kind in kinds:
            path = self.path(name, kind)
            sizes[kind] = path.stat().st_size
            if self.durable:
                with naming(path), open(path, "rb+") as file:
                    os.fsync(file.fileno())
        record = {**record, "sizes": sizes}
        if self.durable:
            write_atomically(self.path(name, RECORD), json.dumps(record))
        else:
            self.path(name, RECORD).write_text(json.dumps(record))
        return record

    def sweep(self, prefix: str, wanted: Callable[[str], bool]) -> None:
        """Delete the pieces whose name begins with `prefix`, but not the wanted ones."""
        for path in self.folder.iterdir():
            name = path.name.removeprefix(".").partition(".")[0]
            if name.startswith(prefix) and not wanted(name):
                path.unlink(missing_ok=True)

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
