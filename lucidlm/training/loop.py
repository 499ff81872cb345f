"""The training function: train_steps yields a report a step and writes the run as it goes; train runs it."""

import contextlib
import html
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lucidlm.errors import RunError
from lucidlm.measure.evaluated import Evaluation
from lucidlm.model.gpt import GPT
from lucidlm.report.assessment import Assessment, Background, Effort, HeldOut, assess
from lucidlm.report.card import write_card
from lucidlm.report.course import course_of
from lucidlm.report.run_page import REPORT, write_report
from lucidlm.report.verdict import course_sentences
from lucidlm.runs.history import Final, Step, Validation, read_history
from lucidlm.runs.lineage import held_out_seen_by
from lucidlm.runs.run_toml import write_settings
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.device import synchronise
from lucidlm.runtime.memory import is_out_of_memory, memory_left
from lucidlm.runtime.probes import core_share
from lucidlm.runtime.process import set_threads
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.run_out import with_way_out
from lucidlm.runtime.signals import Interrupted, doing, ending, held, released
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural
from lucidlm.training.plan import baseline_bytes
from lucidlm.training.prediction import predict
from lucidlm.training.saving import checkpoint_due, save
from lucidlm.training.schedule import learning_rate_factor, moved, shortened
from lucidlm.training.setup import ENVIRONMENT, has_passed_its_best, resume_run, start_run
from lucidlm.training.state import TrainingRun
from lucidlm.training.step import train_step
from lucidlm.training.validation import design_of, fraction_of, sample_of, validate, write_sample
from lucidlm.weights.huggingface import load_model
from lucidlm.weights.whole import SETTINGS

QUIET = 0.8
"""A thread that gets less of a core than this shares it with other programs."""
LEAST_CONTENDED_BYTES = 50_000
"""So much training text the baselines get, whatever else runs."""
STALLED = 1.5
"""Several threads that take so many times as long as one stand in each other's way."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one step did, and what was done after it."""

    step: Step
    steps: int
    """Steps in all, as planned now."""
    time_left_s: float
    validation: Validation | None = None
    sample: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished or interrupted training left behind."""

    run: Path
    step: int
    best: Validation | None
    assessment: Assessment | None
    """The best weights on the validation text, beside its baselines; None if the run was interrupted."""
    verdict: str
    time_s: float
    interrupted: int = 0
    """The signal that ended it, 0 for none: the run goes on from its checkpoint with --resume."""
    problems: tuple[str, ...] = ()
    """What could not be written, with the reason: the last checkpoint, the report, the model card."""

    @property
    def evaluation(self) -> Evaluation | None:
        """The best weights on the validation text."""
        return self.assessment.evaluation if self.assessment else None

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, the numbers and the baselines as tables."""
        return self.assessment._repr_html_() if self.assessment else f"<p>{html.escape(self.verdict)}</p>"


def train(
    config: TrainConfig,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
    watch: Callable[[Report], None] | None = None,
    answer: Callable[[TrainResult], None] | None = None,
) -> TrainResult:
    """Trains to the end of the plan and returns where the run is and how good it became.

    With `plan`, exactly that is done, whatever the clock says. With `resume`, config.out names the run and
    all else comes from its run.toml. SIGINT, SIGTERM and SIGHUP end the run after the step under way, with a
    checkpoint; before the first step there is nothing to save, and Interrupted is raised. `watch`
    gets every step's report, `answer` the result
    before the report is written, so that nothing that goes wrong from there on can lose it. Raises a
    LucidError that says what to change.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending())
        if resume:
            again = f"before it went on: lucidlm train --resume --out {config.out} begins again where it was"
            with doing(again):
                run = resume_run(config, stack, progress)
        else:
            with doing("before the first step, nothing was trained: run the same command again"):
                run = start_run(config, plan, stack, progress, overwrite=overwrite)
        with held() as signalled, _telling_of_memory(run):
            for report in train_steps(run, stop=lambda: bool(signalled.number)):
                if watch is not None:
                    watch(report)
            return finish(run, interrupted=signalled.number, progress=progress, answer=answer)


@contextlib.contextmanager
def _telling_of_memory(run: TrainingRun) -> Generator[None]:
    """Where memory runs out, RunError says what stands and how to go on.

    Nothing is saved then: the step under way may have changed some of the weights and not the others.
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
    if run.validation_pending and not stop():
        yield _validated(run, _report(run, None))
    while run.unfinished and not stop():
        report = _one_step(run)
        if _validation_due(run):
            run.validation_pending = True
            if not stop():  # else a resumed run begins with it
                report = _validated(run, report)
        for note in (_leave_stalled_threads(run), _keep_to_the_minutes(run)):
            if note:
                report = replace(report, steps=run.plan.steps, notes=(*report.notes, note))
        if checkpoint_due(run) or stop():
            report = replace(report, notes=(*report.notes, *save(run)))
        yield report


