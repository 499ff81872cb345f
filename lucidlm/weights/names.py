"""One table of parameter names: ours on one side, transformers' on the other, read in both directions.

C channels, H heads, G heads of keys and values, D head size. Our query, key and value are one matrix
((H + 2G) D, C); GPT-2's file has it transposed, Qwen3's has three.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.model.config import GPTConfig

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

QWEN3 = {
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

TRANSPOSED = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
"""GPT-2's four matrices of a block are stored [in, out]: OpenAI's Conv1D."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One of our parameters, and the tensors that it is on the other side."""

    ours: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...]
    """Rows of each of theirs, where there are several."""
    shape: tuple[int, ...]
    """Ours."""


def entries(config: GPTConfig, shapes: dict[str, tuple[int, ...]]) -> list[Entry]:
    """The table for this model: `shapes` are those of model.state_dict(). A tied head has no entry."""
    table = QWEN3 if config.family == "modern" else GPT2
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


def to_huggingface(state: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Our state under transformers' names, in its layout."""
    written: dict[str, Tensor] = {}
    for entry in entries(config, {name: tuple(tensor.shape) for name, tensor in state.items()}):
        parts = state[entry.ours].split(entry.sizes) if len(entry.theirs) > 1 else (state[entry.ours],)
        for name, part in zip(entry.theirs, parts, strict=True):
            written[name] = (part.T if TRANSPOSED.search(name) else part).contiguous()
    if config.family == "gpt2" and not config.qkv_bias:
        for layer in range(config.n_layers):  # transformers has no switch for it: a bias of zeros is none
            name = GPT2["blocks.{}.attention.qkv.bias"].format(layer)
            written[name] = torch.zeros(3 * config.emb_dim, dtype=state["token_embedding.weight"].dtype)
    return written


def from_huggingface(
    tensors: dict[str, Tensor], config: GPTConfig, shapes: dict[str, tuple[int, ...]], *, source: str
) -> dict[str, Tensor]:
    """transformers' tensors as our state; WeightsError for a missing, left-over or misshapen one."""
    tensors = {_canonical(name, config): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not _is_mask(name)}
    state: dict[str, Tensor] = {}
    for entry in entries(config, shapes):
        if missing := [name for name in entry.theirs if name not in tensors]:
            raise WeightsError(
                f"{source}: {missing[0]} is missing; the file is not whole, or config.json is another's"
            )
        parts = []
        for name, rows in zip(entry.theirs, entry.sizes, strict=True):
            part = tensors.pop(name)
            part = part.T if TRANSPOSED.search(name) and part.dim() == 2 else part
            expected = (rows, *entry.shape[1:])
            if tuple(part.shape) != expected:
                raise WeightsError(
                    f"{source}: {name} is {tuple(part.shape)}, config.json makes it {expected}; "
                    "they do not belong together"
                )
            if not torch.isfinite(part).all():
                raise WeightsError(f"{source}: {name} holds NaN or infinity; take another checkpoint")
            parts.append(part)
        state[entry.ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
    if config.tied_head:
        tensors.pop("lm_head.weight", None)  # some writers store the tied matrix twice
        state["head.weight"] = state["token_embedding.weight"]
    for name in list(tensors):
        if not config.qkv_bias and name.endswith("attn.c_attn.bias") and not tensors[name].any():
            del tensors[name]
    if tensors:
        raise WeightsError(
            f"{source}: {next(iter(tensors))} belongs to no part of a {config.family} model "
            "as config.json says it"
        )
    return state


def _canonical(name: str, config: GPTConfig) -> str:
    """Older files of GPT-2 leave "transformer." out."""
    if config.family == "gpt2" and name.split(".")[0] in ("wte", "wpe", "h", "ln_f"):
        return "transformer." + name
    return name


def _is_mask(name: str) -> bool:
    """Older files of GPT-2 hold the causal mask as if it were a weight."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))
