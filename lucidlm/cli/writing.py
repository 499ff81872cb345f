"""The verbs that write with a model: generate, compress, decompress."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import check_places, load_model, say_state
from lucidlm.cli.options import COMPUTE, WINDOWS, Compute, Windows, app
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
    json: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int = 0,
) -> None:
    """Go on from a prompt.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset.
    prompt
        The text to go on from; none: from the beginning of a document.
    num
        So many texts from the same prompt.
    seed
        The same seed gives the same text; none: a fresh one, which is printed.
    json
        Print the result as JSON.
    device
        auto, cpu, cuda or mps.
    dtype
        Number type of the products.
    threads
        Processor threads (0: all).
    """
    from lucidlm.model.generation import generate_batch

    compute = Compute(device=device, dtype=dtype, threads=threads)
    loaded, tokenizer, _ = load_model(model, compute)
    say_state(model)
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
    compute: Compute = COMPUTE,
) -> None:
    """Compress a file by a model's own probabilities: the proof that its evaluation is right.

    The same model on the same machine brings it back. It runs at the speed of generation.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset.
    file
        Any file, or - for standard input: a text comes out small.
    out
        The compressed file to write.
    json
        Print the sizes as JSON.
    """
    from lucidlm.display import Display
    from lucidlm.measure.compression import compress as compress_bytes
    from lucidlm.runtime.files import write_atomically

    check_places([model, file], out=out)
    data = _file_bytes(file)
    loaded, tokenizer, _ = load_model(model, compute)
    say_state(model)
    with Display() as progress:
        result = compress_bytes(
            loaded,
            tokenizer,
            data,
            protocol=windows,
            source=file,
            progress=progress,
        )
    write_atomically(out, result.file)
    show_json(result.to_dict()) if json else show(result)


@app.command
def decompress(model: str, file: str, *, out: str, compute: Compute = COMPUTE) -> None:
    """Bring back what `compress` compressed with the same model on the same machine.

    It computes on as many threads as the file was made with, unless --threads says otherwise.

    Parameters
    ----------
    model
        The model that it was compressed with.
    file
        The compressed file, or - for standard input.
    out
        The file to write.
    """
    from lucidlm.display import Display
    from lucidlm.measure.compression import arithmetic_of
    from lucidlm.measure.compression import decompress as decompress_bytes
    from lucidlm.runtime.files import write_atomically

    check_places([model, file], out=out)
    coded = _file_bytes(file)
    made = arithmetic_of(coded)
    loaded, tokenizer, _ = load_model(model, compute)
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
