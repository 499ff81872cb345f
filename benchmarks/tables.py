"""Results come in; a JSON file, and a marked part of docs/numbers.md, which nobody writes by hand, go out."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lucidlm.runtime.wording import plural

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "docs" / "numbers.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, *rows]
    return "\n".join([_row(lines[0]), "|" + "---|" * len(head), *map(_row, lines[1:])])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """This machine, and what it runs on, in one line."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{named[1] if named else platform.processor() or platform.machine()}, {plural(cores or 1, 'core')}, "
        f"{plural(torch.get_num_threads(), 'thread')}, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def revision() -> str:
    """The commit of the working tree, with a plus sign where files differ from it."""
    call = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def load() -> str:
    """Programs that want a core now: above 1 before a measurement, others compute too."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def write(name: str, results: object, text: str, *, folder: Path, numbers: Path = NUMBERS) -> None:
    """Writes the results to folder/NAME.json, and `text` between that name's marks in docs/numbers.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    numbers.write_text(replaced(numbers.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between its marks <!-- bench: NAME --> and <!-- end: NAME -->.

    >>> print(replaced("above\\n<!-- bench: x -->\\nold\\n<!-- end: x -->\\nbelow", "x", "new"))
    above
    <!-- bench: x -->
    new
    <!-- end: x -->
    below
    """
    begin, end = f"<!-- bench: {name} -->\n", f"<!-- end: {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"docs/numbers.md: the marks {begin.strip()} and {end} are missing; put them back")
    return f"{before}{begin}{text.strip()}\n{end}{after}"
