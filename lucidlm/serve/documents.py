"""Uploaded texts come in and are kept while the server runs; what lucidlm reads of each goes out."""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lucidlm.errors import LucidError, ServerError
from lucidlm.runtime.files import replacing_file
from lucidlm.runtime.leavings import process_lives
from lucidlm.runtime.wording import one_line
from lucidlm.serve.document_view import Patience, Question, renamed, view_of
from lucidlm.serve.limits import LIMITS, Limits

AT_ONCE = 2
"""Texts that are read at once: each may take a core for a minute."""
STEM_CHARACTERS = 40
"""Of the name of a run that is named after its text."""
_FOLDER = re.compile(r"lucidlm-documents-(\d+)-.*")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,10}")


@dataclass(slots=True)
class Stored:
    """A text that was uploaded. Its name is shown and never used as a path."""

    id: str
    name: str
    path: Path
    size: int = 0
    """Bytes of the file."""
    view: dict[str, Any] | None = None
    """What `view_of` said of it last; None until it was read."""

    @property
    def stem(self) -> str:
        """A name for a run: letters, digits, - and _ of the document's name."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(self.name).name.split(".")[0]).strip("-")
        return plain[:STEM_CHARACTERS] or "text"

    def kept_in(self, folder: Path) -> Path:
        """A copy below the folder that stays when the server ends; a text that is there already is kept once.

        Its path has a hash of what it holds, and of its name what a path may have.
        """
        with open(self.path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        kept = folder / content / f"{self.stem}{''.join(self.path.suffixes)}"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(kept) as temporary:
                shutil.copyfile(self.path, temporary)
        return kept

    def to_dict(self) -> dict[str, Any]:
        """What a client gets of it."""
        return {"id": self.id, "name": self.name, "bytes": self.size} | (self.view or {})


class Documents:
    """The texts that were uploaded since the server began, in a folder of its own, which `close` deletes."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._stored: dict[str, Stored] = {}
        self._folder: Path | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting: set[Patience] = set()

    @property
    def size(self) -> int:
        """Bytes of all files, those that are being written included."""
        return sum(each.size for each in self._stored.values())

    def listed(self) -> list[Stored]:
        """Those that were read, the latest first."""
        return [each for each in self._stored.values() if each.view is not None][::-1]

    def find(self, id: str) -> Stored:
        """The text with this id, which is a key and never a path; ServerError where there is none."""
        found = self._stored.get(id)
        if found is None or found.view is None:
            raise ServerError(
                f"no text has the id {id[:40]!r}", "GET /api/documents lists them", status=404, param="text"
            )
        return found

    async def add(self, name: str, body: AsyncIterator[bytes], question: Question) -> Stored:
        """Keeps a text and reads it; nothing is kept of one that cannot be used.

        ServerError where there are too many, DataError with lucidlm's own words for a file without text.
        """
        if len(self._stored) >= self.limits.documents:
            raise ServerError(
                f"{self.limits.documents} texts are kept already", "delete one of them", status=413
            )
        stored = self._new(one_line(name))
        try:
            await self._write(stored, body)
            stored.view = await self._read(stored, question)
        except BaseException:
            self._drop(stored)
            raise
        return stored

    def _new(self, name: str) -> Stored:
        if self._folder is None:
            _sweep()
            self._folder = Path(tempfile.mkdtemp(prefix=f"lucidlm-documents-{os.getpid()}-"))
        id = secrets.token_hex(6)
        # The suffixes say how it is read: that much of the name is in the path.
        suffixes = [each for each in PurePosixPath(name.lower()).suffixes[-2:] if _SUFFIX.fullmatch(each)]
        folder = self._folder / id
        folder.mkdir()
        self._stored[id] = stored = Stored(id, name, folder / f"text{''.join(suffixes)}")
        return stored

    async def _write(self, stored: Stored, body: AsyncIterator[bytes]) -> None:
        with open(stored.path, "wb") as file:
            async for block in body:
                stored.size += len(block)
                if self.size > self.limits.documents_bytes:
                    raise ServerError(
                        f"all texts together are over {self.limits.documents_bytes:,} bytes",
                        "delete one of them",
                        status=413,
                    )
                file.write(block)

    async def look(self, id: str, question: Question) -> Stored:
        """The text as another question sees it."""
        stored = self.find(id)
        stored.view = await self._read(stored, question)
        return stored

    async def _read(self, stored: Stored, question: Question) -> dict[str, Any]:
        """`view_of` in a thread, of which at most AT_ONCE run; it ends early where nobody waits for it."""
        patience = Patience()
        self._waiting.add(patience)
        try:
            async with self._turns:
                return await asyncio.to_thread(view_of, stored.path, stored.name, question, patience)
        except LucidError as error:
            error.args = tuple(renamed(error.args, str(stored.path), stored.name))
            raise
        finally:
            patience.over.set()
            self._waiting.discard(patience)

    def delete(self, id: str) -> None:
        """Forgets a text."""
        self._drop(self.find(id))

    def _drop(self, stored: Stored) -> None:
        self._stored.pop(stored.id, None)
        shutil.rmtree(stored.path.parent, ignore_errors=True)

    def close(self) -> None:
        """Ends what is being read, and deletes all."""
        for patience in self._waiting:
            patience.over.set()
        self._stored.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _sweep() -> None:
    """Deletes the texts of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob("lucidlm-documents-*"):
        found = _FOLDER.fullmatch(folder.name)
        if found and not process_lives(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)
