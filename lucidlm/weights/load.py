"""The one resolver: MODEL, as every verb takes it, in; a Source out, then its model and tokenizer."""

import difflib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lucidlm.errors import WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PRESETS
from lucidlm.runtime.memory import check_weights
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.own_folders import PREPARED, own_folder
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.weights.header import WEIGHTS
from lucidlm.weights.hf_config import CONFIG
from lucidlm.weights.huggingface import load_model
from lucidlm.weights.openai import is_openai_folder, load_openai
from lucidlm.weights.published import PUBLISHED, hub_folder, is_hub_name, published_folder
from lucidlm.weights.whole import (
    SETTINGS,
    STATE,
    check_model,
    checkpoints_in,
    is_run_without_settings,
    run_of,
)

Kind = Literal["run", "checkpoint", "huggingface", "openai", "published", "preset"]


@dataclass(frozen=True, slots=True)
class Source:
    """What a MODEL is: where its weights come from, and the run that wrote them."""

    name: str
    """MODEL, as the user gave it."""
    kind: Kind
    path: Path | None = None
    """The model's folder; None for a preset, and for a published model, whose folder `load` fetches."""
    run: Path | None = None
    """The folder of the run that wrote the weights: the model's folder, or that of the checkpoint's run."""

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to read; a run has none before its first checkpoint."""
        return self.kind != "run" or (self.path is not None and (self.path / WEIGHTS).exists())


def resolve(model: str | Path) -> Source:
    """The Source that MODEL means. Nothing is loaded or fetched; only names of files are read.

    The name of a preset or of a published model always means that, even if there is a folder of this name:
    ./NAME and a Path mean the folder. WeightsError says what was found if it is no model.

    >>> resolve("modern-1m")
    Source(name='modern-1m', kind='preset', path=None, run=None)
    """
    name, folder = str(model), Path(model)
    if isinstance(model, str):
        if name in PRESETS:
            return Source(name, "preset")
        if name in PUBLISHED or (is_hub_name(name) and not folder.parent.is_dir()):
            return Source(name, "published")
    if folder.is_file():
        raise WeightsError(
            f"{folder}: a file; give the folder of a run, of Hugging Face's or of OpenAI's, with the "
            "config and the tokenizer that belong to the weights (a .gguf file cannot be read back)"
        )
    if not folder.is_dir():
        raise WeightsError(_unknown(name))
    if (folder / SETTINGS).exists():
        return Source(name, "run", folder, run=folder)
    if not (folder / CONFIG).exists():
        if is_openai_folder(folder):
            return Source(name, "openai", folder)
        raise WeightsError(f"{folder}: {_no_model(folder)}")
    run = run_of(folder)
    if run != folder or (folder / STATE).exists():
        return Source(name, "checkpoint", folder, run=run if (run / SETTINGS).exists() else None)
    return Source(name, "huggingface", folder)


def load(
    source: str | Path | Source,
    *,
    seed: int = 123,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    progress: Progress = SILENT,
) -> tuple[GPT, Tokenizer]:
    """Model, in eval mode, and tokenizer of a run, a checkpoint, a folder, a published name or a preset.

    A run gives its best weights. A preset gives random weights, drawn from `seed`. gpt2, gpt2-medium,
    gpt2-large, gpt2-xl and owner/name of the Hugging Face hub are fetched once. dtype None keeps the dtype in
    which the weights are stored. WeightsError says what was found if it is no model.

    >>> model, tokenizer = load("modern-1m")  # random weights; also "gpt2", or a folder: "runs/verdict"
    >>> tokenizer.encode("Once")
    [79, 110, 99, 101]
    >>> model(torch.tensor([tokenizer.encode("Once")])).shape
    torch.Size([1, 4, 257])
    """
    source = source if isinstance(source, Source) else resolve(source)
    if source.path is None and Path(source.name).is_dir():
        what = "preset" if source.kind == "preset" else "published model"
        progress.note(f"{source.name} is the {what}; ./{source.name} is the folder")
    if source.kind == "preset":
        progress.note(f"{source.name}: random weights, seed {seed}")
        return _random(source.name, seed=seed, device=device, dtype=dtype or torch.float32)
    folder = source.path or _fetched(source.name, progress)
    if not (folder / CONFIG).exists() and is_openai_folder(folder):
        return load_openai(folder, device=device, dtype=dtype or torch.float32, progress=progress)
    return _load_huggingface(folder, source, device=device, dtype=dtype, progress=progress)


def _fetched(name: str, progress: Progress) -> Path:
    return (published_folder if name in PUBLISHED else hub_folder)(name, progress=progress)


def _load_huggingface(
    folder: Path,
    source: Source,
    *,
    device: str,
    dtype: torch.dtype | None,
    progress: Progress,
) -> tuple[GPT, Tokenizer]:
    if not (folder / CONFIG).exists():
        raise WeightsError(f"{folder}: {_no_model(folder)}")
    if not source.has_weights:
        raise WeightsError(_no_weights(folder))
    if source.kind == "run":
        progress.note(f"{folder}: the best weights of this run")
    elif is_run_without_settings(run_of(folder)):
        progress.note(f"{run_of(folder) / SETTINGS}: not there; {folder} is read as a model, not as a run")
    check_model(folder)
    model = load_model(folder, device=device, dtype=dtype, progress=progress)
    tokenizer, beyond = Tokenizer.load(folder).within(model.config.vocab_size, str(folder))
    if beyond:
        progress.note(
            f"{folder}: left out {plural(len(beyond), 'control token')} of the tokenizer without a row in "
            f"the model ({', '.join(beyond[:3])}{', ...' * (len(beyond) > 3)})"
        )
    if model.document_prefix_id is None:
        model.config = model.config.changed(document_prefix_id=_usual_prefix(source, tokenizer))
    return model, tokenizer


def _usual_prefix(source: Source, tokenizer: Tokenizer) -> int | None:
    """The id before each document in training, for models of others, whose config.json does not say it."""
    name = source.name.partition("@")[0].removeprefix("openai-community/")
    if source.kind == "published" and name in PUBLISHED:
        return tokenizer.end_of_text  # OpenAI put it between all documents
    return tokenizer.begin_of_text  # what Llama 3 was trained with


def _random(name: str, *, seed: int, device: str, dtype: torch.dtype) -> tuple[GPT, Tokenizer]:
    config = PRESETS[name].shape
    tokenizer = Tokenizer.from_spec(PRESETS[name].tokenizer or "bytes")
    if device == "meta":
        return GPT.empty(config).eval(), tokenizer
    check_weights(name, config.n_parameters, torch.float32, "cpu")  # drawn on the CPU, in float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(config)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _no_model(folder: Path) -> str:
    """What a folder without config.json is, and what to give instead."""
    if own_folder(folder) == PREPARED:
        train = f"lucidlm train {shlex.quote(str(folder))}"
        return f"{PREPARED}, which has no weights; give the run that {train} makes"
    below = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    inside = f"; {below[-1]} is a model" if below else ""
    return (
        f"it has no {CONFIG}, but {_contents(folder)}{inside}; give a run, a Hugging Face folder "
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
