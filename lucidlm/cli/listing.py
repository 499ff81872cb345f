"""The verb runs: a folder comes in, a table of its runs goes out, as wide as the terminal, as JSON or CSV."""

import csv as csv_format
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import check_places
from lucidlm.cli.options import app
from lucidlm.runtime.console import say, show, show_json
from lucidlm.runtime.wording import fixed, one_line, plural

Row = dict[str, Any]
SortBy = Literal["name", "status", "bits", "loss", "steps", "size", "tokens", "text", "seed", "dtype"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its title, what it is sorted by, and a row's cell."""

    title: str
    value: Callable[[Row], Any]
    cell: Callable[[Row], str]
    is_number: bool = False


@app.command
def runs(
    folder: str = "runs",
    *,
    sort: SortBy | None = None,
    csv: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List the runs in a folder: status, loss and bits per byte of the held-out text, size, steps.

    On a terminal, columns that do not fit are left out. A run that cannot be read is listed as broken.

    Parameters
    ----------
    folder
        The folder to search, with all folders below it.
    sort
        Sort by this column, the smallest value first (default: the newest run first).
    csv
        Write the list to this file, with the same columns as --json.
    json
        Print the list as JSON.
    """
    from lucidlm.runs.listing import list_runs, row_of

    check_places([], csv=csv)
    rows = [row_of(run) for run in list_runs(Path(folder))]
    if sort is not None:
        rows.sort(key=lambda row: _rank(COLUMNS[sort].value(row)))
    if json:
        show_json(rows)
    elif not rows:
        say(f"no runs in {folder}; lucidlm train BOOK makes one")
    else:
        lines, hidden = table(rows, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        show("\n".join(lines))
        if hidden:
            say(f"hidden at this width: {', '.join(hidden)}; --csv FILE and --json have all columns")
    if csv is not None:
        _write_csv(csv, rows)
        say(f"{csv}: {plural(len(rows), 'run')}")


def table(rows: Sequence[Row], width: int | None) -> tuple[list[str], list[str]]:
    """The rows as lines of at most `width` characters, each run on one, and the titles left out for that.

    Below the rows are the problems of runs that are broken or damaged, folded to the width.
    """
    cells = {
        name: [column.title, *(one_line(column.cell(row)) for row in rows)]
        for name, column in COLUMNS.items()
    }
    widths = {name: max(map(len, texts)) for name, texts in cells.items()}
    shown = list(COLUMNS)
    for name in DROPPED_FIRST:
        if width is None or sum(widths[each] + 2 for each in shown) - 2 <= width:
            break
        shown.remove(name)
    lines = [
        "  ".join(
            text.rjust(widths[name]) if COLUMNS[name].is_number else text.ljust(widths[name])
            for name in shown
            for text in [cells[name][number]]
        ).rstrip()
        for number in range(len(rows) + 1)
    ]
    return [*lines, *_problem_lines(rows)], [COLUMNS[name].title for name in COLUMNS if name not in shown]


def _problem_lines(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        for problem in row["problems"]:
            yield one_line(f"{row['run']}: {problem}")


def _interval(row: Row) -> str:
    low, high = row["bits_low"], row["bits_high"]
    return "" if low is None or high is None else f"{fixed(low, 3)} to {fixed(high, 3)}"


def _steps(row: Row) -> str:
    planned = row["planned_steps"]
    of = f" of {planned:,}" if planned is not None and planned != row["steps"] else ""
    return f"{row['steps']:,}{of}"


def _text(row: Row) -> str:
    if row["text"] is None:
        return ""
    names = ", ".join(Path(text).name or text for text in row["text"]) or "story"
    return names if len(names) <= WIDEST_TEXT else f"{names[: WIDEST_TEXT - 3]}..."


def _number(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else fixed(row[name], digits)


def _short(name: str) -> Callable[[Row], str]:
    """A count with three digits and a unit: 1.25M."""

    def cell(row: Row) -> str:
        count = row[name]
        if count is None:
            return ""
        for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
            if count >= size:
                return f"{count / size:#.3g}".rstrip(".") + unit
        return str(count)

    return cell


def _plain(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else str(row[name])


def _rank(value: Any) -> tuple[bool, Any]:
    """Puts rows without a value last."""
    return (value is None, 0 if value is None else value)


def _of(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


WIDEST_TEXT = 20
"""Characters of the text's name; --json has all of it."""
COLUMNS: dict[str, Column] = {
    "name": Column("run", _of("run"), _plain("run")),
    "status": Column("status", _of("status"), _plain("status")),
    "bits": Column("bits/byte", _of("bits_per_byte"), _number("bits_per_byte", 4), is_number=True),
    "interval": Column("95 % interval", _of("bits_low"), _interval),
    "loss": Column("loss", _of("validation_loss_nats"), _number("validation_loss_nats", 4), is_number=True),
    "steps": Column("steps", _of("steps"), _steps, is_number=True),
    "size": Column("size", _of("parameters"), _short("parameters"), is_number=True),
    "tokens": Column("tokens", _of("tokens"), _short("tokens"), is_number=True),
    "text": Column("text", _text, _text),
    "seed": Column("seed", _of("seed"), _plain("seed"), is_number=True),
    "dtype": Column("dtype", _of("dtype"), _plain("dtype")),
}
DROPPED_FIRST = ("seed", "dtype", "text", "tokens", "size", "loss", "interval", "steps", "bits", "status")
"""Columns in the order in which a narrow terminal loses them; the name always stays."""


def _write_csv(path: str, rows: Sequence[Row]) -> None:
    from lucidlm.runtime.files import write_atomically

    text = io.StringIO()
    writer = csv_format.DictWriter(text, list(rows[0]) if rows else ["run"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        joined = {key: "; ".join(row[key] or ()) for key in ("text", "problems")}
        writer.writerow(row | joined)
    write_atomically(path, text.getvalue())