def finish(
    run: TrainingRun,
    *,
    interrupted: int = 0,
    progress: Progress = SILENT,
    answer: Callable[[TrainResult], None] | None = None,
) -> TrainResult:
    """Writes the last weights, judges the best, tells the result, writes model card and report.

    A signal ends the judging too; --resume judges then. What cannot be written is said, and is among the
    result's problems.
    """
    for note in save(run):
        progress.note(note)
    problems = () if run.unsaved is None else (_unsaved(run),)
    assessment = None
    if not interrupted and not run.validation_pending:
        try:
            with released():
                assessment = _assess_best(run, progress)
        except Interrupted as signalled:
            interrupted = signalled.number
        except Exception as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            problems += (_unjudged(run, error),)
    result = _ended(run, assessment, interrupted=interrupted, problems=problems)
    if assessment is None:
        for problem in problems:
            progress.note(problem)
        return result
    if answer is not None:
        answer(result)
    try:
        with released():
            pages = _write_pages(run, assessment)
    except Interrupted as signalled:
        pages, result = (), replace(result, interrupted=signalled.number)
    result = replace(result, problems=(*problems, *pages))
    for problem in result.problems:
        progress.note(problem)
    return result


def _unsaved(run: TrainingRun) -> str:
    """What is lost with a last save that failed, and how to go on."""
    return (
        f"the weights of step {run.step:,} are lost: {run.unsaved}; then "
        f"lucidlm train --resume --out {run.folder} goes on from step {run.saved[0]:,}"
    )


def _unjudged(run: TrainingRun, error: Exception) -> str:
    """What is not known of a run that is saved, and how to come to know it."""
    return (
        f"the run is not judged: {with_way_out(error)}; "
        f"then lucidlm train --resume --out {run.folder} judges it"
    )


def _ended(
    run: TrainingRun, assessment: Assessment | None, *, interrupted: int, problems: tuple[str, ...]
) -> TrainResult:
    """The end as metrics.jsonl has it, and the result."""
    end = {"step": run.step, "interrupted": interrupted, "time_s": run.clock.elapsed_s}
    run.metrics.event("end", end | ({"final": asdict(_final(assessment.evaluation))} if assessment else {}))
    return TrainResult(
        run=run.folder,
        step=run.step,
        best=run.best,
        assessment=assessment,
        verdict=assessment.verdict if assessment else course_sentences(course_of(read_history(run.folder))),
        time_s=run.clock.elapsed_s,
        interrupted=interrupted,
        problems=problems,
    )


def _write_pages(run: TrainingRun, assessment: Assessment) -> tuple[str, ...]:
    """Model card and report; a line for each that cannot be written."""
    problems = []
    for name, write in (("README.md", _write_card), (REPORT, _write_report)):
        try:
            write(run, assessment)
        except OSError as error:
            problems.append(
                f"{run.folder / name} could not be written: {with_way_out(error)}; the run is whole without "
                f"it, and lucidlm train --resume --out {run.folder} judges it again and writes it"
            )
    return tuple(problems)


def _write_card(run: TrainingRun, assessment: Assessment) -> None:
    write_card(run.trained(), assessment)


def _final(evaluation: Evaluation) -> Final:
    interval = evaluation.bits_interval
    return Final(
        loss_nats=evaluation.loss_nats,
        perplexity=evaluation.perplexity,
        bits_per_byte=evaluation.bits_per_byte,
        bits_low=interval.low if interval else None,
        bits_high=interval.high if interval else None,
        tokens=evaluation.tokens_scored,
        heldout_tokens=evaluation.sample_of or evaluation.tokens_scored,
    )


def _one_step(run: TrainingRun) -> Report:
    """The next optimizer step, counted and written down."""
    started = time.perf_counter()
    plan, step = run.plan, run.step
    if torch.get_num_threads() != plan.threads_at(step):
        set_threads(plan.threads_at(step), recorded=True)
    result = train_step(
        run.model,
        run.optimizers,
        run.windows.batch_at(seed=run.config.seed, step=step, batch_size=plan.batch_size),
        plan=plan,
        seed=run.config.seed,
        step=step,
        hidden=run.hidden,
    )
    synchronise(run.model.device)
    seconds = time.perf_counter() - started
    tokens_per_s = result.tokens / seconds
    run.last_seconds = [*run.last_seconds[-2:], seconds]
    run.step, run.tokens = step + 1, run.tokens + result.tokens
    flops_per_s = plan.model.flops_per_token() * tokens_per_s
    # No model is faster than the peak: if this one is, the probe of the peak was disturbed.
    run.peak_flops_per_s = max(run.peak_flops_per_s, flops_per_s)
    line = Step(
        step=run.step,
        epoch=run.windows.epoch_at(run.step, plan.batch_size),
        tokens=run.tokens,
        loss_nats=result.loss_nats,
        learning_rate_factor=learning_rate_factor(plan.schedule, step),
        grad_norm=result.grad_norm,
        tokens_per_s=tokens_per_s,
        mfu=flops_per_s / run.peak_flops_per_s,
        time_s=run.clock.elapsed_s,
    )
    run.metrics.step(line)
    run.clock.count(run.step)
    return _report(run, line)


