"""Model folders as transformers has them: config.json, model.safetensors and the tokenizer, written and read.

Models are written as GPT2LMHeadModel, Qwen3ForCausalLM or LlamaForCausalLM: every program that knows these
opens them. Tensors are read and written one by one: beside the model, one tensor is in memory.
"""

import json
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runtime.distributed import ALONE
from lucidlm.runtime.files import replacing_file, write_atomically
from lucidlm.runtime.memory import check_weights
from lucidlm.runtime.progress import SILENT, Progress, counted
from lucidlm.runtime.wording import plural
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.header import WEIGHTS, Origin
from lucidlm.weights.hf_config import CONFIG, config_of, read_config
from lucidlm.weights.names import assemble, match, to_huggingface
from lucidlm.weights.shards import SHARDS, read_shards
from lucidlm.weights.tensor_files import StoredTensor, find_tensors, write_tensors


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The model of a folder, checked but not read: its shape, and where each parameter is stored."""

    config: GPTConfig
    parameters: dict[str, list[StoredTensor]]
    """Our name -> the stored tensors that make it."""
    left_out: tuple[str, ...] = ()
    """Names of tensors of heads for other tasks, which are not read."""

    @property
    def dtype(self) -> torch.dtype:
        """The smallest dtype that holds all stored tensors."""
        return reduce(
            torch.promote_types, (each.dtype for stored in self.parameters.values() for each in stored)
        )

    def read(
        self, name: str, *, device: str = "cpu", dtype: torch.dtype | None = None, copy: bool = True
    ) -> Tensor:
        """One parameter, contiguous; WeightsError for NaN and infinity. dtype None: the stored one.

        Without a copy it may be the memory-mapped file itself, which changes when the file does.
        """
        found = assemble(self.parameters[name])
        found = found.to(device=device, dtype=dtype, copy=copy, memory_format=torch.contiguous_format)
        return found.contiguous()


def save_model(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    state: dict[str, Tensor] | None = None,
    origin: Origin | None = None,
    progress: Progress = SILENT,
) -> None:
    """Writes the model's folder; each file is complete or not there. `state`: other weights for this model.

    `origin` says whose weights they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = state or model.state_dict()
    save_weights(model, folder, state=state, origin=origin, progress=progress)
    dtype = state["token_embedding.weight"].dtype
    describe_model(model.config, tokenizer, folder, dtype=dtype)


def save_weights(
    model: GPT,
    folder: Path,
    *,
    state: dict[str, Tensor],
    origin: Origin | None = None,
    progress: Progress = SILENT,
) -> None:
    """Writes model.safetensors only; it is complete or not there."""
    with replacing_file(folder / WEIGHTS) as temporary:
        write_tensors(temporary, to_huggingface(state, model.config), progress, origin=origin)


def describe_model(
    shape: GPTConfig,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the files beside the weights: config.json, generation_config.json and the tokenizer."""
    begin = tokenizer.end_of_text if tokenizer.begin_of_text is None else tokenizer.begin_of_text
    config = config_of(
        shape,
        begin_of_text=begin,
        end_of_text=tokenizer.end_of_text,
        dtype=str(dtype).removeprefix("torch."),
    )
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    generation = {
        "bos_token_id": begin,
        "eos_token_id": tokenizer.end_of_text,
        "do_sample": True,
        "temperature": 0.8,
    }
    write_atomically(folder / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    tokenizer.save(folder, shape.context_length)


def open_model(folder: str | Path) -> StoredModel:
    """A folder's model. WeightsError unless names and shapes of its tensors are those of config.json."""
    folder = Path(folder)
    config = read_config(folder)
    stored = find_tensors(folder)
    if config.n_layers > len(stored):  # before a model of that many layers is made
        raise WeightsError(
            f"{folder / CONFIG}: {plural(config.n_layers, 'layer')}, but "
            f"{plural(len(stored), 'tensor')} in the folder; "
            "they do not belong together"
        )
    try:
        shapes = {name: tuple(tensor.shape) for name, tensor in GPT.empty(config).state_dict().items()}
    except (RuntimeError, OverflowError):
        raise WeightsError(
            f"{folder / CONFIG}: no memory holds a model of these sizes; it is damaged"
        ) from None
    matched = match(stored, config, shapes)
    return StoredModel(config, matched.parameters, matched.left_out)


def load_model(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    progress: Progress = SILENT,
) -> GPT:
    """The model of a folder, in eval mode. WeightsError with path and reason if it cannot be used.

    dtype None: as it is stored; float32 for a mixture that neither type holds. `progress` gets a note where
    tensors are left out. A checkpoint that several processes have written is put together again.
    """
    if (Path(folder) / SHARDS).is_dir():
        return _put_together(Path(folder)).to(device=device, dtype=dtype)
    stored = open_model(folder)
    if stored.left_out:
        progress.note(
            f"{folder}: left out {plural(len(stored.left_out), 'tensor')} of a head for another task "
            f"({', '.join(stored.left_out[:3])})"
        )
    dtype = dtype or stored.dtype
    check_weights(str(folder), stored.config.n_parameters, dtype, device)
    model = GPT.empty(stored.config)
    names = [name for name in model.state_dict() if name != "head.weight" or not stored.config.tied_head]
    state = {
        name: stored.read(name, device=device, dtype=dtype)
        for name in counted(names, progress, "reading tensors")
    }
    model.load_state_dict(state, assign=True, strict=False)
    if stored.config.tied_head:
        model.head.weight = model.token_embedding.weight
    model.requires_grad_(True)
    return model.eval()


def unfilled(shape: GPTConfig, device: torch.device | str = "cpu") -> GPT:
    """A model in memory whose weights are still to be given."""
    model = GPT.empty(shape).to_empty(device=device)
    if shape.tied_head:
        model.head.weight = model.token_embedding.weight
    return model


def _put_together(folder: Path) -> GPT:
    """The model of a checkpoint whose weights are divided among files, on the CPU, in eval mode."""
    model = unfilled(read_config(folder))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    read_shards(folder / SHARDS, weights, ALONE)
    if odd := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise WeightsError(f"{folder / SHARDS}: {odd[0]} holds NaN or infinity", "take another checkpoint")
    return model.eval()
