"""A request in, a new run out that is ready for its first step; nothing is left of one that cannot begin."""

import contextlib
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lucidlm.errors import RunError
from lucidlm.model.gpt import GPT
from lucidlm.runs.checkpoints import KEPT_CHECKPOINTS, run_id
from lucidlm.runs.data import CORPUS, PREPARED
from lucidlm.runs.folder import claimed_run_folder, new_run_folder, set_aside
from lucidlm.runs.run_toml import write_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.distributed import ALONE, World
from lucidlm.runtime.files import free_bytes, largest_file_bytes
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.runtime.memory import size
from lucidlm.runtime.probes import core_share, fastest_exact_float32
from lucidlm.runtime.process import set_float32
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.corpus import Corpus
from lucidlm.training.follow import lead
from lucidlm.training.footprint import check_fits, check_preset
from lucidlm.training.given_text import corpus_for
from lucidlm.training.outline import details, outline
from lucidlm.training.pace import CONTENDED, Pace
from lucidlm.training.plan import make_plan
from lucidlm.training.saving import save_first
from lucidlm.training.setup import (
    ENVIRONMENT,
    apply,
    assemble,
    layout_line,
    settle,
    with_prefix,
    write_environment,
)
from lucidlm.training.spread import arranged
from lucidlm.training.state import TrainingRun
from lucidlm.training.tracking import check_trackers
from lucidlm.training.validation import check_scorable
from lucidlm.weights.huggingface import describe_model
from lucidlm.weights.load import load
from lucidlm.weights.whole import MODEL_FILES, begin_whole

HEADER_BYTES = 1 << 16
"""More than the names and shapes in a file of tensors take."""


def start_run(
    config: TrainConfig,
    stack: contextlib.ExitStack,
    progress: Progress,
    *,
    plan: Plan | None = None,
    overwrite: bool = False,
    verbose: bool = False,
    world: World = ALONE,
) -> TrainingRun:
    """A new run, ready for its first step; `stack` lets go of its folder. The plan is noted.

    With `plan`, exactly that is done. `verbose` notes its details too. Of several processes the first calls
    this, the others `follow_run`.
    """
    pace = Pace(deadline_s=config.seconds if plan is None else None)
    check_trackers(config)
    assert isinstance(config.text, tuple)
    assert isinstance(config.val, tuple)
    # A place where no run can be is refused before the work.
    new_run_folder(config.out, config.text, others=config.val, overwrite=overwrite)
    # Before the folder is touched: it may be the very one that is to be overwritten.
    base, tokenizer = (None, None) if config.from_ is None else load(config.from_, progress=progress)
    with _new_folder(config, stack, progress, overwrite=overwrite) as folder:
        config = replace(config, out=str(folder))
        device, choices = settle(config)
        check_preset(config, device)
        corpus = corpus_for(config, folder, tokenizer, progress)
        check_scorable(corpus)
        if plan is not None:
            world.shards = arranged(world, plan.model, device)[1]
            check_fits(config, plan, device, shards=world.shards)
            pace.most_steps = plan.steps
            progress.note(f"plan: {plural(plan.steps, 'step')}, from the settings file; no time limit")
        else:
            float32, note = float32_kernels(config, device)
            choices.append(note)
            set_float32(float32)
            shape = None if base is None else base.config
            planned = make_plan(config, corpus, device, pace=pace, float32=float32, base=shape, world=world)
            lines = outline(planned, config, corpus)
            for line in (*lines, *details(planned, corpus), *choices) if verbose else lines:
                progress.note(line)
            plan = planned.plan
            pace.most_steps, pace.final_tokens = planned.most_steps, planned.final_tokens
            pace.text = planned.text
        plan = with_prefix(plan, corpus)
        apply(plan)
        world.rows(plan.batch_size)
        choices += layout_line(world)
        for line in layout_line(world):
            progress.note(line)
        _check_room(folder, plan)
        id = run_id(config, plan, corpus)
        _begin(folder, config, plan, corpus, id=id, choices=choices)
        torch.manual_seed(config.seed)
        model = GPT(plan.model)
        if base is not None:
            copy_weights(base, model)
            del base
        lead(world, folder)
        run = assemble(
            config, plan, corpus, model, id=id, pace=pace, progress=progress, world=world, device=device
        )
        save_first(run)
    return run


