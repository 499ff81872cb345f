"""One GGUF file for llama.cpp and what is built on it: a model and its tokenizer in, a checked file out.

GPT-2 is written as llama.cpp's "gpt2"; the modern family as its "qwen3", or as "llama" if queries and keys
have no norms. A field that GGUF cannot express is refused by its name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runtime.files import replacing_file
from lucidlm.runtime.progress import SILENT, Progress, counted
from lucidlm.runtime.wording import plural
from lucidlm.text.tokenizer import Tokenizer

Kind = Literal["f32", "f16", "bf16", "q8_0"]
"""How matrices are stored. Norms, biases and learned positions are always float32, as in llama.cpp."""

MOST_LAYERS = 512
"""LLAMA_MAX_LAYERS."""
Q8_BLOCK = 32
"""Consecutive numbers of a row that share a scale."""
CHECKED_AT_ONCE = 1 << 22
"""Numbers compared at once, to limit memory."""

NAMES = {
    "token_embedding": "token_embd",
    "position_embedding": "position_embd",
    "attention_norm": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "attention.out": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.inner": "ffn_up",
    "feed_forward.out": "ffn_down",
    "final_norm": "output_norm",
    "head": "output",
}
"""Our modules and llama.cpp's; a matrix is [out, in] on both sides."""

# How a tokenizer.json splits text, whether it takes whole words from the vocabulary (ignore_merges), and
# llama.cpp's name for both. llama.cpp has its patterns in its code: with any other split, ids would differ.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: dict[tuple[tuple[str, ...], bool], str] = {
    (("GPT-2",), False): "gpt-2",
    (("digits", "GPT-2"), False): "smollm",
    ((_CONTRACTIONS + r"\p{N}" + _REST,), False): "qwen2",
    ((_CONTRACTIONS + r"\p{N}{1,3}" + _REST,), False): "dbrx",
    ((_CONTRACTIONS + r"\p{N}{1,3}" + _REST,), True): "llama-bpe",
}
# llama.cpp refuses a vocabulary without merges. This one never applies: no merge makes its left half.
_NO_MERGES = ["ĀĀ Ā"]


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor of the file: a view of the model's weights, and how it is stored."""

    name: str
    values: Tensor
    kind: Kind
    rotated_heads: int = 0
    """Heads whose rows are reordered for llama.cpp's "llama"; 0: none."""


def export_gguf(
    model: GPT,
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    kind: Kind = "f16",
    name: str | None = None,
    progress: Progress = SILENT,
) -> None:
    """Writes model and tokenizer to one .gguf, which gets its name after every tensor was read and compared.

    `name` is what programs show (default: the file's name). ConfigError for a model, tokenizer or kind that
    GGUF cannot express; WeightsError for weights that the kind cannot hold.
    """
    library = _library()
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path}: a folder is there; give the name of a file, as in {path / 'model.gguf'}")
    _check(model.config, tokenizer, kind)
    vocabulary = _vocabulary(tokenizer, model.config.vocab_size)
    architecture = _architecture(model.config)
    stored = list(_tensors(model, architecture, kind))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        writer = library.GGUFWriter(temporary, architecture)
        try:
            _describe_model(writer, model.config, kind, name or path.stem)
            _describe_tokenizer(writer, vocabulary)
            _write(writer, stored, progress)
        finally:
            writer.close()
        _compare(temporary, stored, progress)


def _check(config: GPTConfig, tokenizer: Tokenizer, kind: str) -> None:
    if kind not in get_args(Kind):
        raise ConfigError(f"kind is {kind!r}; GGUF files are written as {', '.join(get_args(Kind))}")
    if config.n_layers > MOST_LAYERS:
        raise ConfigError(f"n_layers is {config.n_layers}; llama.cpp opens models of up to {MOST_LAYERS}")
    widths = {
        "emb_dim": config.emb_dim,
        "hidden_dim": config.hidden_dim,
        "n_heads x head_dim": config.n_heads * config.head_dim,
    }
    for field, width in widths.items():
        if kind == "q8_0" and width % Q8_BLOCK:
            raise ConfigError(
                f"{field} is {width}; q8_0 stores rows in blocks of {Q8_BLOCK}, so choose f16, bf16 or f32"
            )
    if tokenizer.vocab_size > config.vocab_size:
        raise WeightsError(
            f"the tokenizer has {plural(tokenizer.vocab_size, 'token')}, the model {config.vocab_size:,}; "
            "they do not belong together: load both from one folder"
        )
    if tokenizer.end_of_text is None:
        raise ConfigError(
            f"the tokenizer {tokenizer.name} has no end-of-text token, and llama.cpp takes token 11 "
            "where none is given; name one as eos_token in tokenizer_config.json"
        )


