"""Tables of parameter names, ours and transformers', read in both directions.

C channels, H heads, G heads of keys and values, D head size. Our query, key and value are one matrix
((H + 2G) D, C). GPT-2's files have it transposed; those of Qwen3 and Llama have three matrices.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.runtime.wording import plural
from lucidlm.weights.tensor_files import DTYPES, StoredTensor

GPT2 = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "blocks.{}.attention_norm.weight": "transformer.h.{}.ln_1.weight",
    "blocks.{}.attention_norm.bias": "transformer.h.{}.ln_1.bias",
    "blocks.{}.attention.qkv.weight": "transformer.h.{}.attn.c_attn.weight",
    "blocks.{}.attention.qkv.bias": "transformer.h.{}.attn.c_attn.bias",
    "blocks.{}.attention.out.weight": "transformer.h.{}.attn.c_proj.weight",
    "blocks.{}.attention.out.bias": "transformer.h.{}.attn.c_proj.bias",
    "blocks.{}.feed_forward_norm.weight": "transformer.h.{}.ln_2.weight",
    "blocks.{}.feed_forward_norm.bias": "transformer.h.{}.ln_2.bias",
    "blocks.{}.feed_forward.inner.weight": "transformer.h.{}.mlp.c_fc.weight",
    "blocks.{}.feed_forward.inner.bias": "transformer.h.{}.mlp.c_fc.bias",
    "blocks.{}.feed_forward.out.weight": "transformer.h.{}.mlp.c_proj.weight",
    "blocks.{}.feed_forward.out.bias": "transformer.h.{}.mlp.c_proj.bias",
    "final_norm.weight": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
    "head.weight": "lm_head.weight",
}

MODERN = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "blocks.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blocks.{}.attention.qkv.weight": (
        "model.layers.{}.self_attn.q_proj.weight",
        "model.layers.{}.self_attn.k_proj.weight",
        "model.layers.{}.self_attn.v_proj.weight",
    ),
    "blocks.{}.attention.q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    "blocks.{}.attention.out.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blocks.{}.feed_forward_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.{}.feed_forward.gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blocks.{}.feed_forward.inner.weight": "model.layers.{}.mlp.up_proj.weight",
    "blocks.{}.feed_forward.out.weight": "model.layers.{}.mlp.down_proj.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
"""Qwen3's names. Llama's are the same, without q_norm and k_norm."""

TRANSPOSED = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
"""The four matrices of a GPT-2 block are stored as [in, out], the layout of OpenAI's Conv1D."""
NO_WEIGHT = re.compile(
    r"(^|\.)(attn\.(masked_)?bias|rotary_emb\.(original_)?(inv_freq|cos_cached|sin_cached)|position_ids)$"
)
"""Buffers that older files store like weights, in any dtype: the causal mask and the rotary angles."""
OTHER_HEAD = re.compile(r"(score|classifier|qa_outputs|multiple_choice_head|v_head|value_head)\.[\w.]+")
"""Heads for other tasks that transformers and trl store beside a language model; its logits need none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One of our parameters, and transformers' tensors for it."""

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...]
    """Rows of each of their tensors."""
    shape: tuple[int, ...]
    """Shape of our parameter."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Which of a folder's tensors make which parameter of a model."""

    parameters: dict[str, list[StoredTensor]]
    """Our name -> the stored tensors that make it; a tied head has those of the embedding."""
    left_out: tuple[str, ...]
    """Names of the tensors of heads for other tasks."""


def entries(config: GPTConfig, shapes: dict[str, tuple[int, ...]]) -> list[Entry]:
    """The table for a model with these shapes (of model.state_dict()). A tied head has no entry."""
    table = MODERN if config.family == "modern" else GPT2
    query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    found = []
    for ours, shape in shapes.items():
        if ours == "head.weight" and config.tied_head:
            continue
        layer = re.search(r"\.(\d+)\.", ours)
        number = layer.group(1) if layer else ""
        theirs = table[ours.replace(f".{number}.", ".{}.", 1) if layer else ours]
        theirs = (theirs,) if isinstance(theirs, str) else theirs
        sizes = (query, kv, kv) if len(theirs) == 3 else (shape[0],)
        found.append(Entry(ours, tuple(name.format(number) for name in theirs), sizes, shape))
    return found


