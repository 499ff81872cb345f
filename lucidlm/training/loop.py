"""The training function: train_steps yields a report a step and writes the run as it goes; train runs it."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lucidlm.measure.evaluation import Evaluation
from lucidlm.measure.history import Final, Step, Validation, read_history
from lucidlm.measure.judgement import Judgement, Stages, judge
from lucidlm.measure.report import REPORT, write_report
from lucidlm.measure.verdict import course_of
from lucidlm.runtime.device import set_threads, synchronise
from lucidlm.runtime.wording import plural
from lucidlm.training.card import write_card
from lucidlm.training.config import Plan, TrainConfig, learning_rate_factor, shortened
from lucidlm.training.lineage import held_out_seen_by
from lucidlm.training.optim import optimizer_tensors
from lucidlm.training.plan import baseline_bytes
from lucidlm.training.prediction import predict
from lucidlm.training.runs import save_checkpoint, write_settings
from lucidlm.training.setup import ENVIRONMENT, TrainingRun, has_passed_its_best, resume_run, start_run
from lucidlm.training.step import train_step
from lucidlm.training.validation import design_of, fraction_of, sample_of, validate, write_sample
from lucidlm.weights.huggingface import load_model, save_model

SAVING_SHARE = 0.05
"""Checkpoints take at most this share of the time."""


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
    judgement: Judgement | None
    """The best weights on the validation text, beside its baselines; None if the run was interrupted."""
    verdict: str
    time_s: float
    interrupted: int = 0
    """The signal that ended it, 0 for none: the run goes on from its checkpoint with --resume."""

    @property
    def evaluation(self) -> Evaluation | None:
        """The best weights on the validation text."""
        return self.judgement.evaluation if self.judgement else None


def train(
    config: TrainConfig,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    watch: Callable[[Report], None] | None = None,
    stages: Stages | None = None,
) -> TrainResult:
    """Trains to the end of the plan and returns where the run is and how good it became.

    With `plan`, exactly that is done, whatever the clock says. With `resume`, config.out names the run and
    all else comes from its run.toml. SIGINT and SIGTERM end the run after the step under way, with a
    checkpoint. `say` gets lines for a person, `watch` every step's report, `stages` how far the judging at
    the end is. Raises a LucidError that says what to change.
    """
    say = say or (lambda line: None)
    with contextlib.ExitStack() as stack:
        run = (
            resume_run(config, stack, say)
            if resume
            else start_run(config, plan, stack, say, overwrite=overwrite)
        )
        stop = stack.enter_context(_signals())
        for report in train_steps(run, stop=lambda: bool(stop.signal)):
            if watch is not None:
                watch(report)
        return finish(run, interrupted=stop.signal if run.unfinished else 0, stages=stages)


def train_steps(run: TrainingRun, *, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
    """Steps of a started or resumed run, from where it is to the end of its plan; a report after each.

    Validations, samples and checkpoints are written on the way. Ends early when `stop` says so or when the
    validation loss has passed its best for good.
    """
    if run.step == 0 and not run.validations:
        yield _validated(run, _report(run, None))
    while run.unfinished and not run.stopped_early:
        report = _one_step(run)
        if _validation_due(run):
            report = _validated(run, report)
        for note in (_leave_stalled_threads(run), _keep_to_the_minutes(run)):
            if note:
                report = replace(report, steps=run.plan.steps, notes=(*report.notes, note))
        stopping = stop()
        if stopping or _checkpoint_due(run):
            report = replace(report, notes=(*report.notes, *_checkpoint(run)))
        yield report
        if stopping:
            return


def finish(run: TrainingRun, *, interrupted: int = 0, stages: Stages | None = None) -> TrainResult:
    """Writes the best weights, judges them, writes the model card and the report, and says how it went."""
    judgement = None
    if not interrupted:
        _checkpoint(run)
        judgement = replace(_judge_best(run, stages), seen=held_out_seen_by(str(run.folder), run.folder))
        write_card(run, judgement)
        _write_report(run, judgement)
    end = {"step": run.step, "interrupted": interrupted, "time_s": run.clock.elapsed_s}
    run.metrics.event("end", end | ({"final": asdict(_final(judgement.evaluation))} if judgement else {}))
    run.metrics.close()
    history = read_history(run.folder)
    return TrainResult(
        run=run.folder,
        step=run.step,
        best=history.best,
        judgement=judgement,
        verdict=judgement.verdict if judgement else str(course_of(history)),
        time_s=run.clock.elapsed_s,
        interrupted=interrupted,
    )


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
        set_threads(plan.threads_at(step))
    result = train_step(
        run.model,
        run.optimizers,
        run.windows.batch_at(seed=run.config.seed, step=step, batch_size=plan.batch_size),
        micro_batch=plan.micro_batch,
        factor=learning_rate_factor(plan.schedule, step),
        clip=plan.optim.clip,
        dtype=run.dtype,
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
    left = (run.plan.steps - run.step) * run.clock.seconds_per_step
    if line is None:
        line = Step(
            step=run.step, epoch=0.0, tokens=0, loss_nats=float("nan"), learning_rate_factor=0.0,
            grad_norm=0.0, tokens_per_s=0.0, mfu=None, time_s=run.clock.elapsed_s,
        )  # fmt: skip
    return Report(line, run.plan.steps, left)


def _validation_due(run: TrainingRun) -> bool:
    """After every validate_every steps and after the last; one shortly before the last would tell nothing."""
    every, left = run.plan.validate_every, run.plan.steps - run.step
    return left == 0 or (run.step % every == 0 and 2 * left >= every)


def _validated(run: TrainingRun, report: Report) -> Report:
    """The report with the losses after its step; better weights than all before are kept in memory."""
    began = time.perf_counter()
    validation = validate(
        run.model,
        run.corpus.tokenizer,
        run.samples,
        step=run.step,
        epoch=report.step.epoch,
        time_s=run.clock.elapsed_s,
    )
    validation = replace(validation, heldout_tokens=run.corpus.heldout_tokens)
    evaluated = validation.validation_tokens + validation.training_tokens
    run.evaluated_per_s = evaluated / max(1e-9, time.perf_counter() - began)
    sample = write_sample(run.model, run.corpus.tokenizer, run.samples, step=run.step)
    run.metrics.validation(validation)
    run.metrics.sample(sample)
    best = min((earlier.validation_loss_nats for earlier in run.validations), default=float("inf"))
    run.validations.append(validation)
    if validation.validation_loss_nats < best:
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
    write_settings(run.folder, run.config, run.plan)
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
        schedule = (*plan.schedule[:-2], (down, 1.0), (steps, 0.0))
    run.plan = replace(plan, steps=steps, schedule=schedule)
    write_settings(run.folder, run.config, run.plan)
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


def _checkpoint_due(run: TrainingRun) -> bool:
    since = time.perf_counter() - run.saved_at
    return since >= max(run.config.checkpoint_seconds, run.saving_s / SAVING_SHARE)


def _checkpoint(run: TrainingRun) -> tuple[str, ...]:
    """Saves best and last. Where that fails midway the run goes on with what it has, and says so."""
    started = time.perf_counter()
    tokenizer, prefix = run.corpus.tokenizer, run.model.document_prefix_id
    try:
        if run.best_state is not None:
            save_model(run.model, tokenizer, run.folder, document_prefix_id=prefix, state=run.best_state)
            run.best_state = None
        save_checkpoint(
            run.folder,
            run.step,
            save_model=lambda folder: save_model(run.model, tokenizer, folder, document_prefix_id=prefix),
            optimizer=optimizer_tensors(run.model, run.optimizers),
            state={"tokens": run.tokens, "validations": [asdict(each) for each in run.validations]},
        )
    except OSError as error:
        if not run.unfinished:
            raise
        return (
            f"no checkpoint at step {run.step:,}: {error.strerror or error}; training goes on, make room",
        )
    finally:
        run.saved_at = time.perf_counter()
        run.saving_s = run.saved_at - started
    return ()


def _judge_best(run: TrainingRun, stages: Stages | None) -> Judgement:
    """The best weights, read back, on the validation text: all of it if there is time for that."""
    model = load_model(run.folder, device=str(run.model.device))
    total = run.corpus.validation_tokens
    tokens = run.final_tokens
    if run.clock.deadline_s is not None and run.evaluated_per_s:
        # However slow the machine has become, this must not take more than a fiftieth over the time.
        seconds = max(run.clock.left_s(reserve_s=run.judging_s), run.clock.deadline_s / 50)
        tokens = min(tokens, max(1024, int(seconds * run.evaluated_per_s)))
    return judge(
        model,
        run.corpus.tokenizer,
        sample_of(run.corpus, tokens=tokens),
        design=design_of(run.corpus, sampled=tokens < total),
        fraction=fraction_of(run.corpus, tokens=tokens),
        corpus=run.corpus,
        history=read_history(run.folder),
        sample_of=run.corpus.heldout_tokens,
        started_from=run.config.from_,
        limit_bytes=baseline_bytes(run.config.minutes),
        progress=stages,
    )


def _write_report(run: TrainingRun, judgement: Judgement) -> None:
    shape = run.plan.model
    write_report(
        run.folder / REPORT,
        judgement,
        title=run.folder.name,
        subtitle=f"{shape.n_parameters:,} parameters, {plural(shape.n_layers, 'layer')}, "
        f"{shape.emb_dim} wide, context {shape.context_length:,}, tokenizer {run.corpus.tokenizer.name}; "
        f"{plural(run.step, 'step')} on {run.corpus.train_tokens:,} tokens of text",
        run=run.folder,
        environment=json.loads((run.folder / ENVIRONMENT).read_text(encoding="utf-8")),
    )


@dataclass(slots=True)
class _Stop:
    """The signal that came, 0 before one did."""

    signal: int = 0


@contextlib.contextmanager
def _signals() -> Generator[_Stop]:
    """Inside, the first SIGINT or SIGTERM is kept for the loop to see; the second ends the process."""
    stop = _Stop()

    def note(number: int, frame: object) -> None:
        if stop.signal:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may listen to signals
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
