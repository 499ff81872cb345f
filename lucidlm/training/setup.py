"""What a training needs before its first step: folder, text, plan, model, optimizers; new or resumed."""

import contextlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lucidlm.errors import ConfigError, RunError, WeightsError
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import preset
from lucidlm.runs.data import CORPUS, PREPARED, corpus_of_run
from lucidlm.runs.folder import (
    KEPT_CHECKPOINTS,
    OPTIMIZER,
    bring_back,
    claimed_run_folder,
    last_checkpoint,
    new_run_folder,
    run_id,
    set_aside,
    sweep,
)
from lucidlm.runs.history import lowest, passed_its_best, read_history
from lucidlm.runs.metrics import Metrics, forget_after
from lucidlm.runs.run_toml import fault_of_settings, read_settings, write_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import choose_device, dtype_of
from lucidlm.runtime.files import free_bytes, largest_file_bytes, write_atomically
from lucidlm.runtime.locks import lock
from lucidlm.runtime.manifest import MANIFEST
from lucidlm.runtime.memory import size
from lucidlm.runtime.places import check_file_place
from lucidlm.runtime.probes import core_share, fastest_exact_float32, probe_matmul
from lucidlm.runtime.process import keep_freed_memory, set_float32, set_threads
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.corpus import Corpus, open_corpus
from lucidlm.text.preparation import prepare
from lucidlm.text.reading import READING
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.windows import Windows
from lucidlm.training.clock import Clock
from lucidlm.training.footprint import check_fits, check_preset
from lucidlm.training.optim import load_optimizer_tensors, make_optimizers
from lucidlm.training.outline import details, outline
from lucidlm.training.plan import make_plan
from lucidlm.training.saving import save_first
from lucidlm.training.state import TrainingRun
from lucidlm.training.validation import check_scorable, choose_samples
from lucidlm.weights.huggingface import describe_model, load_model
from lucidlm.weights.load import load
from lucidlm.weights.tensor_files import find_tensors, read_tensors
from lucidlm.weights.whole import MODEL_FILES, SETTINGS, Whole, begin_whole, weights_of, whole_of

UNTIMED_FLOAT32: tuple[Literal["stock"], str] = (
    "stock",
    "float32: PyTorch's own kernels, no --minutes given",
)
CONTENDED = 0.5
"""A thread that gets less of a core than this leaves out what only pays on a quiet machine."""
CONTENDED_FLOAT32: tuple[Literal["stock"], str] = (
    "stock",
    "float32: PyTorch's own kernels, as the CPU is contended",
)
HEADER_BYTES = 1 << 16
"""More than the names and shapes in a file of tensors take."""
ENVIRONMENT = "env.json"


def start_run(
    config: TrainConfig,
    plan: Plan | None,
    stack: contextlib.ExitStack,
    progress: Progress,
    *,
    overwrite: bool,
) -> TrainingRun:
    """A new run, ready for its first step; `stack` lets go of the folder. What was chosen is said."""
    clock = Clock()
    assert not isinstance(config.text, str)
    assert not isinstance(config.val, str)
    read = {"texts": config.text, "others": config.val}
    new_run_folder(
        config.out, **read, overwrite=overwrite
    )  # a place that cannot be is refused before the work
    # Before the folder is touched: it may be the very one that is to be overwritten.
    base, tokenizer = (None, None) if config.from_ is None else load(config.from_, progress=progress)
    former: Path | None = None
    try:
        folder = stack.enter_context(
            claimed_run_folder(config.out, **read, overwrite=overwrite, progress=progress)
        )
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
        config = replace(config, out=str(folder))
        metrics = Metrics(folder, tensorboard=config.tensorboard, progress=progress)
        device, notes = _settle(config)
        check_preset(config, device)
        corpus = _corpus_of(config, folder, progress, tokenizer)
        check_scorable(corpus)
        if plan is None:
            # Without a time limit nothing that a probe's speed decides may change the weights.
            # On a CPU that others use, the probe takes seconds of a minute and tells little.
            contended = config.timed and core_share() < CONTENDED
            float32, note = (
                fastest_exact_float32(device)
                if config.timed and not contended
                else CONTENDED_FLOAT32
                if contended
                else UNTIMED_FLOAT32
            )
            set_float32(float32)
            notes.append(note)
            shape = base.config if base is not None else None
            planned = make_plan(config, corpus, device, clock=clock, float32=float32, base=shape)
            for line in (*outline(planned, config, corpus), *details(planned, corpus)):
                progress.note(line)
            plan, clock.deadline_s = planned.plan, planned.deadline_s
            most_steps, final_tokens = planned.most_steps, planned.final_tokens
            alone_s, text = planned.speed.one_thread_s, planned.text
        else:
            most_steps, final_tokens, alone_s, text = plan.steps, sys.maxsize, None, None
            check_fits(config, plan, device)
            steps = plural(plan.steps, "step")
            progress.note(f"plan: {steps}, from the settings file; no time limit")
        plan = _with_prefix(plan, corpus)
        _apply(plan)
        _check_room(folder, plan)
        id = run_id(config, plan, corpus)
        _write_environment(folder, config, corpus, notes)
        write_settings(folder, config, plan, id=id)  # the last of its text: with it, a run has begun
        _begin_whole(folder, plan, corpus, id)
        torch.manual_seed(config.seed)
        model = GPT(plan.model).to(device)
        if base is not None:
            copy_weights(base, model)
            del base
        run = _assemble(
            config,
            plan,
            folder,
            corpus,
            model,
            metrics,
            clock,
            progress,
            most_steps=most_steps,
            final_tokens=final_tokens,
        )
        run.id, run.alone_s, run.text = id, alone_s, text
        save_first(run)
    except BaseException:
        # Nothing was trained: a folder in the way of the next try would help nobody.
        shutil.rmtree(folder, ignore_errors=True)
        if former is not None:
            with contextlib.suppress(OSError):  # else it comes back when the folder is named again
                former.rename(folder)
        raise
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)
    return run


