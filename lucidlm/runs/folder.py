"""The --out and the texts of a request come in; a folder that the new run may have comes out."""

import contextlib
import glob
import itertools
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

from lucidlm.errors import InUseError, RunError
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runtime.leavings import name_of_temporary
from lucidlm.runtime.locks import is_locked, lock
from lucidlm.runtime.places import PROBE, check_folder_place
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.text.pipes import DASH, STDIN
from lucidlm.weights.whole import SETTINGS

BEGINNING = {"data", ".data.tmp", ".data.old", ".data.parts", ".data.lock"}
BEGINNING |= {"metrics.jsonl", "tensorboard", "env.json"}
"""Files of a run's folder that are older than its run.toml: without it, nothing was trained."""
LONGEST_STEM = 100
"""Bytes of a run's name that is made from the name of its text."""


def new_run_folder(
    out: str | None, texts: tuple[str, ...], *, others: tuple[str, ...] = (), overwrite: bool
) -> Path:
    """The folder of a new run, not yet made: `out`, or runs/ and the text's name, numbered if that is taken.

    A run that is there already is never touched unasked: RunError, unless with `overwrite`. PlaceError where
    no folder can be made, or where one holds a text that is to be read; `others` are read, and name nothing.
    """
    if out is None:
        folder = next(each for each in _default_folders(texts) if overwrite or not _is_taken_or_held(each))
    else:
        folder = Path(out)
    bring_back(folder)
    check_folder_place(folder if out is None else out, "--out", inputs=(*texts, *others))
    if _is_taken(folder):
        if not overwrite:
            is_run = (folder / SETTINGS).exists()
            what = "a run" if is_run else "no run"
            ways = "choose another --out, --resume or --overwrite" if is_run else "choose another --out"
            raise RunError(f"{folder} is there already and holds {what}; {ways}")
        if not (folder / SETTINGS).exists():
            raise RunError(
                f"{folder} holds no run of lucidlm, so --overwrite will not delete it; choose another --out"
            )
    return folder


@contextlib.contextmanager
def claimed_run_folder(
    out: str | None,
    texts: tuple[str, ...],
    *,
    others: tuple[str, ...] = (),
    overwrite: bool,
    progress: Progress = SILENT,
) -> Generator[Path]:
    """`new_run_folder`, held for this process until the block ends.

    Where nobody chose the name, a run that another process begins at the same moment takes the name or leaves
    it: the lock decides, and the other one goes on to the next number.
    """
    with contextlib.ExitStack() as held:
        while True:
            folder = new_run_folder(out, texts, others=others, overwrite=overwrite)
            with contextlib.ExitStack() as trying:
                try:
                    trying.enter_context(lock(folder))
                except InUseError:
                    if out is not None or overwrite:
                        raise
                    continue
                # Another process may have made its run here after the look above and before the lock.
                if out is None and not overwrite and _is_taken(folder):
                    continue
                new_run_folder(str(folder), texts, others=others, overwrite=overwrite)
                held.enter_context(trying.pop_all())
                break
        first = next(_default_folders(texts))
        if out is None and folder != first:
            progress.note(f"{first} is taken, so this run goes to {folder}")
        yield folder


def _default_folders(texts: tuple[str, ...]) -> Iterator[Path]:
    """runs/STEM, runs/STEM-2 ...: short names of letters, digits, - and _."""
    name = texts[0].rstrip("/") if texts else "story"
    name = "stdin" if name in (DASH, STDIN) else name if "://" in name else os.path.abspath(name)
    # The name of a pattern says nothing: books/*.txt is called after its folder.
    stems = (_plain_stem(part) for part in (Path(name), *Path(name).parents))
    stem = next(filter(None, stems), "run")
    yield Path("runs") / stem
    for number in itertools.count(2):
        yield Path("runs") / f"{stem}-{number}"


def _plain_stem(path: Path) -> str:
    stem = path.name.split(".")[0] or path.name.lstrip(".").split(".")[0]
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem).strip("-")
    return stem.encode("utf-8")[:LONGEST_STEM].decode("utf-8", "ignore")


def _is_taken_or_held(folder: Path) -> bool:
    bring_back(folder)
    return _is_taken(folder) or is_locked(folder)


def _is_taken(folder: Path) -> bool:
    """Whether the folder holds more than the leftovers of a start that was killed."""
    if not folder.exists():
        return False
    return not (folder.is_dir() and all(_is_of_a_beginning(path.name) for path in folder.iterdir()))


def _is_of_a_beginning(name: str) -> bool:
    return name in BEGINNING or name_of_temporary(name) in {*BEGINNING, SETTINGS, PROBE}


def set_aside(folder: Path) -> Path:
    """The folder, renamed: it gets its name back if its successor cannot begin."""
    number = 1
    while (former := folder.with_name(f".{folder.name}.former-{number}")).exists():
        number += 1
    return folder.rename(former)


def bring_back(folder: Path) -> None:
    """The run that --overwrite had set aside, where its successor was killed before its first checkpoint.

    Where the successor has one, what was to be overwritten is deleted at last.
    """
    aside = sorted(folder.parent.glob(f".{glob.escape(folder.name)}.former-*"))
    if not aside:
        return
    with contextlib.suppress(RunError), lock(folder):  # held: the successor is beginning now
        for former in aside:
            ours = not _is_taken(folder) or (folder / SETTINGS).exists()
            if (former / SETTINGS).exists() and ours and not checkpoint_folders(folder):
                shutil.rmtree(folder, ignore_errors=True)
                former.rename(folder)
            else:
                shutil.rmtree(former, ignore_errors=True)
