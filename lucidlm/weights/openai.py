"""OpenAI's released GPT-2 folder in, model and tokenizer out: the release's names and sizes. C channels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runtime.memory import check_weights
from lucidlm.runtime.progress import SILENT, Progress, counted
from lucidlm.runtime.wording import plural
from lucidlm.text.byte_level import END_OF_TEXT, byte_alphabet
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.tf_bundle import StoredTensor, blaming, check_contents, read_index, read_tensor

CHECKPOINT, HPARAMS, ENCODER, MERGES = "checkpoint", "hparams.json", "encoder.json", "vocab.bpe"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
LARGEST = {CHECKPOINT: 1 << 16, HPARAMS: 1 << 16, ENCODER: 1 << 22, MERGES: 1 << 22, INDEX: 1 << 20}
"""Maximum bytes of a file: several times the size in the largest release."""

OUTSIDE = {
    "token_embedding.weight": "model/wte",
    "position_embedding.weight": "model/wpe",
    "final_norm.weight": "model/ln_f/g",
    "final_norm.bias": "model/ln_f/b",
}
BLOCK = {  # a matrix is stored as [1, in, out], ours is (out, in); the sizes are in multiples of C
    "attention_norm.weight": ("ln_1/g", (1,)),
    "attention_norm.bias": ("ln_1/b", (1,)),
    "attention.qkv.weight": ("attn/c_attn/w", (1, 3)),
    "attention.qkv.bias": ("attn/c_attn/b", (3,)),
    "attention.out.weight": ("attn/c_proj/w", (1, 1)),
    "attention.out.bias": ("attn/c_proj/b", (1,)),
    "feed_forward_norm.weight": ("ln_2/g", (1,)),
    "feed_forward_norm.bias": ("ln_2/b", (1,)),
    "feed_forward.inner.weight": ("mlp/c_fc/w", (1, 4)),
    "feed_forward.inner.bias": ("mlp/c_fc/b", (4,)),
    "feed_forward.out.weight": ("mlp/c_proj/w", (4, 1)),
    "feed_forward.out.bias": ("mlp/c_proj/b", (1,)),
}
FIELDS = {
    "n_vocab": "vocab_size",
    "n_ctx": "context_length",
    "n_embd": "emb_dim",
    "n_head": "n_heads",
    "n_layer": "n_layers",
}


def is_openai_folder(folder: Path) -> bool:
    """Whether this is a folder of OpenAI's release, complete or not: `load_openai` names missing files."""
    return (folder / INDEX).is_file() or (folder / HPARAMS).is_file()


def load_openai(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = SILENT,
) -> tuple[GPT, Tokenizer]:
    """Model, in eval mode, and tokenizer of such a folder.

    WeightsError with path and reason if it is damaged. All of it is checked, also each tensor's checksum,
    before memory for the weights is allocated.
    """
    folder = Path(folder)
    _check_files(folder)
    config = read_hparams(folder / HPARAMS)
    tensors = _tensors_of(config, read_index(folder / INDEX), folder / INDEX)
    tokenizer = read_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise WeightsError(
            f"{folder / ENCODER}: {plural(tokenizer.vocab_size, 'token')}, but n_vocab of {HPARAMS} is "
            f"{config.vocab_size:,}; they do not belong together, download the folder again"
        )
    check_weights(str(folder), config.n_parameters, dtype, device)
    # Read, not memory-mapped: mapped pages count as memory, and a mapped file that shrinks kills the process.
    with blaming(folder / DATA), open(folder / DATA, "rb") as file:
        stored = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        check_contents(file, counted(stored, progress, "checking tensors"))
        state = {
            name: read_tensor(file, tensor, device=device, dtype=dtype)
            for name, tensor in counted(tensors.items(), progress, "reading tensors")
        }
    state["head.weight"] = state["token_embedding.weight"]
    # GPT-2 was trained with end-of-text before each document.
    model = GPT.empty(config.changed(document_prefix_id=tokenizer.end_of_text))
    model.load_state_dict(state, assign=True)
    model.head.weight = model.token_embedding.weight
    model.requires_grad_(True)
    return model.eval(), tokenizer


