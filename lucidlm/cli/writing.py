"""The verbs that code or generate text with a model: generate, compress, decompress."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import check_places, load_model, matmul_dtype, model_source, say_state
from lucidlm.cli.options import EXACT, MACHINE, WINDOWS, Exact, Machine, Windows, app
from lucidlm.model.decoding import Decoding
from lucidlm.runtime.console import say, show, show_generated, show_json
from lucidlm.runtime.wording import plural

DECODING = Decoding()


@app.command
def generate(
    model: str,
    prompt: str = "",
    *,
    decoding: Annotated[Decoding, Parameter(name="*", negative="")] = DECODING,
    num: int = 1,
    seed: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
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
        dtype of the matmuls (auto: float32 on a CPU, bfloat16 on a GPU).
    json
        Print the result as JSON.
    """
    from lucidlm.model.generation import generate_batch
    from lucidlm.runtime.device import autocast, dtype_of

    source = model_source(model)
    loaded, tokenizer = load_model(source, machine)
    say_state(source)
    with autocast(loaded.device, dtype_of(matmul_dtype(dtype, loaded.device))):
        results = generate_batch(loaded, tokenizer, [prompt], decoding, num=num, seed=seed)
    if json:
        show_json([result.to_dict() for result in results])
        return
    show_generated("\n\n".join(str(result) for result in results))
    if seed is None and decoding.temperature > 0:
        say(f"seed {results[0].seed}")


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
