"""A request comes in; the plan of its training comes out. The text is read, and nothing is trained."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.process import set_float32
from lucidlm.runtime.progress import Progress
from lucidlm.text.corpus import Corpus
from lucidlm.training.footprint import check_preset
from lucidlm.training.given_text import corpus_for
from lucidlm.training.outline import details, memory_line, outline
from lucidlm.training.pace import Pace
from lucidlm.training.plan import Planned, make_plan
from lucidlm.training.setup import settle, with_prefix
from lucidlm.training.start import float32_kernels
from lucidlm.training.validation import check_scorable
from lucidlm.weights.load import load


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan without its training."""

    planned: Planned
    corpus: Corpus
    device: torch.device
    choices: tuple[str, ...]
    """Settings of the process with their reasons, as in env.json of a run."""


def preview(config: TrainConfig, folder: Path, progress: Progress) -> Preview:
    """The plan that start_run would make: same functions, same order. `folder` gets the prepared text.

    Like a training, it sets threads and kernels of the whole process.
    """
    pace = Pace(deadline_s=config.seconds)
    base, tokenizer = (None, None) if config.from_ is None else load(config.from_, progress=progress)
    device, choices = settle(config)
    check_preset(config, device)
    corpus = corpus_for(config, folder, tokenizer, progress)
    check_scorable(corpus)
    float32, note = float32_kernels(config, device)
    set_float32(float32)
    shape = None if base is None else base.config
    planned = make_plan(config, corpus, device, pace=pace, float32=float32, base=shape)
    return Preview(planned, corpus, device, (*choices, note))


def lines(shown: Preview, config: TrainConfig, *, verbose: bool) -> tuple[str, ...]:
    """The plan in the lines that `train` prints, with details if `verbose`; then the device."""
    planned, corpus = shown.planned, shown.corpus
    more = (*details(planned, corpus), *shown.choices) if verbose else (memory_line(planned),)
    where = () if verbose else (f"device: {shown.device}",)
    return (*outline(planned, config, corpus), *more, *where)


def to_dict(shown: Preview) -> dict[str, Any]:
    """The plan as a record for JSON; its key "plan" has the content of [plan] in run.toml."""
    planned, corpus, predicted = shown.planned, shown.corpus, shown.planned.predicted
    plan = with_prefix(planned.plan, corpus)
    return {
        "steps": plan.steps,
        "epochs": planned.epochs,
        "batch_tokens": plan.batch_tokens,
        "parameters": plan.model.n_parameters,
        "layers": plan.model.n_layers,
        "width": plan.model.emb_dim,
        "context_length": plan.model.context_length,
        "drop_rate": plan.model.drop_rate,
        "tokenizer": corpus.tokenizer.name,
        "vocab_size": corpus.tokenizer.vocab_size,
        "train_tokens": corpus.train_tokens,
        "heldout_tokens": corpus.heldout_tokens,
        "size_limit": planned.size_limit,
        "time_s": planned.speed.seconds_per_step * plan.steps,
        "tokens_per_s": plan.batch_tokens / planned.speed.seconds_per_step,
        "memory_bytes": planned.memory_bytes,
        "predicted": None
        if predicted is None
        else {
            "bits_low": predicted.low,
            "bits_per_byte": predicted.middle,
            "bits_high": predicted.high,
            "loss_nats": predicted.middle * predicted.nats,
        },
        "device": str(shown.device),
        "plan": asdict(plan),
    }
