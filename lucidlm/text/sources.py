"""Paths, patterns, addresses and "-" come in, their files go out; what is skipped is counted.

This is the only search for files: the same files are read, hashed and listed in a manifest.
"""

import difflib
import fnmatch
import glob
import os
import re
import shlex
import stat
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lucidlm.errors import DataError
from lucidlm.runtime.fetch import SCHEMES, cache_folder, fetch
from lucidlm.runtime.part_file import origin_of
from lucidlm.runtime.places import path_text
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats.decoding import File, cannot_read
from lucidlm.text.formats.ds_files import COMPANIONS
from lucidlm.text.formats.kinds import CONTENT_TYPES, SUFFIXES, kind_of
from lucidlm.text.own_folders import MODEL, PREPARED, is_temporary, own_folder, own_kind
from lucidlm.text.pipes import DASH, STDIN, refuse_stdin_twice, spooled_pipe, spooled_stdin

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_PROBE = 1 << 16
"""Bytes of a file that are checked before a pattern for files like it is suggested."""


def find_files(sources: Sequence[str | Path], account: Account, *, progress: Progress = SILENT) -> list[File]:
    """The files of all sources, each once; files of a folder or pattern in the order of their paths.

    DataError for a named file that does not exist, and for a source without any file to read. Other files of
    a folder or pattern are counted in `account`. `progress` gets notes on downloads.
    """
    refuse_stdin_twice(sources)
    found: dict[str, File] = {}
    for source in sources:
        for file in _files_of(source, account, progress):
            if found.setdefault(os.path.realpath(file.path), file) is not file:
                account.pass_over(reasons.GIVEN_TWICE, file.name)
    return list(found.values())


def _files_of(source: str | Path, account: Account, progress: Progress) -> list[File]:
    name = str(source)
    if not name:
        raise DataError('a path is empty (""): give a file, a folder, an address or "-" for stdin')
    if name in (DASH, STDIN):
        return [File(spooled_stdin(), "stdin", "text")]
    # A path may look like an address of a scheme that is not fetched.
    if (scheme := _SCHEME.match(name)) and (scheme[1].lower() in SCHEMES or not os.path.lexists(name)):
        return [_file_at_address(name, progress)]
    shown = path_text(name)
    try:
        return _files_at_path(Path(name), shown, account)
    except OSError as problem:
        raise cannot_read(shown, problem) from problem
    except ValueError as problem:
        raise DataError(f"{shown!r}: not a path ({problem}); check how it is written") from problem


def _files_at_path(path: Path, name: str, account: Account) -> list[File]:
    try:
        mode = os.stat(path).st_mode
    except OSError as problem:
        if os.path.islink(path) and not isinstance(problem, PermissionError):
            raise DataError(f"{name}: a broken link; fix it or give another file") from problem
        if glob.has_magic(name):
            return _in_pattern(path, account)
        if isinstance(problem, FileNotFoundError | NotADirectoryError):
            raise DataError(_not_there(path)) from None
        raise
    if stat.S_ISDIR(mode):
        return _in_folder(path, account)
    if stat.S_ISFIFO(mode):
        return [File(spooled_pipe(path), name, *kind_of(name))]
    if stat.S_ISREG(mode):
        return [File(path, name, *kind_of(name))]
    raise DataError(f"{name}: neither a file nor a folder; give a file with text")


def _not_there(path: Path) -> str:
    name, folder = path_text(path), path_text(path.parent)
    if not path.parent.is_dir():
        return f"{name}: no such file, and no folder {folder} either; check the path"
    near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"{name}: no such file; " + (
        f"did you mean {path_text(path.parent / near[0])}?" if near else "check the path"
    )


# Folders


