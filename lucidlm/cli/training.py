"""The verbs around a training: prepare, train, doctor."""

import sys
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import check_reading, refuse_models
from lucidlm.cli.options import DEFAULTS, HowToRead, app
from lucidlm.errors import LucidError
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.console import say, show, show_json
from lucidlm.runtime.ranks import EverywhereError, Layout, printed_once, speaks, this_rank
from lucidlm.runtime.wording import plural
from lucidlm.text.reading import READING

if TYPE_CHECKING:
    from lucidlm.runs.settings import Plan
    from lucidlm.training.finish import TrainResult

ONE_PROCESS = Layout()


@app.command
def prepare(
    *texts: str,
    out: str,
    tokenizer: str = "auto",
    val: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    val_fraction: float = 0.1,
    split: Literal["auto", "pieces", "documents", "end"] = "auto",
    workers: int = 0,
    reading: HowToRead = READING,
) -> None:
    """Write the tokens of texts to a folder that several runs can train on.

    Parameters
    ----------
    texts
        Files, folders, patterns, URLs or - for standard input.
    out
        The folder to write.
    tokenizer
        auto, gpt2, bytes, or bpe:N for N tokens learnt from the text.
    val
        Validation texts (default: a part of the texts is held out).
    val_fraction
        Part of the texts that is held out, without --val.
    split
        What is held out: pieces from all over the text, whole documents, or the end of each document
        (auto: documents where there are 20 or more, else pieces).
    workers
        Processes that read and encode a large text (0: one for each core). They change no byte.
    """
    from lucidlm.display import Display
    from lucidlm.text.preparation import prepare as prepare_corpus

    with Display() as progress:
        corpus = prepare_corpus(
            texts,
            out,
            tokenizer=tokenizer,
            validation=val or None,
            validation_fraction=val_fraction,
            split=split,
            reading=reading,
            workers=workers,
            progress=progress,
        )
    for note in corpus.notes:
        say(note)
    show(
        f"{out}: {plural(corpus.train_tokens, 'token')} to train on, {corpus.heldout_tokens:,} held out, "
        f"tokenizer {corpus.tokenizer.name}; lucidlm train {out} trains on it"
    )