def _report(run: TrainingRun, line: Step | None) -> Report:
    """What is told of a step; `line` None where none was done, as before the first."""
    left = (run.plan.steps - run.step) * run.clock.seconds_per_step
    if line is None:
        epoch = run.windows.epoch_at(run.step, run.plan.batch_size)
        line = Step(
            step=run.step, epoch=epoch, tokens=run.tokens, loss_nats=float("nan"), learning_rate_factor=0.0,
            grad_norm=0.0, tokens_per_s=0.0, mfu=None, time_s=run.clock.elapsed_s,
        )  # fmt: skip
    return Report(line, run.plan.steps, left)


def _validation_due(run: TrainingRun) -> bool:
    """After every validate_every steps and after the last; one shortly before the last would tell nothing."""
    every, left = run.plan.validate_every, run.plan.steps - run.step
    return left == 0 or (run.step % every == 0 and 2 * left >= every)


def _validated(run: TrainingRun, report: Report) -> Report:
    """The report with the losses after its step; better weights than all before are kept in memory.

    A signal ends it: it changes no weight, so that a resumed run can begin with it.
    """
    began = time.perf_counter()
    try:
        with released():
            validation = validate(
                run.model,
                run.corpus.tokenizer,
                run.samples,
                step=run.step,
                epoch=report.step.epoch,
                time_s=run.clock.elapsed_s,
            )
            evaluated = validation.validation_tokens + validation.training_tokens
            run.evaluated_per_s = evaluated / max(1e-9, time.perf_counter() - began)
            sample = write_sample(run.model, run.corpus.tokenizer, run.samples, step=run.step)
    except Interrupted:
        return report
    validation = replace(validation, heldout_tokens=run.corpus.heldout_tokens)
    run.metrics.validation(validation)
    run.metrics.sample(sample)
    run.validations.append(validation)
    run.validation_pending = False
    if run.is_best(validation):
        run.kept = validation
        run.best_state = {
            name: tensor.detach().cpu().clone() for name, tensor in run.model.state_dict().items()
        }
    if run.best is not None and has_passed_its_best(run):
        run.stopped_early = True
        note = f"stopped: the validation loss has passed its best, of step {run.best.step:,}, for good"
        report = replace(report, notes=(*report.notes, note))
    return replace(report, validation=validation, sample=sample["prompt"] + sample["text"])


def _leave_stalled_threads(run: TrainingRun) -> str | None:
    """Goes on with one thread where several have become much slower: another program holds a processor.

    Threads that wait for each other after every product then lose all that they gain, and more: a step of a
    quarter of a second can take eight. Like a moved last step it stands in run.toml before it takes effect.
    """
    plan = run.plan
    several = plan.threads_at(run.step) > 1
    if run.clock.deadline_s is None or run.alone_s is None or not several or len(run.last_seconds) < 3:
        return None
    if sorted(run.last_seconds)[1] < STALLED * run.alone_s or not run.unfinished:
        return None
    run.plan = replace(plan, threads_from=(*plan.threads_from, (run.step, 1)))
    write_settings(run.folder, run.config, run.plan, id=run.id)
    run.metrics.event("plan", {"step": run.step, "threads": 1})
    run.clock.start_anew(run.step)
    return f"other programs hold a processor: one thread from step {run.step:,} on; run.toml has it"


