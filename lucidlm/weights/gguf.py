"""One GGUF file for llama.cpp and what is built on it: a model and its tokenizer in, a checked file out.

GPT-2 is written as llama.cpp's "gpt2", the modern family as its "qwen3", or as "llama" where queries and keys
are not normed. What GGUF has no words for is refused with the field in the way.
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
"""How matrices are stored; norms, biases and learned positions are always float32, as llama.cpp has them."""

MOST_LAYERS = 512
"""LLAMA_MAX_LAYERS."""
Q8_BLOCK = 32
"""Numbers of a row that share a scale."""
CHECKED_AT_ONCE = 1 << 22
"""Numbers that are compared in one piece."""

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

# How a tokenizer.json splits text, whether it takes whole words from the vocabulary, and llama.cpp's name for
# both. The patterns stand in llama.cpp's code: a split that has no name there would give other ids.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: dict[tuple[tuple[str, ...], bool], str] = {
    (("GPT-2",), False): "gpt-2",
    (("digits", "GPT-2"), False): "smollm",
    ((_CONTRACTIONS + r"\p{N}" + _REST,), False): "qwen2",
    ((_CONTRACTIONS + r"\p{N}{1,3}" + _REST,), False): "dbrx",
    ((_CONTRACTIONS + r"\p{N}{1,3}" + _REST,), True): "llama-bpe",
}
# llama.cpp refuses a vocabulary without merges. This one never applies, as nothing makes its left half.
_NO_MERGES = ["ĀĀ Ā"]


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor of the file: a view of the model's weights, and how it is stored."""

    name: str
    values: Tensor
    kind: Kind
    rotated_heads: int = 0
    """Heads whose rows are to stand in the order of llama.cpp's "llama"."""


def export_gguf(
    model: GPT,
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    kind: Kind = "f16",
    name: str | None = None,
    progress: Progress = SILENT,
) -> None:
    """Writes model and tokenizer to one .gguf, which gets its name once every tensor was read and compared.

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
    """What the file holds, in the model's order; a tied head too, as some programs look for output.weight."""
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
            # llama.cpp's gpt2 has no switch for it: a bias of zeros is none.
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
    """A tokenizer in GGUF's words."""

    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    begin_of_text: int | None
    end_of_text: int


def _vocabulary(tokenizer: Tokenizer, size: int) -> _Vocabulary:
    """The tokenizer, with tokens that stand for nothing up to the model's size."""
    assert tokenizer.end_of_text is not None, "checked before"
    kinds = _library().TokenType
    document = tokenizer.document()
    # No token of a text holds a blank (it is written Ġ), so a name with one is free.
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

    It normalises nothing: of Qwen's NFC the ids of decomposed letters differ there.
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
    writer.add_add_bos_token(begin is not None)  # as transformers does by the same tokenizer.json
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
        # What is too large for the type becomes infinite, and is found when the file is compared.
        with np.errstate(all="ignore"):
            data = library.quantize(_numbers(tensor), _type(tensor.kind))
        writer.write_tensor_data(data.view(_Written))


class _Written(np.ndarray):
    """An array that goes through the file's own write: numpy's tofile says how much failed, and never why."""

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
    # Not "any > allowed": NaN, which a scale too large for float16 gives, is larger than nothing.
    if wanted.shape == read.shape and (np.abs(read - wanted) <= _allowed(wanted, tensor.kind)).all():
        return
    largest = np.abs(wanted).max()
    raise WeightsError(
        f"{tensor.name}: written as {tensor.kind} its numbers of up to {largest:.3g} read back as others; "
        + ("check the disk" if tensor.kind == "f32" else "choose f32, which holds all that the model does")
    )


def _allowed(values: np.ndarray, kind: Kind) -> np.ndarray | float:
    """How far each number may be from what is stored for it: half of the type's step there."""
    if kind == "f32":
        return 0.0
    sizes = np.abs(values)
    if kind == "f16":
        return np.maximum(sizes * 2.0**-11, 2.0**-25)
    if kind == "bf16":
        return np.maximum(sizes * 2.0**-8, 2.0**-134)
    blocks = sizes.reshape(-1, Q8_BLOCK)
    scales = blocks.max(1, keepdims=True) / 127
    # Half a scale and a little for the division, and 127 times what the scale itself loses as a float16.
    allowed = 0.501 * scales + 127 * np.maximum(scales * 2.0**-11, 2.0**-25)
    return np.broadcast_to(allowed, blocks.shape).reshape(values.shape)


def _numbers(tensor: _Stored, rows: slice = slice(None)) -> np.ndarray:
    """These rows as float32, in the file's order."""
    values = tensor.values[rows].detach().to("cpu", torch.float32)
    if tensor.rotated_heads:
        # "llama" turns channels 2i and 2i + 1 of a head by one angle, where we and Qwen turn i and i + D/2.
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
        raise ConfigError(f"GGUF files need the package {error.name}; pip install lucidlm[gguf]") from None
    return gguf