@contextlib.contextmanager
def _new_folder(
    config: TrainConfig, stack: contextlib.ExitStack, progress: Progress, *, overwrite: bool
) -> Generator[Path]:
    """The empty folder of a new run, held until `stack` closes.

    Where the block fails the folder is deleted again, and what it was to overwrite comes back: nothing was
    trained, and a folder in the way of the next try would help nobody.
    """
    assert isinstance(config.text, tuple)
    assert isinstance(config.val, tuple)
    claimed = claimed_run_folder(
        config.out, config.text, others=config.val, overwrite=overwrite, progress=progress
    )
    former: Path | None = None
    try:
        folder = stack.enter_context(claimed)
    except OSError as error:
        raise RunError(f"{config.out or 'runs'}: {error.strerror}; choose another --out") from None
    try:
        if folder.exists():  # a run to be overwritten, or what a killed beginning left: ours alone now
            former = set_aside(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        if former is not None:
            former.rename(folder)
        raise RunError(f"{folder} cannot be made ({error.strerror}); choose another --out") from None
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if former is not None:
            with contextlib.suppress(OSError):  # else it comes back when the folder is named again
                former.rename(folder)
        raise
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def float32_kernels(config: TrainConfig, device: torch.device) -> tuple[Literal["stock", "onednn"], str]:
    """The kernels of float32 matmuls, and why. Without a time limit no probe may change the weights."""
    if not config.timed:
        return "stock", "float32: PyTorch's own kernels, as there is no --minutes"
    if core_share() < CONTENDED:  # the probe would take seconds of a minute, and mislead
        return "stock", "float32: PyTorch's own kernels, as the CPU is contended"
    return fastest_exact_float32(device)


def _begin(
    folder: Path, config: TrainConfig, plan: Plan, corpus: Corpus, *, id: str, choices: list[str]
) -> None:
    """Writes what never changes of a run, and its manifest."""
    write_environment(folder, config, corpus, choices)
    write_settings(folder, config, plan, id=id)  # the last of its text: with it, a run has begun
    describe_model(plan.model, corpus.tokenizer, folder)
    names = [*MODEL_FILES, ENVIRONMENT, *(f"{CORPUS}/{name}" for name in (MANIFEST, PREPARED))]
    begin_whole(folder, id, [name for name in names if (folder / name).exists()])


def copy_weights(base: GPT, model: GPT) -> None:
    """Gives a model the weights of another of its shape; a shorter context gets the first positions."""
    state = dict(base.state_dict())
    if model.position_embedding is not None:
        name = "position_embedding.weight"
        state[name] = state[name][: model.config.context_length]
    model.load_state_dict(state)


def _check_room(folder: Path, plan: Plan) -> None:
    """RunError if the disk, or a limit on the size of files, leaves no room for the checkpoints of a run."""
    weights = 4 * plan.model.n_parameters
    # The best weights, the checkpoints that are kept and the one that is being written: weights, two moments.
    need = weights + (KEPT_CHECKPOINTS + 1) * 3 * weights
    free = free_bytes(folder)
    if free < need:
        raise RunError(
            f"{folder}: {size(free)} are free, this run needs {size(need)} for its "
            "checkpoints; make room or choose another --out"
        )
    largest = 2 * weights + HEADER_BYTES  # AdamW's two moments of each weight, in one file
    if (limit := largest_file_bytes()) is not None and limit < largest:
        raise RunError(
            f"{folder}: files of at most {limit:,} bytes may be written (ulimit -f), this run needs "
            f"up to {largest:,}; raise the limit (ulimit -f unlimited), or choose a smaller model (--preset)"
        )