def read_hparams(path: Path) -> GPTConfig:
    """The shape in hparams.json."""
    with blaming(path):
        values = _json_object(path)
        if odd := sorted(values.keys() ^ FIELDS.keys()):
            raise ValueError(f"{odd[0]!r:.60} is {'missing' if odd[0] in FIELDS else 'not known'}")
        for name, value in values.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r:.60}, not a whole number of at least 1")
        try:
            shape = {ours: values[theirs] for theirs, ours in FIELDS.items()}
            return GPTConfig(family="gpt2", qkv_bias=True, tied_head=True, **shape)
        except ConfigError as error:
            raise ValueError(str(error)) from None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The byte-level BPE of encoder.json and vocab.bpe, which must agree.

    As in the release, ids are the 256 bytes in the order of their characters, then one for each merge, then
    end-of-text: so each of the two files can be checked by the other.
    """
    path = folder / MERGES
    with blaming(path):
        version, *lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        if not version.startswith("#version"):
            raise ValueError("its first line is no #version")
        vocabulary = {character: id for id, character in enumerate(sorted(byte_alphabet()))}
        merges = [line.split(" ") for line in lines]
        for number, merge in enumerate(merges, start=2):
            if len(merge) != 2 or not vocabulary.keys() >= set(merge):
                raise ValueError(f"line {number}, {' '.join(merge)!r:.60}, joins no two tokens before it")
            vocabulary.setdefault("".join(merge), len(vocabulary))
        if END_OF_TEXT in vocabulary:
            raise ValueError(f"it joins {END_OF_TEXT}, which no text may become")
    expected = {**vocabulary, END_OF_TEXT: len(vocabulary)}
    with blaming(folder / ENCODER):
        found = _json_object(folder / ENCODER)
        for token in [*expected, *found]:
            if found.get(token) != expected.get(token):
                raise ValueError(
                    f"{token!r:.60} is {found.get(token)!r:.60}, {MERGES} makes it {expected.get(token)}"
                )
    return Tokenizer.from_vocabulary(vocabulary, merges, source=str(path))


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no folder; give the one with {HPARAMS} and {INDEX}")
    for name in (HPARAMS, CHECKPOINT, INDEX, DATA, ENCODER, MERGES):
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{path}: {'not a file' if path.exists() else 'not there'}; download it too")
        if path.resolve().parent != folder.resolve():
            raise WeightsError(f"{path}: a link that leads out of the folder; copy the file itself there")
        if (size := path.stat().st_size) > LARGEST.get(name, size):
            raise WeightsError(
                f"{path}: {plural(size, 'byte')}, such a file has at most {LARGEST[name]:,}; "
                "download it again"
            )
    with blaming(folder / CHECKPOINT):
        text = (folder / CHECKPOINT).read_text(encoding="utf-8")
        found = re.match(r'model_checkpoint_path: "([^"\n]*)"\n', text)
        name = re.split(r"[/\\]", found[1])[-1] if found else ""
        if name != "model.ckpt":
            raise ValueError(f"it names {name!r:.60}, not model.ckpt")


def _json_object(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("it has a name twice")
        return values

    values = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=once)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def _layout(config: GPTConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Our name, the release's name and the release's shape of each tensor."""
    width = config.emb_dim
    rows = {"model/wte": config.vocab_size, "model/wpe": config.context_length}
    for ours, theirs in OUTSIDE.items():
        yield ours, theirs, (rows[theirs], width) if theirs in rows else (width,)
    for layer in range(config.n_layers):
        for ours, (theirs, widths) in BLOCK.items():
            shape = tuple(width * times for times in widths)
            yield f"blocks.{layer}.{ours}", f"model/h{layer}/{theirs}", (1, *shape) if shape[1:] else shape


def _tensors_of(config: GPTConfig, stored: dict[str, StoredTensor], index: Path) -> dict[str, StoredTensor]:
    """The stored tensors by our names: all of the model's and no others, together the whole data file."""
    tensors = {}
    # Ends at the first tensor that is missing, however large n_layer is.
    for ours, theirs, shape in _layout(config):
        if theirs not in stored:
            raise WeightsError(
                f"{index}: {theirs} is missing; n_layer of {HPARAMS} is {config.n_layers:,}, "
                "they do not belong together: download the folder again"
            )
        if stored[theirs].shape != shape:
            raise WeightsError(
                f"{index}: {theirs} is {stored[theirs].shape}, {HPARAMS} makes it {shape}; "
                "they do not belong together: download the folder again"
            )
        tensors[ours] = stored[theirs]
    if surplus := stored.keys() - {tensor.name for tensor in tensors.values()}:
        raise WeightsError(
            f"{index}: {min(surplus)!r} belongs to no part of a GPT-2 of {plural(config.n_layers, 'layer')}; "
            "save the model's tensors alone"
        )
    end = 0
    with blaming(index):
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset != end:
                odd = "overlaps the tensor before it" if tensor.offset < end else "leaves a gap before it"
                raise ValueError(f"{tensor.name} at byte {tensor.offset:,} of the data {odd}")
            end += tensor.size
    if (size := index.with_name(DATA).stat().st_size) != end:
        raise WeightsError(
            f"{index.with_name(DATA)}: {plural(size, 'byte')}, {INDEX} makes it {end:,}; copy or "
            "download it again"
        )
    return tensors
