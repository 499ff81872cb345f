"""The verb serve: models come in, a server for programs runs until it is interrupted."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lucidlm.cli.inputs import load_model, matmul_dtype, model_source, say_state
from lucidlm.cli.options import COMPUTE, Compute, app
from lucidlm.errors import LucidError
from lucidlm.runtime.console import say, show
from lucidlm.runtime.wording import plural

SMALL_WEIGHTS = 20_000_000
"""Models with fewer are served by one thread: threads that share small matmuls mostly wait for each other.

Beside another program, two threads take ten times as long."""

if TYPE_CHECKING:
    from lucidlm.serve.guards import Settings
    from lucidlm.serve.jobs import Served
    from lucidlm.weights.load import Source


@app.command
def serve(
    *models: str,
    runs: str = "runs",
    host: str = "127.0.0.1",
    port: int = 8000,
    open: Annotated[bool, Parameter(negative="")] = False,
    api_key: str | None = None,
    compute: Compute = COMPUTE,
) -> None:
    """Serve models: pages that show why they say what they say, and OpenAI's interface for other programs.

    Without a model, the latest run. Open the address that is printed. Ctrl-C stops it.

    Parameters
    ----------
    models
        Runs, checkpoints, Hugging Face folders, published names (gpt2) or presets. In requests a folder has
        its name alone, without the path.
    runs
        Folder whose runs are shown, and where trainings that are started from a page go.
    host
        Address to listen on; any other than this machine's own needs an API key.
    port
        Port to listen on (0: any free one).
    open
        Open the pages in the browser.
    api_key
        The key that each request must bring.
    """
    from lucidlm.runtime.device import choose_device
    from lucidlm.runtime.process import set_threads
    from lucidlm.serve.app import check_names, make_app
    from lucidlm.serve.guards import Settings
    from lucidlm.serve.listening import listen
    from lucidlm.serve.listening import serve as serve_app
    from lucidlm.serve.run_models import Loading

    if open and api_key is not None:
        raise LucidError("--open: the pages send no API key; leave --open or --api-key out")
    settings = Settings(host=host, port=port, api_key=api_key)
    if Path(runs).exists() and not Path(runs).is_dir():
        raise LucidError(f"--runs {runs}: a file; give the folder that has the runs in it")
    sources = [model_source(model) for model in models or _latest(Path(runs))]
    _check_seed(sources, compute)
    check_names(map(_name, sources))
    with listen(settings) as sock:  # before minutes are spent on models
        served = [_served(source, compute) for source in sources]
        if not compute.threads and served and all(each.model.n_parameters < SMALL_WEIGHTS for each in served):
            set_threads(1)
        address = _address(settings, sock.getsockname()[1])
        device = choose_device(compute.device)
        loading = Loading(str(device), matmul_dtype(compute.dtype, device))
        server = make_app(served, settings, runs=Path(runs), loading=loading)

        def ready() -> None:
            for each in served:
                show(_line(each))
            if not served:
                show(f"no run in {runs} yet: train one at {address}/train")
            show(f"listening on {address} (OpenAI's interface: {address}/v1; routes: {address}/docs)")
            if open and not webbrowser.open(address):
                say(f"no browser found; open {address}")
            sys.stdout.flush()

        serve_app(server, sock, ready)
    raise_signal()


def raise_signal() -> None:
    """The signal that ended the server, as the error that says so."""
    from lucidlm.runtime.signals import check, doing

    with doing("while serving; nothing is lost"):
        check()


def _latest(runs: Path) -> list[str]:
    """The latest of the runs that has weights; none where there is none."""
    from lucidlm.runs.listing import list_runs
    from lucidlm.weights.header import WEIGHTS

    return [str(run) for run in list_runs(runs) if (run / WEIGHTS).exists()][:1] if runs.is_dir() else []


def _check_seed(sources: "list[Source]", compute: Compute) -> None:
    """LucidError for a seed where no model is drawn from it."""
    if sources and all(source.kind != "preset" for source in sources):
        model_source(sources[0].name, compute.seed)


def _name(source: "Source") -> str:
    """The name of a model in requests: of a folder without its path, else what was given."""
    return source.name if source.path is None else os.path.basename(os.path.abspath(source.path))


def _served(source: "Source", compute: Compute) -> "Served":
    from lucidlm.serve.jobs import Served

    loaded = load_model(source, compute, compute.seed if source.kind == "preset" else None)
    say_state(source)
    dtype = matmul_dtype(compute.dtype, loaded[0].device)
    return Served.of(loaded, name=_name(source), kind=source.kind, dtype=dtype, source=source.name)


def _address(settings: "Settings", port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def _line(served: "Served") -> str:
    """What a person wants to know of a model that is served."""
    config = served.model.config
    size = f"{plural(served.model.n_parameters, 'parameter')}, context {config.context_length:,}"
    computes = f"{served.dtype} on {served.model.device}"
    return f"{served.name}: {served.kind}, {size}, tokenizer {served.tokenizer.name}, {computes}"