def _architecture(config: GPTConfig) -> str:
    if config.family == "gpt2":
        return "gpt2"
    return "qwen3" if config.qk_norm else "llama"


def _tensors(model: GPT, architecture: str, kind: Kind) -> Iterator[_Stored]:
    """The file's tensors, in the model's order; also a tied head, as some programs look for output.weight."""
    config = model.config
    heads = {"q": config.n_heads, "k": config.n_kv_heads, "v": config.n_kv_heads}
    rows = [count * config.head_dim for count in heads.values()]
    for ours, values in model.state_dict().items():
        theirs = _name(ours)
        stored_as = "f32" if values.dim() == 1 or ours.startswith("position_embedding") else kind
        if "attn_qkv" in theirs and architecture != "gpt2":
            for letter, part in zip(heads, values.split(rows), strict=True):
                rotated = heads[letter] if architecture == "llama" and letter != "v" else 0
                yield _Stored(theirs.replace("qkv", letter), part, stored_as, rotated)
            continue
        yield _Stored(theirs, values, stored_as)
        if theirs.endswith("attn_qkv.weight") and not config.qkv_bias:
            # llama.cpp's gpt2 always has this bias: zeros change nothing.
            yield _Stored(theirs.replace("weight", "bias"), torch.zeros(sum(rows)), "f32")


def _name(ours: str) -> str:
    place = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", ours)
    assert place, f"a parameter of a name that no table knows: {ours}"
    layer, module, part = place.groups()
    return f"{f'blk.{layer}.' if layer else ''}{NAMES[module]}.{part}"


