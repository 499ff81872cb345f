"""The one resolver: MODEL, as every verb takes it, in; a model and its tokenizer out."""

import difflib
from collections.abc import Callable
from pathlib import Path

import torch

from lucidlm.errors import WeightsError
from lucidlm.model.config import PRESETS, preset
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.huggingface import CONFIG, WEIGHTS, load_model

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def load(
    source: str | Path,
    *,
    seed: int = 123,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    notice: Callable[[str], None] | None = None,
) -> tuple[GPT, Tokenizer]:
    """Model, in eval mode, and tokenizer of a run, a checkpoint, a Hugging Face folder or a preset's name.

    A run gives its best weights; a preset gives random ones, drawn from `seed`. `notice` gets a line where a
    person should know that. WeightsError says what was found instead.
    """
    notice = notice or (lambda line: None)
    name = str(source)
    if name in PRESETS and not isinstance(source, Path):
        if Path(name).is_dir():
            notice(f"{name} is the preset; ./{name} would be the folder")
        notice(f"{name}: random weights, seed {seed}")
        return _random(name, seed=seed, device=device, dtype=dtype)
    folder = Path(source)
    if not folder.is_dir():
        raise WeightsError(_unknown(name))
    if not (folder / CONFIG).exists():
        raise WeightsError(
            f"{folder}: no {CONFIG} in it, but {_contents(folder)}; give a run or a model folder"
        )
    if (folder / "run.toml").exists():
        if not (folder / WEIGHTS).exists():
            raise WeightsError(f"{folder}: this run has no weights yet; wait for its first checkpoint")
        notice(f"{folder}: the best weights of this run")
    model = load_model(folder, device=device, dtype=dtype)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise WeightsError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size:,} tokens, "
            f"its model {model.config.vocab_size:,}; they do not belong together"
        )
    return model, tokenizer


def _random(name: str, *, seed: int, device: str, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    config = preset(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(config)
    tokenizer = Tokenizer.bytes() if config.vocab_size == 257 else Tokenizer.gpt2()
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _unknown(name: str) -> str:
    if name in PUBLISHED:
        return (
            f"{name}: this version does not fetch published weights; give a folder, "
            "or gpt2-124m for the same shape with random weights"
        )
    close = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; presets are {', '.join(PRESETS)}"
    return f"{name}: no folder and no preset of that name{hint}"


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "nothing"