def resume_run(config: TrainConfig, stack: contextlib.ExitStack, progress: Progress) -> TrainingRun:
    """The run at config.out as its last whole checkpoint left it; everything else comes from its run.toml."""
    if not config.out:
        raise ConfigError("--resume needs --out RUN: the folder of the run to go on with")
    folder = Path(config.out)
    if folder.name in ("", ".."):  # the current folder or one above it: a run has a name
        folder = folder.resolve()
    bring_back(folder)
    if not (folder / SETTINGS).exists():
        raise RunError(
            f"{folder} holds no run: {SETTINGS} is not there; lucidlm runs lists the runs below a folder"
        )
    check_file_place(folder / SETTINGS, "--out")
    stack.enter_context(lock(folder))
    sweep(folder)
    whole = _whole_of_run(folder)
    config, plan = read_settings(folder)
    if plan is None:
        raise RunError(f"{folder / SETTINGS} has no plan: the run never began; train again with --overwrite")
    config = replace(config, out=str(folder))
    id = whole.run if whole is not None else ""
    checkpoint = last_checkpoint(folder, id=id)
    for note in (*checkpoint.notes, *read_history(folder).remarks):
        progress.note(note)
    metrics = Metrics(folder, tensorboard=config.tensorboard, progress=progress)
    device, _ = _settle(config)
    _apply(plan)
    corpus = corpus_of_run(folder)
    check_fits(config, plan, device, resumed=True)
    model = load_model(checkpoint.folder, device=str(device))
    plan = _with_prefix(plan, corpus)  # run.toml of former versions lacks the field
    if model.config != plan.model:
        raise RunError(
            f"{checkpoint.folder}: its model is {model.config}, run.toml says {plan.model}; "
            "restore the run.toml of this run"
        )
    run = _assemble(
        config,
        plan,
        folder,
        corpus,
        model,
        metrics,
        Clock(),
        progress,
        most_steps=plan.steps,
        final_tokens=sys.maxsize,
    )
    load_optimizer_tensors(model, run.optimizers, read_tensors(checkpoint.folder / OPTIMIZER))
    _check_settings(folder, whole)
    validations = checkpoint.state["validations"]
    # Not before all is known to fit.
    forget_after(folder, checkpoint.step, validated={each.step for each in validations})
    metrics.count()
    run.step, run.tokens = checkpoint.step, checkpoint.state["tokens"]
    run.validations, run.id = validations, id
    run.validation_pending = checkpoint.state.get("validation_pending", False)
    run.saved = run.step, len(validations)
    _find_best(run, whole, progress)
    run.stopped_early = has_passed_its_best(run)
    progress.note(f"resuming {folder} at step {run.step:,} of {plan.steps:,}")
    return run


