"""Model folders as transformers has them: config.json, model.safetensors and the tokenizer, written and read.

Written for GPT2LMHeadModel and Qwen3ForCausalLM, so that every tool that knows these opens our models.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from lucidlm.errors import ConfigError, WeightsError
from lucidlm.model.config import DERIVED, GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.runtime.files import replacing_file, write_atomically
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.names import from_huggingface, to_huggingface

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
LARGEST_CONFIG = 2**20


class _Shared(BaseModel):
    """Fields of both kinds of config.json; what is not listed is left unread, nothing in it is ever run."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    vocab_size: int
    document_prefix_id: int | None = None


class _GPT2(_Shared):
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.0
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    qkv_bias: bool = True


class _Qwen3(_Shared):
    max_position_embeddings: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    use_sliding_window: bool = False
    drop_rate: float = 0.0


def save_model(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    document_prefix_id: int | None,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Writes the model's folder, each file whole or not at all. `state`: other weights for the same model."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in (state or model.state_dict()).items()}
    config = config_of(model.config, end_of_text=tokenizer.end_of_text, document_prefix_id=document_prefix_id)
    with replacing_file(folder / WEIGHTS) as temporary:
        save_file(to_huggingface(state, model.config), temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors writes files that nobody else can read
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    generation = {
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "do_sample": True,
        "temperature": 0.8,
    }
    write_atomically(folder / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    tokenizer.save(folder, model.config.context_length)


def load_model(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GPT:
    """The model of a folder, in eval mode; WeightsError with path and reason for one that cannot be used."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.exists():
        raise WeightsError(f"{path}: not there; {_what_else(folder)}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); copy or download it again"
        ) from None
    with torch.device("meta"):
        model = GPT(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = from_huggingface(tensors, config, shapes, source=str(path))
    # Cloned: a tensor of a mapped file must not change when the file does.
    state = {name: tensor.to(device=device, dtype=dtype, copy=True) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    if config.tied_head:
        model.head.weight = model.token_embedding.weight
    model.requires_grad_(True)
    model.document_prefix_id = document_prefix_id(folder)
    return model.eval()


def config_of(
    config: GPTConfig, *, end_of_text: int | None, document_prefix_id: int | None
) -> dict[str, Any]:
    """config.json of such a model."""
    shared = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
        "document_prefix_id": document_prefix_id,
        "init": config.init,
    }
    if config.family == "gpt2":
        return shared | {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": config.context_length,
            "n_embd": config.emb_dim,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.hidden_dim,
            "activation_function": "gelu_new",
            "resid_pdrop": config.drop_rate,
            "embd_pdrop": config.drop_rate,
            "attn_pdrop": config.drop_rate,
            "layer_norm_epsilon": config.norm_eps,
            "qkv_bias": config.qkv_bias,
        }
    return shared | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "max_position_embeddings": config.context_length,
        "hidden_size": config.emb_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.n_layers,
        "drop_rate": config.drop_rate,
    }


def read_config(folder: str | Path) -> GPTConfig:
    """The shape that a folder's config.json describes; WeightsError for what we have no such shape for."""
    path = Path(folder) / CONFIG
    values = _read_json(path)
    kind = values.get("model_type")
    if "auto_map" in values:
        raise WeightsError(
            f"{path}: auto_map asks for code of its own to be run; lucidlm runs no code of a model folder"
        )
    if kind not in ("gpt2", "qwen3"):
        raise WeightsError(f"{path}: model_type {kind!r} is not known; there are gpt2 and qwen3")
    try:
        if kind == "gpt2":
            return _from_gpt2(_GPT2(**values), values)
        return _from_qwen3(_Qwen3(**values), values, path)
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None


def document_prefix_id(folder: str | Path) -> int | None:
    """The id that stood before each document in training, as config.json says; None where it does not."""
    values = _read_json(Path(folder) / CONFIG)
    prefix = values.get("document_prefix_id")
    if prefix is not None and (not isinstance(prefix, int) or not 0 <= prefix < values.get("vocab_size", 0)):
        raise WeightsError(
            f"{Path(folder) / CONFIG}: document_prefix_id {prefix!r} is no id of the vocabulary"
        )
    return prefix


def _from_gpt2(found: _GPT2, values: dict[str, Any]) -> GPTConfig:
    if found.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ConfigError(f"activation_function {found.activation_function!r}: ours is gelu_new")
    return GPTConfig(
        family="gpt2",
        vocab_size=found.vocab_size,
        context_length=found.n_positions,
        emb_dim=found.n_embd,
        n_layers=found.n_layer,
        n_heads=found.n_head,
        hidden_dim=DERIVED if found.n_inner is None else found.n_inner,
        drop_rate=found.resid_pdrop,
        qkv_bias=found.qkv_bias,
        tied_head=found.tie_word_embeddings,
        norm_eps=found.layer_norm_epsilon,
        init=values.get("init", "scaled"),
    )


def _from_qwen3(found: _Qwen3, values: dict[str, Any], path: Path) -> GPTConfig:
    rope = found.rope_parameters or {}
    scaling = values.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default" or scaling.get("rope_type", "default") != "default":
        raise ConfigError("rope_parameters of a type other than default are not supported")
    if found.hidden_act != "silu" or found.attention_bias or found.use_sliding_window:
        raise ConfigError("hidden_act must be silu, attention_bias and use_sliding_window false")
    return GPTConfig(
        family="modern",
        vocab_size=found.vocab_size,
        context_length=found.max_position_embeddings,
        emb_dim=found.hidden_size,
        n_layers=found.num_hidden_layers,
        n_heads=found.num_attention_heads,
        n_kv_heads=found.num_key_value_heads,
        head_dim=found.head_dim,
        hidden_dim=found.intermediate_size,
        drop_rate=found.drop_rate,
        tied_head=found.tie_word_embeddings,
        rope_theta=float(rope.get("rope_theta") or found.rope_theta or 10_000.0),
        norm_eps=found.rms_norm_eps,
        init=values.get("init", "scaled"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise WeightsError(
                f"{path}: {path.stat().st_size:,} bytes; a config.json has at most {LARGEST_CONFIG:,}"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: not there; {path.parent} is no model folder") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON ({error}); copy or download it again") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: not a JSON object; copy or download it again")
    return values


def _what_else(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return "there are pickled weights, which are never read: convert them to safetensors"
    return "copy or download the folder again"
