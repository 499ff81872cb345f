"""The training function: train_steps yields a report a step and writes the run as it goes; train runs it."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lucidlm.errors import RunError
from lucidlm.model.gpt import GPT
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.history import Step, Validation
from lucidlm.runs.run_toml import read_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import synchronise
from lucidlm.runtime.distributed import World, joined
from lucidlm.runtime.memory import is_out_of_memory, memory_left
from lucidlm.runtime.process import set_threads
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.ranks import EverywhereError, Layout, printed_once, this_rank
from lucidlm.runtime.signals import Interrupted, doing, ending, held, released
from lucidlm.training.finish import TrainResult, finish
from lucidlm.training.follow import follow_run
from lucidlm.training.resume import resume_run
from lucidlm.training.saving import checkpoint_due, save, written
from lucidlm.training.schedule import learning_rate_factor
from lucidlm.training.start import start_run
from lucidlm.training.state import Report, TrainingRun
from lucidlm.training.step import train_step
from lucidlm.training.tracking import Tracker, Trackers
from lucidlm.training.validation import validate, write_sample
from lucidlm.weights.whole import SETTINGS


def train(
    config: TrainConfig,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    progress: Progress = SILENT,
    watch: Tracker | None = None,
    answer: Callable[[TrainResult], None] | None = None,
    layout: Layout | None = None,
) -> TrainResult:
    """Where the run is and how good it became, after training to the end of the plan.

    With `plan`, exactly that is done, whatever the clock says. With `resume`, config.out names the run and
    everything else comes from its run.toml. `verbose` notes the details of the plan. `watch` gets the report
    of each step. `answer` gets the result before the report is written, so that no later failure can lose it.

    Nothing is shown while it runs, in a notebook too, unless `progress` and `watch` are given:

        with lucidlm.display.Display() as display:
            train(config, progress=display, watch=display.watch)

    Under torchrun all processes train one run, shared as `layout` says; the first writes it, speaks, and gets
    the whole result. Where torchrun starts them again, the run goes on by itself.

    SIGINT, SIGTERM and SIGHUP end the run after the current step, with a checkpoint; before the first step
    there is nothing to save, and Interrupted is raised. Raises a LucidError that says what to change.
    """
    rank = this_rank()
    if rank.launched and config.out is None:
        raise EverywhereError(
            "--out is needed under torchrun, so that a restart of its processes finds the run; give --out RUN"
        )
    resume = resume or (rank.restarts > 0 and _has_begun(config))
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending())
        with printed_once():
            device = _device_of(config, resume=resume)
        world = stack.enter_context(joined(layout or Layout(), device=device))
        if not world.first:
            progress, watch, answer = SILENT, None, None
        if resume:
            again = f"before it went on: lucidlm train --resume --out {config.out} begins again where it was"
            begin = lambda: resume_run(config.out, stack, progress, world=world)  # noqa: E731
        else:
            again = "before the first step, nothing was trained: run the same command again"
            begin = lambda: start_run(  # noqa: E731
                config, stack, progress, plan=plan, overwrite=overwrite, verbose=verbose, world=world
            )
        with doing(again):
            run = begin_together(world, begin, progress)
        stack.callback(written, run, wait=True)  # no save outlives the lock of its folder
        with held() as signalled, _out_of_memory(run):
            trackers: list[Tracker] = [] if watch is None else [watch]
            if world.first:
                trackers.insert(0, Trackers(run, stack, progress))
            with world.said_once(), world.noticing_losses():
                for report in train_steps(run, stop=lambda: bool(signalled.number)):
                    for tracker in trackers:
                        tracker(report)
            return finish(run, interrupted=signalled.number, progress=progress, answer=answer)


def _has_begun(config: TrainConfig) -> bool:
    """Whether the run of a request has begun, before torchrun started its processes again."""
    folder = Path(config.out or "")
    return (folder / SETTINGS).exists() and bool(checkpoint_folders(folder))


def _device_of(config: TrainConfig, *, resume: bool) -> str:
    """The device of a request, or of the run that is resumed, as far as that can be read."""
    if resume and config.out and (Path(config.out) / SETTINGS).exists():
        return read_settings(Path(config.out))[0].device
    return config.device


def begin_together(world: World, begin: Callable[[], TrainingRun], progress: Progress) -> TrainingRun:
    """The run, which the first process begins and the others follow; all of them have it, or none."""
    with world.said_once(), world.noticing_losses():
        run = begin() if world.first else follow_run(world, progress)
        world.told(lambda: True)
    return run


@contextlib.contextmanager
def _out_of_memory(run: TrainingRun) -> Generator[None]:
    """RunError where memory runs out, with what remains and how to go on.

    Nothing is saved then: the current step may have changed some of the weights and not the others.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        less = ""
        if run.plan.micro_batch > 1:
            less = (
                ", or start over with smaller batches: "
                f"lucidlm train --config {run.folder / SETTINGS} --micro-batch 1 --out NEW"
            )
        raise RunError(
            f"out of memory{memory_left()} after step {run.step:,}; the checkpoint of step {run.saved[0]:,} "
            f"remains: make memory free, then lucidlm train --resume --out {run.folder} goes on from "
            f"it{less}"
        ) from error


