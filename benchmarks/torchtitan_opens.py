"""Whether torchtitan's Qwen3 opens a run of the modern family: its logits beside those of lucidlm.

    pip install --no-deps torchtitan==0.3.0 spmd_types==0.2.3 torch_checkpointing torchdata tyro einops triton
    python benchmarks/torchtitan_opens.py RUN

torchtitan reads the weights by its own adapter for checkpoints of Hugging Face. It ends with an error where a
name is missing or a logit differs by more than 1e-4. --no-deps, because it wants older datasets than lm-eval.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from lucidlm.weights.load import load

MOST = 1e-4


def opened(run: Path) -> Any:
    """torchtitan's model of the run's shape, with the run's weights."""
    qwen3: Any = importlib.import_module("torchtitan.models.qwen3")
    shape = json.loads((run / "config.json").read_text(encoding="utf-8"))
    width, vocab_size, head_dim = shape["hidden_size"], shape["vocab_size"], shape["head_dim"]
    qwen3._EPS = shape["rms_norm_eps"]
    rope = qwen3.CosSinRoPE.Config(
        dim=head_dim, max_seq_len=shape["max_position_embeddings"], theta=shape["rope_theta"]
    )
    config = qwen3.Qwen3Model.Config(
        vocab_size=vocab_size,
        dim=width,
        norm=qwen3._qwen3_norm(width),
        enable_weight_tying=shape["tie_word_embeddings"],
        tok_embeddings=qwen3.Embedding.Config(
            num_embeddings=vocab_size, embedding_dim=width, param_init=qwen3._EMBEDDING_SKIP_INIT
        ),
        lm_head=qwen3.Linear.Config(
            in_features=width, out_features=vocab_size, param_init=qwen3._LINEAR_INIT
        ),
        layers=qwen3._build_qwen3_layers(
            fuse_qkv=True,
            n_layers=shape["num_hidden_layers"],
            dim=width,
            n_heads=shape["num_attention_heads"],
            n_kv_heads=shape["num_key_value_heads"],
            head_dim=head_dim,
            hidden_dim=shape["intermediate_size"],
            attn_backend="flex",
            rope=rope,
        ),
    )
    model = config.build()
    model.init_states(buffer_device=torch.device("cpu"))
    adapter = qwen3.Qwen3StateDictAdapter(config, str(run))
    stored = adapter.to_hf(model.state_dict())
    dcp.load(stored, storage_reader=adapter.get_hf_storage_reader(str(run)), no_dist=True)
    model.load_state_dict(adapter.from_hf(stored))  # it raises where a name is missing
    return model.eval()


def main() -> None:
    """Prints the largest difference of a logit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run of the modern family")
    run = parser.parse_args().run
    theirs, (ours, _) = opened(run), load(str(run))
    torch.manual_seed(0)
    length = ours.context_length
    ids = torch.randint(ours.vocab_size, (4, length))
    positions = torch.arange(length).expand(4, length).contiguous()
    torch.compiler.set_stance("force_eager")  # its attention is compiled for GPUs
    with torch.no_grad():
        found = theirs(ids, positions, theirs.get_attention_masks(positions))
        expected = ours.eval()(ids)
    apart = (found - expected).abs().max().item()
    print(f"largest difference of a logit: {apart:.1e} (the largest logit is {expected.abs().max():.1f})")
    if not apart < MOST:
        raise SystemExit(f"that is more than {MOST}")


if __name__ == "__main__":
    main()