def _in_folder(folder: Path, account: Account) -> list[File]:
    """Files of known kinds below a folder that the user named."""
    if kind := own_folder(folder):
        raise DataError(no_text(folder, kind))
    name, passed = path_text(folder), Account()
    found = list(_walk(folder, name, passed))
    if not found:
        there = f" ({'; '.join(passed.passed_lines())})" if passed.passed else ""
        raise DataError(
            f"{name}: no text in this folder{there}; these suffixes are read: {' '.join(SUFFIXES)}, also "
            f"with .gz .bz2 .xz .zst{_offer(folder)}"
        )
    account.add(passed)
    return sorted(found, key=lambda file: file.path.parts)


def no_text(path: str | Path, kind: str) -> str:
    """The message if a run, a model or a prepared text is given as a text."""
    name = path_text(path)
    pattern = shlex.quote(os.path.join(glob.escape(name), "*.md"))
    if kind == PREPARED:
        return f"{name} is {kind}, which contains tokens; give the text that it was made from"
    files = f", or a pattern for files in it ({pattern})" if kind == MODEL else ""
    return f"{name} is {kind}, not a text; give a file or a folder of texts{files}"


def _walk(top: Path, source: str, account: Account) -> Iterator[File]:
    """Files of known kinds below a folder. Links to folders are not followed: they may lead back."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            if folder == top:
                raise
            account.pass_over(reasons.UNREADABLE, path_text(folder))
            continue
        if folder != top and own_kind([entry.name for entry in entries]):
            account.pass_over(reasons.OWN_FOLDERS, path_text(folder))
            continue
        folders = []
        for entry in entries:
            path = folder / entry.name
            if is_temporary(entry.name):
                continue
            if entry.name.startswith("."):
                account.pass_over(reasons.HIDDEN_FILES, path_text(path))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif file := _file_in_folder(path, source, account, unknown=""):
                yield file
        waiting += reversed(folders)


def _file_in_folder(path: Path, source: str, account: Account, *, unknown: str) -> File | None:
    """A file of a folder or pattern, if it is to be read; `unknown` is the kind for unknown suffixes."""
    name = path_text(path)
    if path.name.endswith(COMPANIONS) and path.with_suffix("").exists():
        return None  # read with the token file
    try:
        status = os.stat(path)
    except OSError as problem:
        account.pass_over(
            reasons.UNREADABLE if isinstance(problem, PermissionError) else reasons.LOOSE_LINKS, name
        )
        return None
    kind, packings = kind_of(path.name, unknown, in_folder=not unknown)
    if stat.S_ISDIR(status.st_mode):
        account.pass_over(reasons.LINKED_FOLDERS, name)
    elif not stat.S_ISREG(status.st_mode):
        account.pass_over(reasons.SPECIAL, name)
    elif not kind:
        account.pass_over(reasons.OTHER_KINDS, name)
    elif status.st_size == 0:
        account.pass_over(reasons.EMPTY_FILES, name)
    else:
        return File(path, name, kind, packings, source)
    return None


def _offer(folder: Path) -> str:
    """Advice with a pattern for the most frequent unknown kind of files that are text; "" if none."""
    below = os.path.join(glob.escape(str(folder)), "**")
    files = [path for path in _matches(below, Account()) if os.path.isfile(path)]
    suffixes = [suffix for suffix, _ in Counter(path.suffix for path in files).most_common()]
    for suffix in sorted(suffixes, key=lambda suffix: not suffix):
        if any(_looks_like_text(path) for path in [path for path in files if path.suffix == suffix][:5]):
            # Without a suffix the pattern is for all files: there is none for names without a dot.
            pattern = os.path.join(below, f"*{glob.escape(suffix)}") if suffix else below
            return f"; a pattern reads other files: {shlex.quote(path_text(pattern))}"
    return ""


def _looks_like_text(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            block = file.read(_PROBE)
    except OSError:
        return False
    # The last character may be incomplete.
    return (
        bool(block) and b"\0" not in block and len(block.decode("utf-8", "ignore").encode()) > len(block) - 4
    )


# Patterns


def _in_pattern(pattern: Path, account: Account) -> list[File]:
    """Files that a pattern matches, of any kind, and files of known kinds in folders that it matches."""
    name, passed = path_text(pattern), Account()
    matches = _matches(pattern, passed)
    if not matches and not passed.passed:
        raise DataError(f"{name}: no file matches; check the pattern, or give the folder itself")
    holding = {folder for match in matches for folder in match.parents}
    found = []
    for match in matches:
        if not os.path.isdir(match):
            found += filter(None, [_file_in_folder(match, name, passed, unknown="text")])
        elif match not in holding:  # if it also matches in the folder, only those matches are meant
            found += _walked(match, name, passed)
    if not found:
        there = f" ({'; '.join(passed.passed_lines())})" if passed.passed else ""
        raise DataError(f"{name}: no text in the matching files{there}; check the pattern")
    account.add(passed)
    return sorted(found, key=lambda file: file.path.parts)


def _walked(folder: Path, source: str, account: Account) -> list[File]:
    try:
        return list(_walk(folder, source, account))
    except OSError:
        account.pass_over(reasons.UNREADABLE, path_text(folder))
        return []


def _matches(pattern: str | Path, account: Account) -> list[Path]:
    """Paths that a pattern matches, sorted, as in a shell: * does not match hidden names, ** any folders.

    Unlike in glob, ** does not follow links, which may lead back, and does not enter runs, models or prepared
    texts.
    """
    anchor = Path(pattern).anchor
    parts = Path(pattern).parts[bool(anchor) :]
    found: set[Path] = set()
    waiting, seen = [(Path(anchor), parts)], set()
    left_out: dict[str, str] = {}  # name -> reason, because a folder may be reached in several ways
    while waiting:
        folder, parts = waiting.pop()
        if (folder, parts) in seen:
            continue
        seen.add((folder, parts))
        if not parts:
            found.add(folder)
            continue
        first, rest = parts[0], parts[1:]
        if not glob.has_magic(first):
            if os.path.lexists(folder / first):
                waiting.append((folder / first, rest))
            continue
        if first == "**":
            waiting.append((folder, rest))
        for entry in _entries(folder, left_out):
            path = folder / entry.name
            if entry.name.startswith(".") and not first.startswith("."):
                continue
            if first != "**" and not fnmatch.fnmatch(entry.name, first):
                continue
            is_folder = _is_folder(entry, follow=first != "**")
            if is_folder and own_folder(path):
                left_out[path_text(path)] = reasons.OWN_FOLDERS
            elif first == "**":
                if is_folder:
                    waiting.append((path, parts))
                elif _is_folder(entry, follow=True):
                    left_out[path_text(path)] = reasons.LINKED_FOLDERS
                elif not rest:
                    found.add(path)
            elif is_folder or not rest:
                waiting.append((path, rest))
    found.discard(Path(anchor))
    for name, reason in sorted(left_out.items()):
        account.pass_over(reason, name)
    return sorted(found, key=lambda path: path.parts)


def _entries(folder: Path, left_out: dict[str, str]) -> list[os.DirEntry]:
    try:
        return list(os.scandir(folder))
    except PermissionError:
        left_out[path_text(folder)] = reasons.UNREADABLE
    except OSError:  # no folder
        pass
    return []


def _is_folder(entry: os.DirEntry, *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:  # a link to itself
        return False


def _file_at_address(url: str, progress: Progress) -> File:
    path = fetch(url, cache_folder(), progress=progress)
    origin = origin_of(path)
    content_type = (origin.content_type or "").partition(";")[0].strip().lower() if origin else ""
    kind, packings = kind_of(urllib.parse.urlsplit(url).path, unknown="")
    if not kind:
        kind = CONTENT_TYPES.get(content_type, "text")
    elif content_type == "text/html" and kind != "html":
        path.unlink()
        raise DataError(f"{url}: the server sent a web page instead; give the address of the file itself")
    packed = origin is not None and (origin.content_encoding or "").lower() in ("gzip", "x-gzip")
    return File(path, url, kind, packings or ("gz",) * packed)