def train_steps(run: TrainingRun, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
    """Steps of a started or resumed run, from where it is to the end of its plan; a report after each.

    Validations, samples and checkpoints are written on the way. Ends early when `stop` says so or when the
    validation loss has passed its best for good.
    """
    stopping = lambda: run.world.any(stop())  # noqa: E731
    if run.validation_pending and not stopping():
        yield _validated(run, Report(_no_step(run), run.plan.steps, _time_left_s(run)))
    while run.unfinished and not stopping():
        report = _one_step(run)
        if _validation_due(run):
            run.validation_pending = True
            if not stopping():  # else a resumed run begins with it
                report = _validated(run, report)
        change = run.pace.change(run.plan, run.step) if run.unfinished else None
        if run.world.first_says(change is not None):  # only its clock counts
            run.change(change)
            notes = () if change is None else (change.note,)
            report = replace(report, steps=run.plan.steps, notes=(*report.notes, *notes))
        if notes := written(run):
            report = replace(report, notes=(*report.notes, *notes))
        if run.world.first_says(checkpoint_due(run)) or stopping():
            report = replace(report, notes=(*report.notes, *save(run)))
        yield report


def _one_step(run: TrainingRun) -> Report:
    """The next optimizer step, counted and written down."""
    started = time.perf_counter()
    plan, step = run.plan, run.step
    if torch.get_num_threads() != plan.threads_at(step):
        set_threads(plan.threads_at(step), recorded=True)
    batch = run.windows.batch_at(
        seed=run.config.seed, step=step, batch_size=plan.batch_size, rows=run.world.rows(plan.batch_size)
    )
    result = train_step(
        run.model,
        run.optimizers,
        batch,
        gradient=run.gradient,
        plan=plan,
        seed=run.config.seed,
        step=step,
    )
    synchronise(run.device)
    seconds = time.perf_counter() - started
    run.step, run.tokens = step + 1, run.tokens + result.tokens
    flops_per_s = plan.model.flops_per_token() * result.tokens / seconds
    # No model is faster than the peak: if this one is, the probe of the peak was disturbed.
    run.peak_flops_per_s = max(run.peak_flops_per_s, flops_per_s)
    line = replace(
        _no_step(run),
        loss_nats=result.loss_nats,
        learning_rate_factor=learning_rate_factor(plan.schedule, step),
        grad_norm=result.grad_norm,
        tokens_per_s=result.tokens / seconds,
        mfu=flops_per_s / run.peak_flops_per_s,
    )
    run.metrics.event("step", asdict(line))
    run.pace.count(run.step)
    return Report(line, plan.steps, _time_left_s(run))


def _no_step(run: TrainingRun) -> Step:
    """Where the run is, without the numbers of a step: as before the first."""
    return Step(
        step=run.step,
        epoch=run.windows.epoch_at(run.step, run.plan.batch_size),
        tokens=run.tokens,
        loss_nats=float("nan"),
        learning_rate_factor=0.0,
        grad_norm=0.0,
        tokens_per_s=0.0,
        mfu=None,
        time_s=run.pace.elapsed_s,
    )


def _time_left_s(run: TrainingRun) -> float:
    return (run.plan.steps - run.step) * run.pace.seconds_per_step


def _validation_due(run: TrainingRun) -> bool:
    """After each validate_every steps, but not shortly before the last; and after the last."""
    every, left = run.plan.validate_every, run.plan.steps - run.step
    return left == 0 or (run.step % every == 0 and 2 * left >= every)


def _validated(run: TrainingRun, report: Report) -> Report:
    """The report with the losses after its step; the lowest so far keep their weights in memory.

    A signal ends it: it changes no weight, so that a resumed run can begin with it.
    """
    model = run.whole_model()
    measured = run.world.told(lambda: _measured(run, model, report))
    if measured is None:
        return report
    validation, sample = Validation(**measured["validation"]), measured["sample"]
    run.metrics.event("validation", asdict(validation))
    run.metrics.sample(sample)
    run.validations.append(validation)
    run.validation_pending = False
    if run.is_best(validation):
        run.keep_weights(validation)
    if run.best is not None and run.has_passed_its_best:
        run.stopped_early = True
        note = f"stopped: the validation loss has passed its best, of step {run.best.step:,}, for good"
        report = replace(report, notes=(*report.notes, note))
    return replace(report, validation=validation, sample=sample["prompt"] + sample["text"])


def _measured(run: TrainingRun, model: GPT | None, report: Report) -> dict[str, Any] | None:
    """The losses of this step and a text that its weights write; None where a signal ended that."""
    assert model is not None, "the first process has it"
    began = time.perf_counter()
    tokenizer = run.corpus.tokenizer
    try:
        with released():
            validation = validate(
                model,
                tokenizer,
                run.samples,
                step=run.step,
                epoch=report.step.epoch,
                time_s=run.pace.elapsed_s,
            )
            evaluated = validation.validation_tokens + validation.training_tokens
            run.pace.evaluated_per_s = evaluated / max(1e-9, time.perf_counter() - began)
            sample = write_sample(model, tokenizer, run.samples, step=run.step)
    except Interrupted:
        return None
    validation = replace(validation, heldout_tokens=run.corpus.heldout_tokens)
    return {"validation": asdict(validation), "sample": sample}
