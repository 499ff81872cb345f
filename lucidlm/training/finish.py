"""A training that has ended comes in; its last weights, its numbers, its model card and its page go out.

Each part that cannot be written costs only itself, and says how to get it.
"""

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lucidlm.errors import RunError
from lucidlm.measure.evaluated import Evaluation
from lucidlm.model.gpt import GPT
from lucidlm.report.assessment import Assessment, Background, Effort, HeldOut, assess
from lucidlm.report.card import write_card
from lucidlm.report.course import course_of
from lucidlm.report.run_page import REPORT, write_report
from lucidlm.report.verdict import course_sentences
from lucidlm.runs.history import Final, Level, Validation, read_history
from lucidlm.runs.lineage import held_out_seen_by
from lucidlm.runtime.memory import is_out_of_memory
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.run_out import with_way_out
from lucidlm.runtime.signals import Interrupted, released
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural
from lucidlm.training.plan import baseline_bytes
from lucidlm.training.saving import save
from lucidlm.training.setup import ENVIRONMENT
from lucidlm.training.state import TrainingRun, model_with
from lucidlm.training.validation import design_of, fraction_of, sample_of
from lucidlm.weights.huggingface import load_model

LEAST_CONTENDED_BYTES = 50_000
"""Training text that the baselines get, however contended the CPU is: with less they say nothing."""


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


def finish(
    run: TrainingRun,
    *,
    interrupted: int = 0,
    progress: Progress = SILENT,
    answer: Callable[[TrainResult], None] | None = None,
) -> TrainResult:
    """The result of a training, whose last weights, model card and report are written.

    A signal ends the evaluation too; --resume makes it then. `answer` gets the result before card and report
    are written. Of several processes only the first goes on after the last save.
    """
    for note in save(run, now=True):
        progress.note(note)
    run.world.leave()
    if not run.world.first:
        return TrainResult(run.folder, run.step, run.best, None, "", run.pace.elapsed_s, interrupted)
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
    """What is not known of a run that is saved, and how to get it."""
    return (
        f"the run is not evaluated: {with_way_out(error)}; "
        f"then lucidlm train --resume --out {run.folder} evaluates it"
    )


def _ended(
    run: TrainingRun, assessment: Assessment | None, *, interrupted: int, problems: tuple[str, ...]
) -> TrainResult:
    """The result, after the last line of metrics.jsonl."""
    end: dict[str, Any] = {"step": run.step, "interrupted": interrupted, "time_s": run.pace.elapsed_s}
    if assessment is not None:
        end["final"] = asdict(_final(assessment.evaluation))
        end["baselines"] = [asdict(each) for each in _levels(assessment)]
    run.metrics.event("end", end)
    return TrainResult(
        run=run.folder,
        step=run.step,
        best=run.best,
        assessment=assessment,
        verdict=assessment.verdict if assessment else course_sentences(course_of(read_history(run.folder))),
        time_s=run.pace.elapsed_s,
        interrupted=interrupted,
        problems=problems,
    )


def _levels(assessment: Assessment) -> list[Level]:
    rows = assessment.baselines.rows if assessment.baselines is not None else ()
    return [Level(name=row.name, bits_per_byte=row.bits_per_byte) for row in rows]


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


def _assess_best(run: TrainingRun, progress: Progress) -> Assessment:
    """The best weights, read back, on the validation text: all of it if there is time for that."""
    model, corpus = _best_model(run), run.corpus
    tokens = run.pace.tokens_to_evaluate()
    history = read_history(run.folder)
    effort, share = Effort(baseline_bytes(run.config)), run.pace.effort()
    if share < 1:
        fewer = max(LEAST_CONTENDED_BYTES, int(effort.baseline_bytes * share))
        progress.note(
            f"CPU is contended ({share:.0%} of a core is left): baselines get at most {fewer:,} bytes of "
            f"text instead of {effort.baseline_bytes:,}, and less text is generated; "
            f"lucidlm evaluate {run.folder} takes its time"
        )
        effort = Effort(fewer, share)
    text = HeldOut(
        sample_of(corpus, tokens=tokens),
        design_of(corpus, sampled=tokens < corpus.validation_tokens),
        fraction_of(corpus, tokens=tokens),
        sample_of=corpus.heldout_tokens,
    )
    history = replace(history, kept=run.kept or history.kept)
    background = Background(corpus, history, started_from=run.config.from_)
    result = assess(model, corpus.tokenizer, text, background, effort=effort, progress=progress)
    return replace(result, seen=held_out_seen_by(str(run.folder), run.folder))


def _best_model(run: TrainingRun) -> GPT:
    """The best weights, as they were saved; where that failed, as they are in memory."""
    if run.best_state is None:
        return load_model(run.folder, device=str(run.device))
    return model_with(run.model, run.best_state, run.device)


def _write_pages(run: TrainingRun, assessment: Assessment) -> tuple[str, ...]:
    """Writes model card and report; a line for each that cannot be written."""
    problems = []
    for name, write in (("README.md", _write_card), (REPORT, _write_report)):
        try:
            write(run, assessment)
        except OSError as error:
            problems.append(
                f"{run.folder / name} could not be written: {with_way_out(error)}; nothing else is missing, "
                f"and lucidlm train --resume --out {run.folder} evaluates the run again and writes it"
            )
    return tuple(problems)


def _write_card(run: TrainingRun, assessment: Assessment) -> None:
    write_card(run.trained(), assessment)


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
    """What env.json says, for the page; the reason where it cannot be read."""
    try:
        values = read_small_json(path, RunError)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return values
    except (OSError, ValueError, RunError) as error:
        return {ENVIRONMENT: f"cannot be read: {error}"}