@app.command
def train(
    *texts: str,
    settings: Annotated[TrainConfig, Parameter(name="*", negative_iterable=())] = DEFAULTS,
    config: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    seeds: int | None = None,
    layout: Annotated[Layout, Parameter(name="*")] = ONE_PROCESS,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model on a text and measure how good it is.

    Parameters
    ----------
    texts
        Files, folders, patterns, URLs, - for standard input, or one prepared folder; none: the story.
    config
        Settings from a .toml file; a run's run.toml repeats the run. Flags override it.
    resume
        Continue the run at --out from its last checkpoint, with the settings of its run.toml.
    overwrite
        Delete the run at --out and start again.
    seeds
        Train this many runs, OUT-seed123, OUT-seed124 ..., by one plan; print mean and standard deviation.
    verbose
        Show every line of the plan: tokenizer, shape, optimizer, speed, memory.
    json
        Print the result as JSON.
    """
    with printed_once():
        if resume and (texts or config is not None or settings != replace(DEFAULTS, out=settings.out)):
            raise LucidError("--resume takes everything from the run's run.toml: give --out and nothing else")
        plan = None
        if not resume:
            settings, plan = _requested(texts, settings, config)
        if verbose and (resume or plan is not None):
            raise LucidError(
                "--verbose: run.toml has the plan already, and it is not made again; leave --verbose out"
            )
    how = {"plan": plan, "resume": resume, "overwrite": overwrite, "verbose": verbose}
    if seeds is not None:
        if this_rank().size > 1:
            raise EverywhereError(
                f"--seeds {seeds}: torchrun trains one run at a time; leave --seeds out, and give --seed"
            )
        return _train_seeds(settings, seeds, how, json=json)
    how["layout"] = layout
    return _train_one(settings, how, json=json)


def _requested(
    texts: tuple[str, ...], settings: TrainConfig, config: str | None
) -> "tuple[TrainConfig, Plan | None]":
    """The settings with the texts, and the plan of --config unless a flag changes its settings."""
    from lucidlm.runs.run_toml import read_settings

    asked, plan = read_settings(Path(config)) if config is not None else (settings, None)
    if texts:
        if settings.text != (asked.text if config is not None else ()):
            raise LucidError(
                f"--text {quote(settings.text[0])}: the texts are given without it; leave it out"
            )
        settings = replace(settings, text=texts)
        refuse_models(
            texts,
            "to start a new training from its weights: lucidlm train TEXT --from {0}",
            of_a_run="to continue that training: lucidlm train --resume --out {0}; to start a new one "
            "from its weights: lucidlm train TEXT --from {0}",
            prepared=len(texts) == 1,
        )
    check_reading(settings.reading, (*settings.text, *settings.val))
    if plan is not None and settings != replace(asked, out=settings.out):
        if speaks():
            say(f"{config} is changed by the flags given, so the plan is made again")
        plan = None
    return settings, plan


def _train_one(settings: TrainConfig, how: dict[str, Any], *, json: bool) -> int:
    from lucidlm.display import Display
    from lucidlm.training.loop import train as run_training

    if this_rank().number:  # the first process speaks for all
        return _code(run_training(settings, **how))
    with Display() as display:

        def answer(result: "TrainResult") -> None:
            display.close()
            show_json(_summary(result)) if json else show(f"\n{result.assessment}")
            sys.stdout.flush()

        result = run_training(settings, **how, progress=display, watch=display.watch, answer=answer)
    if result.assessment is None and json:
        show_json(_summary(result))
    elif not json:
        show(_closing_lines(result))
    return _code(result)


def _train_seeds(settings: TrainConfig, seeds: int, how: dict[str, Any], *, json: bool) -> int:
    from lucidlm.display import Display
    from lucidlm.training.seeds import train_seeds

    with Display() as display:
        spread = train_seeds(settings, seeds, **how, progress=display, watch=display.watch)
    show_json({"runs": [_summary(each) for each in spread.results]} | spread.to_dict()) if json else show(
        spread
    )
    return max(map(_code, spread.results))


def _code(result: "TrainResult") -> int:
    """Exit code of a training."""
    return 128 + result.interrupted if result.interrupted else 1 if result.problems else 0


def _summary(result: "TrainResult") -> dict[str, Any]:
    summary: dict[str, Any] = {"run": str(result.run), "step": result.step, "time_s": result.time_s}
    if result.best is not None:
        summary["best_step"] = result.best.step
    if result.assessment is not None:
        summary |= result.assessment.to_dict()
    return summary | {"verdict": result.verdict, "interrupted": result.interrupted}


def _closing_lines(result: "TrainResult") -> str:
    if result.interrupted:
        doing = "" if result.assessment is None else " while its report was written"
        return (
            f"interrupted at step {result.step:,}{doing}; "
            f"go on with: lucidlm train --resume --out {result.run}"
        )
    lines = [""]
    if not result.problems:
        lines += [f"{result.run}/report.html shows all this with curves and samples"]
    lines += [f"the run is in {result.run} ({result.time_s:.0f} s). Next:"]
    lines += [f'    lucidlm generate {result.run} "Once"', f"    lucidlm evaluate {result.run} OTHER_TEXT"]
    lines += [f'    lucidlm explain {result.run} "any sentence"']
    return "\n".join(lines)


@app.command
def doctor(*, device: str = "auto", json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show versions, device and speeds of this machine, and check its results against a CPU in float32.

    Parameters
    ----------
    device
        auto, cpu, cuda or mps.
    json
        Print the result as JSON.
    """
    from lucidlm.doctor import examine

    findings = examine(device)
    show_json(findings.to_dict()) if json else show(findings)
    return 0 if findings.sound else 1
