"""A model for other programs: model and tokenizer in; a folder or a file out, read again and compared."""

import glob
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lucidlm.errors import ConfigError, PlaceError, RunError, WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.runtime.files import free_bytes, replacing_folder
from lucidlm.runtime.locks import lock
from lucidlm.runtime.memory import size
from lucidlm.runtime.places import check_file_place, check_folder_place, path_text
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.run_out import way_out_of
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.huggingface import StoredModel, open_model, save_model

Format = Literal["hf", "gguf"]

FIXED_TEXT = "The tide came in, and nobody on the quay wrote it down: 3,141 times, größer & 🙂.\n"
"""The text on which the logits before and after an export are compared."""


def export(
    model: GPT,
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    format: Format = "hf",
    kind: Literal["f32", "f16", "bf16", "q8_0"] = "f16",
    progress: Progress = SILENT,
) -> None:
    """Writes the model for other programs. The result is read again and compared before it gets its name.

    "hf": a folder for transformers, vLLM and all that reads Hugging Face models; its logits must be equal to
    the last bit. "gguf": a file for llama.cpp and Ollama, its matrices stored as `kind`; each tensor comes
    back within what that type can hold. WeightsError where it does not, ConfigError for what a format cannot
    express, RunError for a place that is taken or has no room.
    """
    check_place(out, format)
    out = Path(out)
    try:
        with lock(out):
            check_place(out, format)  # another process may have written it meanwhile
            if format == "gguf":
                from lucidlm.weights.gguf import export_gguf

                for leftover in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):  # of a killed process
                    leftover.unlink()
                export_gguf(model, tokenizer, out, kind=kind, progress=progress)
                return
            with replacing_folder(out) as folder:
                save_model(model, tokenizer, folder, progress=progress)
                _check_same(model, tokenizer, folder, progress)
    except OSError as error:  # it names a hidden file beside `out`, or no file
        way_out = way_out_of(error) or "give another --out"
        raise RunError(
            f"{out}: {error.strerror or error}, {size(free_bytes(out))} are free there; nothing was written: "
            f"{way_out}"
        ) from None


def check_place(out: str | Path, format: Format) -> None:
    """PlaceError if something is there already; ConfigError for an unknown format."""
    if format not in get_args(Format):
        raise ConfigError(f"--format {format}: not known; there are {', '.join(get_args(Format))}")
    (check_folder_place if format == "hf" else check_file_place)(out, "--out")
    out = Path(out)
    if (text := path_text(out)) != str(out):
        raise PlaceError(f"--out {text}: its name is no UTF-8; choose another")
    if out.exists() and not (format == "hf" and out.is_dir() and not any(out.iterdir())):
        raise PlaceError(f"{out} is there already; it is not overwritten: choose another --out")


def _check_same(model: GPT, tokenizer: Tokenizer, folder: Path, progress: Progress) -> None:
    """WeightsError unless the folder's model and tokenizer give the same ids and logits."""
    ids = tokenizer.encode(FIXED_TEXT)[: model.config.context_length]
    if Tokenizer.load(folder).encode(FIXED_TEXT)[: len(ids)] != ids:
        raise WeightsError(
            f"{folder}: its tokenizer gives other ids than {tokenizer.name}; nothing was written"
        )
    inputs = torch.tensor([ids], device=model.device)
    training = model.training
    with torch.inference_mode():
        logits = model.eval()(inputs)
        again = logits_of(open_model(folder), inputs, dtype=model.head.weight.dtype, progress=progress)
    model.train(training)
    if not torch.equal(logits, again):
        apart = (logits - again).abs().max().item()
        raise WeightsError(
            f"{folder}: its logits are up to {apart:.2e} apart from the model's; nothing was written"
        )


def logits_of(
    stored: StoredModel,
    ids: Tensor,
    *,
    dtype: torch.dtype | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """The stored model's logits, ids (B, T) -> (B, T, V), without memory for a second model.

    Each module's weights are read before it runs and dropped after it.
    """
    model = GPT.empty(stored.config).to(dtype or stored.dtype).eval()
    progress.stage("comparing tensors", sum(map(len, stored.parameters.values())))
    for prefix, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if not own:
            continue

        def fill(module: nn.Module, inputs: object, prefix: str = prefix, own: list[str] = own) -> None:
            for name in own:
                place = f"{prefix}.{name}"
                weight = stored.read(place, device=str(ids.device), dtype=dtype or stored.dtype, copy=False)
                setattr(module, name, nn.Parameter(weight, requires_grad=False))
                progress.advance(len(stored.parameters[place]))

        def drop(module: nn.Module, inputs: object, output: object, own: list[str] = own) -> None:
            for name in own:
                setattr(module, name, nn.Parameter(getattr(module, name).to("meta"), requires_grad=False))

        module.register_forward_pre_hook(fill)
        module.register_forward_hook(drop)
    return model(ids)