def _keep_to_the_minutes(run: TrainingRun) -> str | None:
    """Moves the plan's last step so that the run ends in time: where the decay begins, later only if it must.

    What changes is written to run.toml before it takes effect, so that repeating and resuming need no clock.
    """
    clock, plan = run.clock, run.plan
    if clock.deadline_s is None or not clock.seconds_per_step or not run.unfinished:
        return None
    possible = run.step + int(clock.left_s(reserve_s=run.reserve_s) / clock.seconds_per_step)
    # A constant rate has no decay to bring forward: then a third of the run is as good a place to look.
    decays, decay_from = plan.decays, plan.decay_from
    planned_look = not clock.looked and run.step >= decay_from
    if not planned_look and not _far_behind(run, possible, share_of_time=clock.elapsed_s / clock.deadline_s):
        return None
    clock.looked = clock.looked or planned_look
    steps = max(run.step + 1, min(possible, run.most_steps))
    if abs(steps - plan.steps) <= plan.steps // 50:
        return None
    if not decays:
        schedule = plan.schedule
    elif run.step >= decay_from:
        schedule = shortened(plan.schedule, step=run.step, steps=steps)
    else:
        down = max(run.step, decay_from * steps // plan.steps)
        schedule = moved(plan.schedule, down=down, steps=steps)
    run.plan = replace(plan, steps=steps, schedule=schedule)
    write_settings(run.folder, run.config, run.plan, id=run.id)
    run.metrics.event("plan", {"step": run.step, "steps": steps, "schedule": schedule})
    speed = "slower" if steps < plan.steps else "faster"
    predicted = predict(run.text, run.plan) if run.text else None
    renewed = f"; predicted now: {predicted}" if predicted else ""
    return (
        f"the machine is {speed} than the plan: {plural(steps, 'step')} instead of {plan.steps:,} "
        "(saved in run.toml)"
        f"{renewed}"
    )


def _far_behind(run: TrainingRun, possible: int, *, share_of_time: float) -> bool:
    """Whether the run would end too late: by much while there is time to catch up, by little near the end."""
    if share_of_time < 0.15:
        return False  # too few steps to tell
    return possible < run.plan.steps * (0.7 if share_of_time < 0.8 else 0.97)


def _assess_best(run: TrainingRun, progress: Progress) -> Assessment:
    """The best weights, read back, on the validation text: all of it if there is time for that.

    With minutes to keep to, baselines and memorization get as much less as other programs leave of a core.
    """
    model = _best_model(run)
    total = run.corpus.validation_tokens
    tokens = run.final_tokens
    if run.clock.deadline_s is not None and run.evaluated_per_s:
        # However slow the machine has become, this must not take more than a fiftieth over the time.
        seconds = max(run.clock.left_s(reserve_s=run.judging_s), run.clock.deadline_s / 50)
        tokens = min(tokens, max(1024, int(seconds * run.evaluated_per_s)))
    history = read_history(run.folder)
    effort = Effort(baseline_bytes(run.config))
    if run.clock.deadline_s is not None and (share := min(core_share(), run.clock.core_share)) < QUIET:
        fewer = max(LEAST_CONTENDED_BYTES, int(effort.baseline_bytes * share))
        progress.note(
            f"CPU is contended ({share:.0%} of a core is left): baselines of {fewer:,} bytes "
            f"of text at most, instead of {effort.baseline_bytes:,}, and less generated text; "
            f"lucidlm evaluate {run.folder} does not hurry"
        )
        effort = Effort(fewer, share)
    text = HeldOut(
        sample_of(run.corpus, tokens=tokens),
        design_of(run.corpus, sampled=tokens < total),
        fraction_of(run.corpus, tokens=tokens),
        sample_of=run.corpus.heldout_tokens,
    )
    background = Background(
        run.corpus, replace(history, kept=run.kept or history.kept), started_from=run.config.from_
    )
    result = assess(model, run.corpus.tokenizer, text, background, effort=effort, progress=progress)
    return replace(result, seen=held_out_seen_by(str(run.folder), run.folder))


def _best_model(run: TrainingRun) -> GPT:
    """The best weights, as they were saved; where that failed, as they are in memory."""
    if run.best_state is None:
        return load_model(run.folder, device=str(run.model.device))
    model = GPT.empty(run.model.config)
    model.load_state_dict(
        {name: tensor.to(run.model.device) for name, tensor in run.best_state.items()}, assign=True
    )
    if run.model.config.tied_head:
        model.head.weight = model.token_embedding.weight
    return model.eval()


def _write_report(run: TrainingRun, assessment: Assessment) -> None:
    shape = run.plan.model
    write_report(
        run.folder / REPORT,
        assessment,
        title=run.folder.name,
        subtitle=f"{plural(shape.n_parameters, 'parameter')}, {plural(shape.n_layers, 'layer')}, "
        f"{shape.emb_dim} wide, context {shape.context_length:,}, tokenizer {run.corpus.tokenizer.name}; "
        f"{plural(run.step, 'step')} on {plural(run.corpus.train_tokens, 'token')} of text",
        run=run.folder,
        environment=_environment(run.folder / ENVIRONMENT),
    )


def _environment(path: Path) -> dict[str, Any]:
    """What env.json says for the page; where it cannot be read, that."""
    try:
        values = read_small_json(path, RunError)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return values
    except (OSError, ValueError, RunError) as error:
        return {ENVIRONMENT: f"cannot be read: {error}"}
