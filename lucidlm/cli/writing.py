"""The verbs that code or generate text with a model: generate, compress, decompress."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import (
    check_places,
    load_model,
    matmul_dtype,
    model_source,
    own_validation_text,
    say_state,
)
from lucidlm.cli.options import EXACT, MACHINE, WINDOWS, Exact, Machine, Windows, app
from lucidlm.errors import LucidError
from lucidlm.model.decoding import Decoding
from lucidlm.runtime.console import say, show, show_generated, show_json
from lucidlm.runtime.wording import plural

if TYPE_CHECKING:
    from lucidlm.measure.rounding import RoundingCost
    from lucidlm.model.gpt import GPT
    from lucidlm.text.tokenizer import Tokenizer
    from lucidlm.weights.load import Source

DECODING = Decoding()


@app.command
def generate(
    model: str,
    prompt: str = "",
    *,
    decoding: Annotated[Decoding, Parameter(name="*", negative="")] = DECODING,
    num: int = 1,
    seed: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    val: str | None = None,
    machine: Machine = MACHINE,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Generate text from a prompt.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder, a published name (gpt2) or a preset.
    prompt
        Text to continue; none: the beginning of a document.
    num
        Number of completions.
    seed
        Seed of the sampling (default: a new one, which is printed).
    dtype
        dtype of the weights in matmuls. auto: bfloat16 on a GPU, and on a CPU for a large model where that is
        faster; else float32. int8 (CPU) is the fastest for one text and the least accurate.
    val
        Text on which the cost of int8 is measured (default: the run's held-out text, or the bundled story).
    json
        Print the result as JSON.
    """
    from lucidlm.model.generation import generate_batch
    from lucidlm.model.linear import for_generation, form_for
    from lucidlm.runtime.device import autocast, dtype_of

    if val is not None and dtype != "int8":
        raise LucidError(f"--val {val}: it measures the cost of --dtype int8; give that, or leave --val out")
    source = model_source(model)
    loaded, tokenizer = load_model(source, machine)
    say_state(source)
    form = form_for(loaded, dtype, rows=num)
    quick = for_generation(loaded, form)
    cost = _cost_of_int8(source, (loaded, quick, tokenizer), val) if dtype == "int8" else None
    # On a GPU the weights stay as they are, and autocast shortens them.
    matmuls = matmul_dtype(dtype, loaded.device) if form.kernel is None else "float32"
    with autocast(loaded.device, dtype_of(matmuls)):
        results = generate_batch(quick, tokenizer, [prompt], decoding, num=num, seed=seed)
    used = form.dtype if form.kernel is not None else matmuls
    if json:
        extra = {"dtype": used} | ({"int8_cost": cost.to_dict()} if cost else {})
        show_json([result.to_dict() | extra for result in results])
        return
    show_generated("\n\n".join(str(result) for result in results))
    if dtype == "auto" and form.kernel is not None and used != "float32":
        say(f"dtype {used}: faster than float32 here (--dtype float32 is more accurate)")
    if cost:
        say(str(cost))
    if seed is None and decoding.temperature > 0:
        say(f"seed {results[0].seed}")


def _cost_of_int8(source: "Source", models: "tuple[GPT, GPT, Tokenizer]", val: str | None) -> "RoundingCost":
    """What int8 costs on a text that is given, on the run's held-out text, or on the bundled story."""
    from lucidlm.measure.rounding import rounding_cost
    from lucidlm.runs.data import is_run
    from lucidlm.text.documents import read_documents
    from lucidlm.text.preparation import bundled_story

    if val is None and source.run is not None and is_run(source.run):
        return rounding_cost(*models, own_validation_text(source.run)[0], f"held-out text of {source.run}")
    with bundled_story() as story:
        name = "the bundled story" if val is None else val
        read = read_documents([val or str(story)])
        documents = ("".join(islice(document.pieces(), 1)) for document in read)
        return rounding_cost(*models, documents, name)


@app.command
def compress(
    model: str,
    file: str,
    *,
    out: str,
    windows: Windows = WINDOWS,
    json: Annotated[bool, Parameter(negative="")] = False,
    compute: Exact = EXACT,
) -> None:
    """Compress a file with a model's probabilities; the size shows that the evaluation is right.

    The same model on the same machine decompresses it. It takes as long as generating the file, in float32.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder, a published name (gpt2) or a preset.
    file
        Any file, or - for standard input; text becomes small.
    out
        The compressed file to write.
    json
        Print the sizes as JSON.
    """
    from lucidlm.display import Display
    from lucidlm.measure.compression import compress as compress_bytes
    from lucidlm.runtime.files import write_atomically

    source = model_source(model, compute.seed)
    check_places([model, file], out=out)
    data = _file_bytes(file)
    loaded, tokenizer = load_model(source, compute, compute.seed)
    say_state(source)
    with Display() as progress:
        result = compress_bytes(loaded, tokenizer, data, protocol=windows, source=file, progress=progress)
    write_atomically(out, result.file)
    show_json(result.to_dict()) if json else show(result)


@app.command
def decompress(model: str, file: str, *, out: str, compute: Exact = EXACT) -> None:
    """Decompress a file that `compress` wrote with the same model on the same machine.

    It uses as many threads as `compress` did, unless --threads is given.

    Parameters
    ----------
    model
        The model that compressed the file.
    file
        The compressed file, or - for standard input.
    out
        The file to write.
    """
    from lucidlm.display import Display
    from lucidlm.measure.compression import arithmetic_of
    from lucidlm.measure.compression import decompress as decompress_bytes
    from lucidlm.runtime.files import write_atomically

    source = model_source(model, compute.seed)
    check_places([model, file], out=out)
    coded = _file_bytes(file)
    made = arithmetic_of(coded)
    loaded, tokenizer = load_model(source, compute, compute.seed)
    threads = compute.threads or None
    say(f"made with {made or 'unknown threads (version 1)'}")
    with Display() as progress:
        data = decompress_bytes(loaded, tokenizer, coded, threads=threads, progress=progress)
    write_atomically(out, data)
    show(f"{out}: {plural(len(data), 'byte')}, checked")


def _file_bytes(path: str) -> bytes:
    """A file's bytes, or a DataError that says why not."""
    from lucidlm.errors import DataError
    from lucidlm.text.own_folders import own_folder
    from lucidlm.text.pipes import readable

    if Path(path).is_dir():
        raise DataError(f"{path} is {own_folder(path) or 'a folder'}, not a file; give a file")
    try:
        return readable(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: {getattr(error, 'strerror', None) or error}; give a file that can be read"
        ) from None
