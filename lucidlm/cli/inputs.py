"""What verbs are given: names of models, texts and places come in; checked, loaded and read they go out."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from lucidlm.cli.options import DEFAULT_SEED, Machine, Stored
from lucidlm.errors import LucidError
from lucidlm.runtime.console import say
from lucidlm.text.reading import READING, Reading

if TYPE_CHECKING:
    import torch

    from lucidlm.measure.intervals import Design
    from lucidlm.measure.protocol import Dtype
    from lucidlm.measure.seen import Seen
    from lucidlm.model.gpt import GPT
    from lucidlm.text.excerpts import Excerpt
    from lucidlm.text.tokenizer import Tokenizer
    from lucidlm.weights.load import Source


def model_source(model: str, seed: int | None = None) -> "Source":
    """What MODEL means; LucidError for a seed where nothing is drawn, as only a preset has random weights."""
    from lucidlm.weights.load import resolve

    source = resolve(model)
    if seed is not None and source.kind != "preset":
        raise LucidError(f"--seed {seed}: {model} has its own weights, only those of a preset are random")
    return source


def load_model(source: "Source", machine: Machine, seed: int | None = None) -> "tuple[GPT, Tokenizer]":
    """Model, on the device and with the threads of the flags, and tokenizer."""
    from lucidlm.display import Display
    from lucidlm.runtime.device import choose_device
    from lucidlm.runtime.process import keep_freed_memory, set_threads
    from lucidlm.weights.load import load

    device = choose_device(machine.device)
    set_threads(machine.threads)
    with Display() as progress:
        loaded = load(source, seed=_drawn(seed), device=str(device), progress=progress)
    keep_freed_memory()  # after loading: what it frees is not to be kept
    return loaded


def load_as_stored(source: "Source", stored: Stored) -> "tuple[GPT, Tokenizer]":
    """Model and tokenizer as they are to be written."""
    import torch

    from lucidlm.display import Display
    from lucidlm.runtime.process import return_freed_memory, set_threads
    from lucidlm.weights.load import load

    return_freed_memory()
    set_threads(0)
    dtype = None if stored.dtype == "auto" else getattr(torch, stored.dtype)
    with Display() as progress:
        return load(source, seed=_drawn(stored.seed), dtype=dtype, progress=progress)


def _drawn(seed: int | None) -> int:
    return DEFAULT_SEED if seed is None else seed


def matmul_dtype(dtype: str, device: "torch.device") -> "Dtype":
    """The dtype that --dtype means on a device."""
    if dtype == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return "bfloat16" if dtype == "bfloat16" else "float32"


def check_reading(reading: Reading, texts: Sequence[str]) -> None:
    """LucidError for flags that say how a text is read where no text is given."""
    if not texts and reading != READING:
        flags = [f"--{name}" for name, value in asdict(reading).items() if value != getattr(READING, name)]
        raise LucidError(f"{', '.join(flags)}: no text is given to read so; give one, or leave this out")


def check_places(inputs: Sequence[str | None], **places: str | None) -> None:
    """Before minutes are spent on what could not be written: each flag's file, if there is one."""
    from lucidlm.runtime.places import check_file_place

    seen: dict[str, str] = {}
    for flag, place in places.items():
        if place is None:
            continue
        check_file_place(place, f"--{flag}", inputs=filter(None, inputs))
        if (other := seen.setdefault(os.path.realpath(place), flag)) != flag:
            raise LucidError(f"--{other} and --{flag} are one file, {place}; give each a file of its own")


def refuse_models(
    texts: Sequence[str],
    way_out: str,
    *,
    expected: str = "a text",
    prepared: bool = False,
    of_a_run: str = "",
    of_a_text: str = "",
) -> None:
    """LucidError for a run or a model that is given as a text, with what was meant, before one is loaded.

    `of_a_run` is the way out for runs where it is another than for models, `of_a_text` for prepared texts.
    """
    from lucidlm.text.own_folders import PREPARED, RUN, own_folder
    from lucidlm.text.sources import no_text

    for text in texts:
        kind = own_folder(text)
        if kind == PREPARED and expected == "a text" and not prepared:
            raise LucidError(no_text(text, kind))
        if kind is not None and (kind != PREPARED or not prepared):
            way = {RUN: of_a_run, PREPARED: of_a_text}.get(kind) or way_out
            raise LucidError(f"{text} is {kind}, not {expected}; {way.replace('{0}', quote(text))}")


def seen_of(source: "Source", texts: Sequence[str], reading: Reading, *, held_out_of: Path) -> "Seen | None":
    """How much a model was trained on of the texts or, without any, of a run's held-out text."""
    from lucidlm.display import Display
    from lucidlm.runs.lineage import held_out_seen_by, lineage_of, seen_by
    from lucidlm.text.documents import read_documents

    for fault in lineage_of(source).faults:
        say(f"what {source.name} was trained on is not known: {fault}")
    with Display() as progress:
        if not texts:
            return held_out_seen_by(source, held_out_of, progress=progress)
        given = (document.pieces() for document in read_documents(texts, reading=reading))
        return seen_by(source, given, progress=progress)


def state_line(source: "Source") -> str:
    """That a run is training now or was interrupted, in one sentence; "" of a finished run and of others."""
    if source.kind != "run" or source.run is None:
        return ""
    from lucidlm.runs.listing import state_of  # it opens a run's text: a tenth of a second

    return state_of(source.run).sentence(source.run)


def say_state(source: "Source") -> None:
    """Says on stderr that a run is training now or was interrupted."""
    if state := state_line(source):
        say(state)


def run_with_text(source: "Source") -> Path:
    """The run whose held-out text is used where no text is given; LucidError for a model that has none."""
    if source.run is None:
        raise LucidError(f"{source.name} has no text of its own: it is no run (no run.toml); give a text")
    say(f"no text given: the validation text of {source.run}")
    return source.run


def own_validation_text(run: Path) -> "tuple[Iterator[Excerpt], Design | None, float]":
    """A run's held-out text, what it is a sample of, and its share of that."""
    from lucidlm.runs.data import corpus_of_run
    from lucidlm.text.corpus import validation_documents
    from lucidlm.training.validation import design_of, fraction_of

    corpus = corpus_of_run(run)
    return validation_documents(corpus), design_of(corpus), fraction_of(corpus)


def say_page(page: str) -> None:
    """Says on stderr that an HTML page was written."""
    say(f"{page}: open it in a browser")
