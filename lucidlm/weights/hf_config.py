"""Hugging Face's config.json, written and read for GPT2, Qwen3 and Llama: a GPTConfig in and out.

A field that our models cannot follow is refused by its name. Code that a file names is never run.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.runtime.small_files import AGAIN
from lucidlm.weights.tensor_files import read_json

CONFIG = "config.json"
LARGEST_CONFIG = 1 << 20

# Hugging Face's fields and ours, read in both directions.
_FIELDS = {
    "shared": {
        "vocab_size": "vocab_size",
        "tie_word_embeddings": "tied_head",
        "document_prefix_id": "document_prefix_id",
        "init": "init",
    },
    "gpt2": {
        "n_positions": "context_length",
        "n_embd": "emb_dim",
        "n_layer": "n_layers",
        "n_head": "n_heads",
        "n_inner": "hidden_dim",
        "resid_pdrop": "drop_rate",
        "layer_norm_epsilon": "norm_eps",
        "qkv_bias": "qkv_bias",
    },
    "modern": {
        "max_position_embeddings": "context_length",
        "hidden_size": "emb_dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "head_dim": "head_dim",
        "rms_norm_eps": "norm_eps",
        "rope_theta": "rope_theta",
        "drop_rate": "drop_rate",
    },
}
# transformers has several implementations of GELU by tanh, each with a name; all are the same function.
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh")
# Fields that our models cannot change, and their allowed values: with any other, the logits would be wrong.
_FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": _TANH_GELU,
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "is_causal": (True,),
        "quantization_config": (None,),
    },
    "modern": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_sliding_window": (False,),
        "partial_rotary_factor": (1.0,),
        "is_causal": (True,),
        "quantization_config": (None,),
    },
}
# Second names of sizes; in transformers they win over the first.
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

_Size = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Shared(BaseModel):
    """Fields that every kind of config.json has; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    vocab_size: _Size
    init: Literal["torch", "scaled"] = "scaled"
    document_prefix_id: Annotated[int, Field(strict=True)] | None = None


class _GPT2(_Shared):
    n_positions: _Size
    n_embd: _Size
    n_layer: _Size
    n_head: _Size
    n_inner: _Size | None = None
    resid_pdrop: float = 0.0
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    qkv_bias: bool = True


class _Rope(BaseModel):
    model_config = ConfigDict(extra="ignore")
    rope_type: str | None = None
    type: str | None = None  # its name before it was rope_type
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None


class _Modern(_Shared):
    max_position_embeddings: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = False
    drop_rate: float = 0.0


class _Qwen3(_Modern):
    # The defaults for these two fit only one size of Qwen3, so a file must have them.
    num_key_value_heads: _Size
    head_dim: _Size


class _Llama(_Modern):
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None


def config_of(
    config: GPTConfig, *, begin_of_text: int | None, end_of_text: int | None, dtype: str = "float32"
) -> dict[str, Any]:
    """The config.json of such a model."""
    values = {theirs: getattr(config, ours) for theirs, ours in _fields_of(config.family)}
    values |= {"bos_token_id": begin_of_text, "eos_token_id": end_of_text, "dtype": dtype}
    if config.family == "gpt2":
        dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop"), config.drop_rate)
        kind = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
        return values | kind | {"activation_function": "gelu_new"} | dropout
    values |= {
        "hidden_act": "silu",
        # Two places for one number: transformers 5 reads rope_parameters, earlier versions rope_theta.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    if not config.qk_norm:
        kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        return values | kind | {"mlp_bias": False, "pretraining_tp": 1}
    kind = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    window = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": config.n_layers}
    return values | kind | window


def _fields_of(family: str) -> Iterable[tuple[str, str]]:
    """(theirs, ours) for each field of a family."""
    return (_FIELDS["shared"] | _FIELDS[family]).items()


def read_config(folder: str | Path) -> GPTConfig:
    """The shape in a folder's config.json; WeightsError if we have no such model."""
    path = Path(folder) / CONFIG
    values = read_json(path, LARGEST_CONFIG)
    if "auto_map" in values:
        raise WeightsError(f"{path}: auto_map names code to run; lucidlm never runs code from a model folder")
    kind = _kind_of(values)
    if kind not in ("gpt2", "llama", "qwen3"):
        raise WeightsError(f"{path}: model_type {kind!r:.80} is not known; there are gpt2, llama and qwen3")
    try:
        _check_fixed(values, "gpt2" if kind == "gpt2" else "modern")
        if kind == "gpt2":
            found = _GPT2(**_with_todays_names(values))
            return GPTConfig(**{ours: getattr(found, theirs) for theirs, ours in _fields_of("gpt2")})
        return _from_modern(_Qwen3(**values) if kind == "qwen3" else _Llama(**values))
    except ValidationError as error:
        first = error.errors()[0]
        value = "" if first["type"] == "missing" else f" is {first['input']!r:.80}"
        raise WeightsError(
            f"{path}: {'.'.join(map(str, first['loc']))}{value}: {first['msg']}", AGAIN
        ) from None
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None


def _kind_of(values: dict[str, Any]) -> object:
    """model_type; in older files without it, from the architecture or from GPT-2's fields."""
    if values.get("model_type") is not None:
        return values["model_type"]
    architectures = values.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        for kind in ("gpt2", "llama", "qwen3"):
            if str(name).lower().startswith(kind):
                return kind
    # GPT, GPT-J and CTRL have GPT-2's fields too, and one of their own each.
    of_others = values.keys() & {"afn", "rotary_dim", "dff"}
    if not architectures and not of_others and values.keys() >= {"n_embd", "n_layer", "n_head"}:
        return "gpt2"
    return None


def _with_todays_names(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a GPT-2 config.json of 2019 under today's names."""
    older = {"vocab_size_or_config_json_file": "vocab_size", "n_ctx": "n_positions"}
    return {older[name]: values[name] for name in older if name in values} | values


def _check_fixed(values: dict[str, Any], family: str) -> None:
    for alias, name in _ALIASES.items() if family == "gpt2" else ():
        if alias in values and values[alias] != values.get(name):
            raise ConfigError(
                f"{alias} is {values[alias]!r:.80} and {name} {values.get(name)!r:.80}; keep one"
            )
    for field, allowed in _FIXED[family].items():
        value = values.get(field)
        if value is not None and value not in allowed:
            raise ConfigError(f"{field} is {value!r:.80}; our models have {' or '.join(map(repr, allowed))}")


def _from_modern(found: _Qwen3 | _Llama) -> GPTConfig:
    theta = found.rope_theta
    for field in ("rope_parameters", "rope_scaling"):
        if (rope := getattr(found, field)) is None:
            continue
        if (scaling := rope.rope_type or rope.type or "default") != "default":
            raise ConfigError(f"{field} is of the type {scaling[:80]!r}; our models turn by plain angles")
        if rope.partial_rotary_factor not in (None, 1.0):
            raise ConfigError(f"{field} turns {rope.partial_rotary_factor} of each head; our models turn all")
        theta = rope.rope_theta or theta
    if found.rope_parameters and found.rope_scaling and found.rope_parameters != found.rope_scaling:
        raise ConfigError("rope_scaling and rope_parameters contradict each other; keep one")
    if other := set(found.layer_types or []) - {"full_attention"}:
        raise ConfigError(f"layer_types has {min(other)[:80]!r}; our models have full_attention alone")
    fields = {ours: getattr(found, theirs) for theirs, ours in _fields_of("modern")}
    fields["rope_theta"] = theta or 10_000.0
    return GPTConfig(family="modern", qk_norm=isinstance(found, _Qwen3), **fields)
