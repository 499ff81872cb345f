"""The one resolver: MODEL, as every verb takes it, in; a model and its tokenizer out."""

import difflib
import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from lucidlm.errors import WeightsError
from lucidlm.model.config import PRESETS, preset
from lucidlm.model.gpt import GPT
from lucidlm.runtime.memory import check_weights
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.own_folders import PREPARED, own_folder
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.hf_config import CONFIG
from lucidlm.weights.huggingface import load_model
from lucidlm.weights.openai import is_openai_folder, load_openai
from lucidlm.weights.published import PUBLISHED, hub_folder, is_hub_name, published_folder
from lucidlm.weights.whole import check_model, checkpoints_in, is_run_without_settings, run_of


def load(
    source: str | Path,
    *,
    seed: int = 123,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    notice: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> tuple[GPT, Tokenizer]:
    """Model, in eval mode, and tokenizer of a run, a checkpoint, a folder, a published name or a preset.

    Folders are Hugging Face's or OpenAI's. A run gives its best weights; a preset gives random ones, drawn
    from `seed`; gpt2, gpt2-medium, gpt2-large, gpt2-xl and owner/name of the hub are fetched once.
    dtype None keeps the type that the weights are stored in. `notice` gets a line where a person should know
    that, `progress` how many tensors are read. WeightsError says what was found instead.
    """
    notice = notice or (lambda line: None)
    name = str(source)
    named = not isinstance(source, Path)
    if named and name in (*PRESETS, *PUBLISHED) and Path(name).is_dir():
        notice(f"{name} is the {'preset' if name in PRESETS else 'published model'}; ./{name} is the folder")
    if named and name in PRESETS:
        notice(f"{name}: random weights, seed {seed}")
        return _random(name, seed=seed, device=device, dtype=dtype or torch.float32)
    folder = _folder(source, notice)
    if not (folder / CONFIG).exists() and is_openai_folder(folder):
        return load_openai(folder, device=device, dtype=dtype or torch.float32, progress=progress)
    return _load_huggingface(folder, name, device=device, dtype=dtype, notice=notice, progress=progress)


def _folder(source: str | Path, notice: Callable[[str], None]) -> Path:
    """Where the weights are, fetched if they have a published name."""
    name, folder = str(source), Path(source)
    if not isinstance(source, Path) and name in PUBLISHED:
        return published_folder(name, notice=notice)
    if not isinstance(source, Path) and is_hub_name(name) and not folder.parent.is_dir():
        return hub_folder(name, notice=notice)
    if folder.is_file():
        raise WeightsError(
            f"{folder}: a file; give the folder of a run, of Hugging Face's or of OpenAI's, with the "
            "config and the tokenizer that belong to the weights (a .gguf file cannot be read back)"
        )
    if not folder.is_dir():
        raise WeightsError(_unknown(name))
    return folder


def _load_huggingface(
    folder: Path,
    name: str,
    *,
    device: str,
    dtype: torch.dtype | None,
    notice: Callable[[str], None],
    progress: Progress | None,
) -> tuple[GPT, Tokenizer]:
    if not (folder / CONFIG).exists():
        raise WeightsError(f"{folder}: {_no_model(folder)}")
    if (folder / "run.toml").exists():
        if not (folder / WEIGHTS).exists():
            raise WeightsError(_no_weights(folder))
        notice(f"{folder}: the best weights of this run")
    elif is_run_without_settings(run_of(folder)):
        notice(f"{run_of(folder) / 'run.toml'}: not there; {folder} is read as a model alone")
    check_model(folder)
    model = load_model(folder, device=device, dtype=dtype, notice=notice, progress=progress)
    fetched = folder != Path(name) and name.partition("@")[0].removeprefix("openai-community/") in PUBLISHED
    if model.document_prefix_id is None and fetched:
        # OpenAI put end-of-text between all documents; the hub's config.json does not say so.
        model.document_prefix_id = 50256
    tokenizer, beyond = Tokenizer.load(folder).within(model.config.vocab_size, str(folder))
    if beyond:
        notice(
            f"{folder}: left out {plural(len(beyond), 'control token')} of the tokenizer without a row in "
            f"the model ({', '.join(beyond[:3])}{', ...' * (len(beyond) > 3)})"
        )
    if model.document_prefix_id is None:
        model.document_prefix_id = tokenizer.begin_of_text  # Llama 3's: what it was trained with
    return model, tokenizer


def _random(name: str, *, seed: int, device: str, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    config = preset(name)
    tokenizer = Tokenizer.bytes() if config.vocab_size == 257 else Tokenizer.gpt2()
    if device == "meta":
        return GPT.empty(config).eval(), tokenizer
    check_weights(name, config.n_parameters, torch.float32, "cpu")  # drawn on the CPU, in float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(config)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _no_model(folder: Path) -> str:
    """What a folder without a config is, and what to give."""
    if own_folder(folder) == PREPARED:
        train = f"lucidlm train {shlex.quote(str(folder))}"
        return f"{PREPARED}, which has no weights; give the run that {train} makes"
    below = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    inside = f"; {below[-1]} in it is a model" if below else ""
    return (
        f"no {CONFIG} in it, but {_contents(folder)}{inside}; give a run, a Hugging Face folder "
        f"({CONFIG}, {WEIGHTS}) or an OpenAI folder (hparams.json, model.ckpt.index)"
    )


def _no_weights(run: Path) -> str:
    if saved := [folder for folder in checkpoints_in(run) if (folder / WEIGHTS).is_file()]:
        return f"{run / WEIGHTS}: not there; restore it, or take the last weights: {saved[0]}"
    return f"{run}: this run has no weights yet ({WEIGHTS}); wait for its first checkpoint"


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, (*PRESETS, *PUBLISHED), n=1)
    if close:
        return f"{name}: no folder and no model of that name; did you mean {close[0]}?"
    return (
        f"{name}: no folder and no model of that name; there are {', '.join(PUBLISHED)}, owner/name of the "
        f"Hugging Face hub, and with random weights {', '.join(PRESETS)}"
    )


def _contents(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "nothing"