def _describe_model(writer: Any, config: GPTConfig, kind: Kind, name: str) -> None:
    library = _library()
    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_type(library.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(library.LlamaFileType[file_types[kind]])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.emb_dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    if config.family == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A tokenizer in GGUF's fields."""

    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    begin_of_text: int | None
    end_of_text: int


def _vocabulary(tokenizer: Tokenizer, size: int) -> _Vocabulary:
    """The tokenizer, with unused tokens up to the model's vocabulary size."""
    assert tokenizer.end_of_text is not None, "checked before"
    kinds = _library().TokenType
    document = tokenizer.document()
    # No token contains a space (it is written Ġ), so these names cannot clash.
    tokens = [f"[PAD {id}]" for id in range(size)]
    types = [int(kinds.UNUSED)] * size
    for token, id in document["model"]["vocab"].items():
        tokens[id], types[id] = token, int(kinds.NORMAL)
    for token in document.get("added_tokens") or []:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = int(kinds.CONTROL if token["special"] else kinds.USER_DEFINED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    split = _split(document, tokenizer.name)
    return _Vocabulary(
        split, tokens, types, merges or _NO_MERGES, tokenizer.begin_of_text, tokenizer.end_of_text
    )


def _split(document: dict[str, Any], name: str) -> str:
    """llama.cpp's name for how a tokenizer.json splits text.

    llama.cpp does not normalize: with Qwen's NFC, decomposed letters get other ids there.
    """
    steps = document.get("pre_tokenizer") or {}
    described = []
    for step in steps.get("pretokenizers", [steps]):
        if step.get("type") == "ByteLevel" and not step.get("add_prefix_space", True):
            described += ["GPT-2"] if step.get("use_regex", True) else []
        elif step.get("type") == "Digits" and step.get("individual_digits"):
            described.append("digits")
        elif step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            described.append(step["pattern"].get("Regex"))
        else:
            described.append(step)
    known = (tuple(map(str, described)), bool(document["model"].get("ignore_merges")))
    if known not in _SPLITS or document.get("normalizer") not in (None, {"type": "NFC"}):
        raise ConfigError(
            f"the tokenizer {name} has a pre_tokenizer or normalizer that llama.cpp has no name for; "
            f"it splits text as {', '.join(_SPLITS.values())} do: export to hf instead"
        )
    return _SPLITS[known]


def _describe_tokenizer(writer: Any, vocabulary: _Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # byte-level BPE of any kind
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    begin = vocabulary.begin_of_text
    writer.add_bos_token_id(vocabulary.end_of_text if begin is None else begin)
    writer.add_eos_token_id(vocabulary.end_of_text)
    writer.add_add_bos_token(begin is not None)  # as transformers does with the same tokenizer.json
    writer.add_add_eos_token(False)


def _write(writer: Any, stored: list[_Stored], progress: Progress) -> None:
    """Writes header and tensors, one in memory at a time."""
    library = _library()
    for tensor in stored:
        numbers, size = library.GGML_QUANT_SIZES[_type(tensor.kind)]
        writer.add_tensor_info(
            tensor.name,
            tuple(tensor.values.shape),
            np.dtype(np.float32),
            tensor.values.numel() // numbers * size,
            raw_dtype=_type(tensor.kind),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in counted(stored, progress, "writing tensors"):
        # A number too large for the dtype becomes infinite; the comparison finds it.
        with np.errstate(all="ignore"):
            data = library.quantize(_numbers(tensor), _type(tensor.kind))
        writer.write_tensor_data(data.view(_Written))


class _Written(np.ndarray):
    """An array written by the file's own write: numpy's tofile does not say why a write failed."""

    def tofile(self, fid: Any, /, sep: str = "", format: str = "%s") -> None:
        fid.write(np.ascontiguousarray(self).data)


def _compare(path: Path, stored: list[_Stored], progress: Progress) -> None:
    """Compares the file with the model, piece by piece."""
    found = {tensor.name: tensor for tensor in _open(path).tensors}
    for tensor in counted(stored, progress, "comparing tensors"):
        rows, count = len(tensor.values), tensor.values.numel()
        step = rows if tensor.rotated_heads else max(1, CHECKED_AT_ONCE * rows // count)
        for start in range(0, rows, step):
            piece = slice(start, start + step)
            with np.errstate(all="ignore"):
                _compare_rows(tensor, _numbers(tensor, piece), _dequantised(found[tensor.name], piece))


def _compare_rows(tensor: _Stored, wanted: np.ndarray, read: np.ndarray) -> None:
    if not np.isfinite(wanted).all():
        raise WeightsError(
            f"{tensor.name}: the model's weights hold NaN or infinity; take another checkpoint"
        )
    # Not "any > allowed": a scale too large for float16 gives NaN, and no comparison with NaN is true.
    if wanted.shape == read.shape and (np.abs(read - wanted) <= _allowed(wanted, tensor.kind)).all():
        return
    largest = np.abs(wanted).max()
    raise WeightsError(
        f"{tensor.name}: written as {tensor.kind} its numbers of up to {largest:.3g} read back as others; "
        + ("check the disk" if tensor.kind == "f32" else "choose f32, which holds all that the model does")
    )


def _allowed(values: np.ndarray, kind: Kind) -> np.ndarray | float:
    """Largest allowed difference of each number from its stored value: half a step of the dtype there."""
    if kind == "f32":
        return 0.0
    sizes = np.abs(values)
    if kind == "f16":
        return np.maximum(sizes * 2.0**-11, 2.0**-25)
    if kind == "bf16":
        return np.maximum(sizes * 2.0**-8, 2.0**-134)
    blocks = sizes.reshape(-1, Q8_BLOCK)
    scales = blocks.max(1, keepdims=True) / 127
    # Half a scale (and a little for the division), plus 127 times the rounding of the scale to float16.
    allowed = 0.501 * scales + 127 * np.maximum(scales * 2.0**-11, 2.0**-25)
    return np.broadcast_to(allowed, blocks.shape).reshape(values.shape)


def _numbers(tensor: _Stored, rows: slice = slice(None)) -> np.ndarray:
    """These rows as float32, in the file's order."""
    values = tensor.values[rows].detach().to("cpu", torch.float32)
    if tensor.rotated_heads:
        # llama.cpp's "llama" rotates channels 2i and 2i + 1 of a head together; we and Qwen, i and i + D/2.
        values = values.unflatten(0, (tensor.rotated_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return values.contiguous().numpy()


def _dequantised(tensor: Any, rows: slice = slice(None)) -> np.ndarray:
    return _library().dequantize(tensor.data[rows], tensor.tensor_type)


def _type(kind: Kind) -> Any:
    return _library().GGMLQuantizationType[kind.upper()]


def _open(path: Path) -> Any:
    library = _library()
    try:
        return library.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path}: not a whole GGUF file ({reason}); write it again") from None


def _library() -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise ConfigError(f"GGUF files need the package {error.name}; pip install 'lucidlm[gguf]'") from None
    return gguf