def _with_prefix(plan: Plan, corpus: Corpus) -> Plan:
    """The plan for a model that is trained with end-of-text before each document."""
    return replace(plan, model=plan.model.changed(document_prefix_id=corpus.tokenizer.end_of_text))


def _begin_whole(folder: Path, plan: Plan, corpus: Corpus, id: str) -> None:
    """What never changes of a run, and its manifest."""
    describe_model(plan.model, corpus.tokenizer, folder)
    names = [*MODEL_FILES, ENVIRONMENT, *(f"{CORPUS}/{name}" for name in (MANIFEST, PREPARED))]
    begin_whole(folder, id, [name for name in names if (folder / name).exists()])


def _whole_of_run(folder: Path) -> Whole | None:
    """The manifest of a run whose model's files are as they were, or WeightsError."""
    whole = whole_of(folder)
    if whole is None:
        return None
    for name in MODEL_FILES:
        whole.check(name)
    return whole


def _check_settings(folder: Path, whole: Whole | None) -> None:
    """RunError for a run.toml of another run, or a changed one."""
    if fault := fault_of_settings(folder, whole):
        raise RunError(
            f"{fault}; restore it, or begin a new run with it: "
            f"lucidlm train --config {folder / SETTINGS} --out NEW"
        )


def _find_best(run: TrainingRun, whole: Whole | None, progress: Progress) -> None:
    """The best weights are those in the folder, if they are there and whole; else those of the checkpoint."""
    if whole is None:
        run.kept = lowest(run.validations)
    try:
        if whole is not None:
            weights_of(whole)
            run.kept = read_history(run.folder).kept
        else:
            find_tensors(run.folder)
        return
    except WeightsError as error:
        progress.note(
            f"{str(error).partition('; ')[0]}: from now on the weights of step {run.step:,} are the best"
        )
    run.best_state = {name: tensor.detach().cpu().clone() for name, tensor in run.model.state_dict().items()}
    run.kept = next((each for each in run.validations if each.step == run.step), None)


def has_passed_its_best(run: TrainingRun) -> bool:
    """Whether the run is to stop before its plan ends."""
    return run.plan.early_stop and passed_its_best(run.validations, decay_from=run.plan.early_stop_from)


def _assemble(
    config: TrainConfig,
    plan: Plan,
    folder: Path,
    corpus: Corpus,
    model: GPT,
    metrics: Metrics,
    clock: Clock,
    progress: Progress,
    *,
    most_steps: int,
    final_tokens: int,
) -> TrainingRun:
    """What new and resumed runs have in common."""
    model.train()
    dtype = dtype_of(plan.dtype)
    return TrainingRun(
        folder=folder,
        config=config,
        plan=plan,
        corpus=corpus,
        windows=Windows(corpus.train, plan.model.context_length, moving=plan.moving_windows),
        samples=choose_samples(corpus, tokens=plan.validation_tokens, prompt=config.sample_prompt),
        model=model,
        optimizers=make_optimizers(model, plan.optim),
        hidden=_compiled(model, plan, progress) if plan.compile else model.hidden,
        dtype=dtype,
        peak_flops_per_s=probe_matmul(model.device, dtype).flops_per_s,
        metrics=metrics,
        clock=clock,
        most_steps=most_steps,
        final_tokens=final_tokens,
    )


def copy_weights(base: GPT, model: GPT) -> None:
    """Gives a model the weights of one of its shape; of learnt positions the first ones, if it has fewer."""
    state = dict(base.state_dict())
    if model.position_embedding is not None:
        name = "position_embedding.weight"
        state[name] = state[name][: model.config.context_length]
    model.load_state_dict(state)


def _settle(config: TrainConfig) -> tuple[torch.device, list[str]]:
    """Device, threads and allocator of this process, and what was chosen and why."""
    device = choose_device(config.device)
    threads = set_threads(config.threads)
    return device, [f"device: {device}", f"threads: {threads}", keep_freed_memory()]


def _apply(plan: Plan) -> None:
    """What of a plan holds for the whole process: other threads or kernels round sums differently."""
    set_threads(plan.threads, recorded=True)
    set_float32(plan.float32)