def to_huggingface(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our state under transformers' names and in its layout, as views: nothing is copied."""
    written: dict[str, Tensor] = {}
    for entry in entries(config, {name: tuple(tensor.shape) for name, tensor in state.items()}):
        for name, part in zip(entry.theirs, state[entry.ours].split(entry.sizes), strict=True):
            written[name] = part.T if TRANSPOSED.search(name) else part
    if config.family == "gpt2" and not config.qkv_bias:
        for layer in range(config.n_layers):  # transformers always has this bias: zeros change nothing
            name = GPT2["blocks.{}.attention.qkv.bias"].format(layer)
            written[name] = torch.zeros(3 * config.emb_dim, dtype=state["token_embedding.weight"].dtype)
    return written


def match(
    stored: Mapping[str, StoredTensor], config: GPTConfig, shapes: dict[str, tuple[int, ...]]
) -> Matched:
    """The stored tensors that make each of our parameters.

    WeightsError for a tensor that is missing, left over, or of another shape or dtype than a weight has. A
    tensor that may be there but adds nothing (a second copy of the tied matrix, a bias of zeros) is read and
    compared.
    """
    left = _by_canonical_name(stored, config)
    other_heads = tuple(name for name in left if OTHER_HEAD.fullmatch(name))
    for name in other_heads:
        del left[name]
    table = MODERN if config.family == "modern" else GPT2
    if config.tied_head and table["token_embedding.weight"] not in left and "lm_head.weight" in left:
        # safetensors' own save_model keeps one name of a matrix that has two: the last one.
        left[str(table["token_embedding.weight"])] = left.pop("lm_head.weight")
    matched: dict[str, list[StoredTensor]] = {}
    for entry in entries(config, shapes):
        matched[entry.ours] = []
        for name, rows in zip(entry.theirs, entry.sizes, strict=True):
            if name not in left:
                raise _missing(name, stored, left, other_heads)
            tensor = left.pop(name)
            tensor.check_dtype()  # only for weights, and before anything is read
            expected = (rows, *entry.shape[1:])
            expected = expected[::-1] if TRANSPOSED.search(name) else expected
            if tensor.shape != expected:
                raise WeightsError(
                    f"{tensor.path}: {tensor.name} is {tensor.shape}, config.json makes it {expected}; "
                    "they do not belong together"
                )
            matched[entry.ours].append(tensor)
    if config.tied_head:
        matched["head.weight"] = matched["token_embedding.weight"]
    _check_left(left, matched["token_embedding.weight"][0], config)
    return Matched(matched, other_heads)


def _missing(
    name: str,
    stored: Mapping[str, StoredTensor],
    left: Mapping[str, StoredTensor],
    other_heads: tuple[str, ...],
) -> WeightsError:
    """The error for a missing tensor, with what is stored instead."""
    where = next(iter(stored.values())).path if stored else "the folder"
    if name == "lm_head.weight" and other_heads:
        return WeightsError(
            f"{where}: {name} is missing, {other_heads[0]} is there: this is a model for another task; "
            "take the language model that it was made from"
        )
    module = name.removesuffix("weight")
    packed = [
        each for other, each in left.items() if other.startswith(module) and each.stored_as not in DTYPES
    ]
    if packed:
        return WeightsError(
            f"{where}: {name} is missing, {packed[0].name[:80]!r} is there as {packed[0].stored_as}; take a "
            "checkpoint that is not quantised"
        )
    return WeightsError(f"{where}: {name} is missing; the file is not whole, or config.json is another's")


def assemble(stored: list[StoredTensor]) -> Tensor:
    """One of our parameters, read from the tensors that `match` found; WeightsError for NaN and infinity.

    It may be a view of a memory-mapped file: copy it.
    """
    parts = []
    for tensor in stored:
        part = tensor.read()
        if not all(map(math.isfinite, torch.stack(torch.aminmax(part)).tolist())):  # aminmax passes NaN on
            raise WeightsError(f"{tensor.path}: {tensor.name} holds NaN or infinity; take another checkpoint")
        parts.append(part.T if TRANSPOSED.search(tensor.name) else part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_canonical_name(stored: Mapping[str, StoredTensor], config: GPTConfig) -> dict[str, StoredTensor]:
    """The stored tensors by their usual names, without buffers.

    A model saved without its head lacks the prefix of all names; one saved inside a wrapper has one more.
    """
    prefix, starts = ("transformer.", ("wte", "wpe", "h", "ln_f"))
    embedding = "wte.weight"
    if config.family == "modern":
        prefix, starts, embedding = ("model.", ("embed_tokens", "layers", "norm"), "embed_tokens.weight")
    wrapper = _wrapper_of(stored, (prefix + embedding, embedding, "lm_head.weight"))
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if NO_WEIGHT.search(name):
            continue
        canonical = name.removeprefix(wrapper)
        canonical = prefix + canonical if canonical.split(".")[0] in starts else canonical
        if canonical in found:
            raise WeightsError(
                f"{tensor.path}: {canonical} is there twice, as {tensor.name[:80]!r} and as "
                f"{found[canonical].name[:80]!r}; keep one"
            )
        found[canonical] = tensor
    return found


def _wrapper_of(names: Iterable[str], known: tuple[str, ...]) -> str:
    """The extra prefix of all names if the model was saved inside another module, such as "module."."""
    names = set(names)
    for end in known:
        if before := [name.removesuffix(end) for name in names if name == end or name.endswith("." + end)]:
            return min(before, key=len)
    return ""


def _check_left(left: Mapping[str, StoredTensor], embedding: StoredTensor, config: GPTConfig) -> None:
    """WeightsError for a tensor that belongs to no parameter and does not repeat one."""
    unknown = [each for name, each in left.items() if not _says_nothing_new(name, each, embedding, config)]
    if not unknown:
        return
    names = ", ".join(repr(tensor.name[:80]) for tensor in unknown[:3]) + ", ..." * (len(unknown) > 3)
    which = f"{names} belongs" if len(unknown) == 1 else f"{plural(len(unknown), 'tensor')} ({names}) belong"
    raise WeightsError(
        f"{unknown[0].path}: {which} to no part of a {config.family} model of "
        f"{plural(config.n_layers, 'layer')}, which config.json describes",
        "copy or download both again",
    )


def _says_nothing_new(name: str, tensor: StoredTensor, embedding: StoredTensor, config: GPTConfig) -> bool:
    """Whether a surplus tensor repeats a parameter; WeightsError if it contradicts one."""
    if config.tied_head and name == "lm_head.weight":
        if tensor.shape == embedding.shape and torch.equal(_numbers(tensor), _numbers(embedding)):
            return True
        raise WeightsError(
            f"{tensor.path}: lm_head.weight is not the embedding, though config.json ties them; "
            "set tie_word_embeddings to false there if the file is right"
        )
    unused_bias = config.family == "gpt2" and not config.qkv_bias and name.endswith("attn.c_attn.bias")
    return unused_bias and not _numbers(tensor).any()


def _numbers(tensor: StoredTensor) -> Tensor:
    """A tensor's numbers in float64: two copies may be stored in two dtypes."""
    tensor.check_dtype()
    return tensor.read().to(torch.float64)
