"""The verb about the curves of runs: report."""

from pathlib import Path
from typing import Literal

from lucidlm.cli.inputs import check_places
from lucidlm.cli.options import app
from lucidlm.errors import RunError
from lucidlm.runtime.console import say


@app.command
def report(
    *runs: str,
    svg: str | None = None,
    csv: str | None = None,
    html: str | None = None,
    unit: Literal["nats", "bits", "perplexity"] | None = None,
) -> None:
    """Save the loss curves of one or several runs as a picture, a table or a page.

    Give at least one of --svg, --csv and --html. A PNG needs a browser: the page has a button for it.

    Parameters
    ----------
    runs
        Folders of runs. Several are drawn on one axis.
    svg
        Write the curves as a picture to this file. The baselines are in each run's report.html.
    csv
        Write the curves as a table to this file: run, curve, step, loss_nats, perplexity, bits_per_byte.
    html
        Write the curves as one page that needs no other file, with buttons that save SVG, PNG and CSV.
    unit
        Unit of --svg: nats per token (default), bits per byte (comparable between tokenizers) or perplexity.
    """
    from lucidlm.report.curves import curves_of, write_csv, write_svg
    from lucidlm.report.run_page import write_runs
    from lucidlm.runs.history import METRICS, read_history

    if not runs:
        raise RunError("no run was given; lucidlm runs lists them")
    if svg is csv is html is None:
        raise RunError("nothing to write; give --svg FILE, --csv FILE or --html FILE")
    if unit is not None and svg is None:
        raise RunError(f"--unit {unit}: only a picture has one unit; give --svg FILE, or leave --unit out")
    check_places([str(Path(run) / METRICS) for run in runs], svg=svg, csv=csv, html=html)
    histories = {}
    for run in runs:
        history = read_history(run)
        if not history.validations:
            raise RunError(f"{run}: no validation in {METRICS}, so no curve; give the folder of a run")
        name = Path(run).resolve().name
        histories[run if name in histories else name] = history
        for remark in history.remarks:
            say(remark)
    curves = [curves_of(history, name) for name, history in histories.items()]
    if svg is not None:
        write_svg(svg, curves, unit=unit or "nats")
        say(f"{svg}: the curves as a picture")
    if csv is not None:
        write_csv(csv, curves)
        say(f"{csv}: the curves as a table")
    if html is not None:
        write_runs(html, histories)
        say(f"{html}: open it in a browser")