def _corpus_of(config: TrainConfig, folder: Path, progress: Progress, base: Tokenizer | None) -> Corpus:
    """The prepared text: a folder of `lucidlm prepare` as it is, else prepared into the run.

    `base` is the tokenizer of the model that the run goes on from, if it does.
    """
    if len(config.text) == 1 and (Path(config.text[0]) / "train.npy").exists():
        corpus = open_corpus(Path(config.text[0]))
        if config.tokenizer not in (None, corpus.tokenizer.name):
            raise ConfigError(
                f"--tokenizer {config.tokenizer}: {config.text[0]} is prepared with {corpus.tokenizer.name}; "
                "prepare the text again with the other, or leave --tokenizer out"
            )
        _check_reading(config, corpus)
        _check_split(config, corpus)
        if base is not None and corpus.tokenizer.fingerprint() != base.fingerprint():
            raise ConfigError(
                f"{config.text[0]} is prepared with {corpus.tokenizer.name}, {config.from_} has another "
                f"tokenizer, {base.name}; give the text itself, or prepare it with --tokenizer {config.from_}"
            )
        (folder / CORPUS).mkdir()
        hashes = corpus.manifest["files"]
        record = {"path": str(Path(config.text[0]).resolve()), "files": hashes}
        write_atomically(folder / CORPUS / PREPARED, json.dumps(record, indent=1))
        return corpus
    chosen = None if config.preset is None else preset(config.preset)
    split = config.split
    if split == "auto" and not config.val and chosen is not None:
        split = chosen.split or split
    usual = None if chosen is None else chosen.tokenizer
    corpus = prepare(
        config.text,
        folder / CORPUS,
        tokenizer=base or config.tokenizer or usual or f"auto:{_characters_in(config)}",
        validation=config.val or None,
        validation_fraction=config.val_fraction,
        split=split,
        reading=config.reading,
        progress=progress,
    )
    for note in corpus.notes:
        progress.note(note)
    return corpus


def _check_reading(config: TrainConfig, corpus: Corpus) -> None:
    """ConfigError where a run asks for another reading of the text than a prepared folder was made with."""
    for name, asked in config.reading.to_dict().items():
        usual = getattr(READING, name)
        made = corpus.manifest["settings"].get(name, usual)
        if asked not in (usual, made):
            flag = f"--{name}" if asked is True else f"--{name} {asked}"
            raise ConfigError(
                f"{flag}: {corpus.folder} was prepared without it; prepare the text again with it, or "
                "leave it out"
            )


def _check_split(config: TrainConfig, corpus: Corpus) -> None:
    """ConfigError where a run asks for another held-out part than a prepared folder has."""
    asked = {"pieces": "strata"}.get(config.split, config.split)
    fraction = corpus.manifest["settings"]["validation_fraction"]
    if config.val:
        wrong = f"--val {' '.join(config.val)}"
    elif asked not in ("auto", corpus.design):
        wrong = f"--split {config.split}"
    elif config.val_fraction not in (TrainConfig().val_fraction, fraction):
        wrong = f"--val-fraction {config.val_fraction}"
    else:
        return
    raise ConfigError(
        f"{wrong}: the held-out part of {corpus.folder} was chosen when it was prepared; prepare the text "
        "again with this option, or leave it out"
    )


def _characters_in(config: TrainConfig) -> int:
    """About as many characters as the run has time for: a vocabulary for more would never be learnt."""
    if config.seconds is None:
        return sys.maxsize
    return int(config.seconds * (3e6 if choose_device(config.device).type == "cuda" else 25e3))


def _compiled(model: GPT, plan: Plan, progress: Progress) -> Callable[[Tensor], Tensor]:
    """model.hidden through torch.compile; as it is, with a line that says so, where that fails."""
    try:
        compiled = torch.compile(model.hidden)
        with torch.no_grad():
            compiled(
                torch.zeros(
                    plan.micro_batch, plan.model.context_length, dtype=torch.int64, device=model.device
                )
            )
        return compiled
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        progress.note(
            f"torch.compile does not work here, training without it ({type(error).__name__}: {reason})"
        )
        return model.hidden


def _check_room(folder: Path, plan: Plan) -> None:
    """RunError if the disk cannot hold the best weights and the checkpoints that a save has at one time.

    And if the process may not write files that are so large.
    """
    weights = 4 * plan.model.n_parameters
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


def _write_environment(folder: Path, config: TrainConfig, corpus: Corpus, notes: list[str]) -> None:
    """env.json: where and with what the run was made."""
    from lucidlm import __version__

    environment = {
        "lucidlm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "choices": notes,
        "seed": config.seed,
        "text_sha256": {name: entry["sha256"] for name, entry in corpus.manifest["files"].items()},
        "tokenizer_sha256": corpus.tokenizer.fingerprint(),
    }
    write_atomically(folder / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
