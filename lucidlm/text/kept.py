"""Finished pieces of long work come in and are kept in a folder; after a kill, the complete ones go out."""

import contextlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from pathlib import Path

from lucidlm.errors import DataError
from lucidlm.runtime.files import naming
from lucidlm.runtime.wording import one_line

RECORD = "json"
_UNFINISHED = ".tmp"


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of pieces: a few files NAME.KIND each, and a record NAME.json that is written last.

    A name is a hash of everything that the piece depends on, so only the same work finds it again.
    """

    folder: Path
    durable: bool = True
    """Whether a piece is synced to the disk before its record is written.

    If not, it is never found again: after a power cut it may have the right size and wrong bytes.
    """
    made_by: str = ""
    """A hash of the code that makes the pieces. Pieces of other code could differ and are not found."""

    def path(self, name: str, kind: str) -> Path:
        """The path of a file of a piece."""
        return self.folder / f"{name}.{kind}"

    def record(self, name: str) -> dict | None:
        """The record of a complete piece; None if it is missing, was not finished, or must not be used."""
        try:
            record = json.loads(self.path(name, RECORD).read_bytes())
            if record["durable"] is not True or record["made_by"] != self.made_by:
                return None
            for kind, size in record["sizes"].items():
                if self.path(name, kind).stat().st_size != size:
                    return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record

    @contextlib.contextmanager
    def new(self, name: str, kinds: Collection[str]) -> Generator["NewPiece"]:
        """A piece to be written. If the block does not call `keep`, its files are deleted.

        The files have names that no other process uses: after a kill, a process of the killed command may
        still write the same piece. `keep` gives them their final names.
        """
        own = secrets.token_hex(8)
        paths = {kind: self.folder / f"{name}.{kind}.{own}{_UNFINISHED}" for kind in (*kinds, RECORD)}
        try:
            yield NewPiece(self, name, paths)
        except OSError as error:
            for kind, path in paths.items():
                if error.filename in (path, str(path)):
                    error.filename = str(self.path(name, kind))
            raise
        finally:
            for path in paths.values():
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def sweep(self, prefix: str, wanted: Callable[[str], bool]) -> None:
        """Delete the pieces with this prefix that are not wanted, and all that are not finished."""
        for path in self.folder.iterdir():
            name = path.name.removeprefix(".").partition(".")[0]
            if not name.startswith(prefix):
                continue
            if path.suffix == _UNFINISHED:
                with contextlib.suppress(PermissionError):  # on Windows, if it is still being written
                    path.unlink(missing_ok=True)
            elif not wanted(name):
                path.unlink(missing_ok=True)

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class NewPiece:
    """A piece while it is written."""

    kept: Kept
    name: str
    paths: dict[str, Path]
    """Where to write the file of each kind; the last one is the record, which `keep` writes."""

    def keep(self, record: dict) -> dict:
        """Give the files, which are complete, their final names, and write the record; returns it."""
        *kinds, _ = self.paths
        sizes = {kind: self._finish(kind) for kind in kinds}
        made = {"sizes": sizes, "durable": self.kept.durable, "made_by": self.kept.made_by}
        record = {**record, **made}
        # Not by `write_atomically`: it would make a folder again that the next preparation has deleted.
        with naming(self.paths[RECORD]):
            self.paths[RECORD].write_text(json.dumps(record), encoding="utf-8")
        self._finish(RECORD)
        return record

    def _finish(self, kind: str) -> int:
        """Give a file its final name; returns its size."""
        path, final = self.paths[kind], self.kept.path(self.name, kind)
        with naming(final):
            size = path.stat().st_size
            if self.kept.durable:
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(path, final)
        return size


@contextlib.contextmanager
def intact(path: Path) -> Generator[None]:
    """A context that reads arrays of a kept file; DataError if it has the right size and is damaged."""
    try:
        yield
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as problem:
        raise DataError(
            f"{path}: damaged while it was kept ({one_line(str(problem))}); delete {path.parent} and "
            "run the same command again"
        ) from problem
