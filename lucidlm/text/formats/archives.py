"""A .zip or .tar file comes in, the files in it go out, unpacked into a temporary folder."""

import atexit
import functools
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from lucidlm.errors import DataError
from lucidlm.runtime.places import path_text
from lucidlm.runtime.wording import one_line
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, cannot_read, read_blocks
from lucidlm.text.formats.kinds import kind_of
from lucidlm.text.formats.whole_files import ZIP_FAULTS, is_of_system
from lucidlm.text.own_folders import own_kind

ARCHIVES = ("zip", "tar")
"""The kinds that are archives."""
LARGEST_ARCHIVE = 4 << 30
"""Bytes that all texts of an archive may unpack to."""
_MOST = 100_000
"""Members of an archive that are read: a few compressed MB can list millions."""
_BLOCK = 1 << 20
_LINK = 0o12
"""Type of a symbolic link in the Unix file mode of a zip archive. Its content is only the target's path."""
_FAULTS = (*ZIP_FAULTS, tarfile.TarError)


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    """The name in the archive; never used as a path on this machine."""
    size: int
    is_file: bool
    is_encrypted: bool
    is_link: bool
    open: Callable[[], IO[bytes]]


def files_in_archive(file: File, account: Account) -> list[File]:
    """The files of known kinds in an archive, ordered by path; others are skipped and counted.

    The rules are those for a folder. Names that begin with a dot, and __MACOSX, are hidden.
    """
    taken: list[File] = []
    members = _unpacked(file.path, file.path.stat().st_mtime_ns, file.packings, file.kind, file.name)
    own = _own_folders([member.name for _, member in members])
    for folder in own:
        account.pass_over(reasons.OWN_FOLDERS, f"{file.name}/{one_line(path_text(folder))}")
    for path, member in members:
        if any(member.name.startswith(f"{folder}/") for folder in own):
            continue
        name = f"{file.name}/{one_line(path_text(member.name))}"
        kind, packings = kind_of(member.name, unknown="", in_folder=True)
        reason = _reason(member)
        if reason:
            account.pass_over(reason, name)
        elif path is None:
            account.pass_over(reasons.DAMAGED, name)
        else:
            taken.append(File(path, name, kind, packings))
    if not taken:
        if account.passed[reasons.ENCRYPTED]:
            raise DataError(
                f"{file.name}: encrypted; unpack it with its password and give the files",
                reason=reasons.ENCRYPTED,
            )
        there = "; ".join(account.passed_lines()) or "it is empty"
        raise DataError(
            f"{file.name}: no text in this archive ({there}); unpack it and give files of it",
            reason=reasons.NO_TEXT,
        )
    return sorted(taken, key=lambda taken: PurePosixPath(taken.name).parts)


def _own_folders(names: list[str]) -> list[str]:
    """The outermost folders in an archive that are runs, models or prepared texts."""
    inside: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for place in range(1, len(parts)):
            inside.setdefault("/".join(parts[:place]), set()).add(parts[place])
    own = [folder for folder, there in sorted(inside.items()) if folder and own_kind(there)]
    return [folder for folder in own if not any(folder.startswith(f"{outer}/") for outer in own)]


def _reason(member: _Member) -> str:
    """Why a member is not read; "" if it is read."""
    kind, _ = kind_of(member.name, unknown="", in_folder=True)
    if _is_hidden(member.name):
        return reasons.HIDDEN_FILES
    if member.is_link:
        return reasons.LINKS
    if not member.is_file or kind in ("", "tokens", "ds"):
        return reasons.OTHER_KINDS
    if member.is_encrypted:
        return reasons.ENCRYPTED
    return reasons.EMPTY_FILES if member.size == 0 else ""


@functools.cache
def _unpacked(
    path: Path, changed: int, packings: tuple[str, ...], kind: str, name: str
) -> list[tuple[Path | None, _Member]]:
    """Each member and the temporary file with its content (None: not read). They are deleted at exit."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="lucidlm-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        place = path
        if packings:
            place = folder / "archive"
            with place.open("wb") as unpacked:
                for block in _limited(read_blocks(File(path, name, kind, packings), Account()), name):
                    unpacked.write(block)
        members = _members_of_zip if kind == "zip" else _members_of_tar
        found: list[tuple[Path | None, _Member]] = []
        total = 0
        for number, member in enumerate(members(place)):
            if number >= _MOST:
                raise DataError(f"{name}: more than {_MOST:,} files; unpack it and give the folder")
            if _reason(member):
                found.append((None, member))
                continue
            total += member.size
            if total > LARGEST_ARCHIVE:
                raise _too_much(name)
            found.append((_written(member, folder / f"{number}"), member))
        return found
    except (OSError, *_FAULTS) as problem:
        if is_of_system(problem):
            raise cannot_read(name, problem) from problem
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(
            f"{name}: damaged .{kind} file ({reason}); get another copy", reason=reasons.DAMAGED
        ) from problem


def _too_much(name: str) -> DataError:
    return DataError(f"{name}: larger than {LARGEST_ARCHIVE >> 30} GiB; unpack it and give the folder")


def _limited(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    count = 0
    for block in blocks:
        if (count := count + len(block)) > LARGEST_ARCHIVE:
            raise _too_much(name)
        yield block


def _written(member: _Member, path: Path) -> Path | None:
    """The file that a member was unpacked to; None for a damaged member."""
    try:
        with member.open() as packed, path.open("wb") as file:
            left = member.size  # bytes beyond the stated size do not belong to the member
            while left and (block := packed.read(min(left, _BLOCK))):
                file.write(block)
                left -= len(block)
    except (OSError, *_FAULTS) as problem:
        if is_of_system(problem):
            raise
        return None
    return path


def _members_of_zip(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _name_in_zip(info)
            if name and not name.endswith("/"):
                yield _Member(
                    name,
                    info.file_size,
                    True,
                    bool(info.flag_bits & 1),
                    (info.external_attr >> 28) == _LINK,
                    functools.partial(archive.open, info),
                )


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """The member's name: many programs write UTF-8 without setting the flag for it."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _members_of_tar(path: Path) -> Iterator[_Member]:
    with tarfile.open(path, "r:", errors="surrogateescape") as archive:
        for info in archive:
            if not info.isdir():
                yield _Member(
                    info.name,
                    info.size,
                    info.isreg(),
                    False,
                    info.issym() or info.islnk(),
                    functools.partial(_opened_member, archive, info),
                )


def _opened_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(info)
    assert opened is not None, "a plain file"
    return opened


def _is_hidden(name: str) -> bool:
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
