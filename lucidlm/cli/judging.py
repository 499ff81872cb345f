"""The verbs that show where a model's loss comes from: explain, and compare for two models."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from lucidlm.cli.inputs import (
    check_places,
    check_reading,
    load_model,
    matmul_dtype,
    model_source,
    own_validation_text,
    refuse_models,
    run_with_text,
    say_page,
    say_state,
    seen_of,
)
from lucidlm.cli.options import ANSWER, COMPUTE, WINDOWS, Answer, Compute, HowToRead, Windows, app
from lucidlm.errors import LucidError
from lucidlm.runtime.console import say, show, show_json, show_json_text
from lucidlm.text.account import Account
from lucidlm.text.reading import READING, Reading

if TYPE_CHECKING:
    from lucidlm.measure.compared import Comparison
    from lucidlm.measure.explanation import Explanation
    from lucidlm.model.gpt import GPT
    from lucidlm.text.tokenizer import Tokenizer
    from lucidlm.weights.load import Source

    Loaded = list[tuple[GPT, Tokenizer]]


@app.command
def explain(
    model: str,
    *texts: str,
    file: str | None = None,
    top_k: int = 5,
    windows: Windows = WINDOWS,
    reading: HowToRead = READING,
    answer: Answer = ANSWER,
    compute: Compute = COMPUTE,
) -> None:
    """Show where a loss comes from: probability, rank and alternatives of each token, and the steps to it.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder, a published name (gpt2) or a preset.
    texts
        One or more texts; several are a batch, as in the lecture.
    file
        Explain the text of this file; - is standard input.
    top_k
        Number of alternatives per token.
    """
    from lucidlm.display import Display
    from lucidlm.measure.explanation import explain_texts

    source = model_source(model, compute.seed)
    check_places([model, file], html=answer.html)
    account = Account()
    given = _texts_to_explain(texts, file, reading, account)
    loaded, tokenizer = load_model(source, compute, compute.seed)
    say_state(source)
    protocol = replace(windows, dtype=matmul_dtype(compute.dtype, loaded.device))
    with Display() as progress:
        result = explain_texts(loaded, tokenizer, given, top_k=top_k, protocol=protocol, progress=progress)
    _show_explanation(replace(result, account=account), answer, model)


def _texts_to_explain(
    texts: Sequence[str], file: str | None, reading: Reading, account: Account
) -> list[str]:
    from lucidlm.text.documents import given_text, read_texts
    from lucidlm.text.own_folders import own_folder

    check_reading(reading, [*texts, *([file] if file is not None else [])])
    if file is None and replace(reading, raw=False) != READING:
        raise LucidError(
            "--encoding and --field say how a file is read: give it by --file, or leave them out"
        )
    for text in texts:
        if len(text) < 256 and os.path.exists(text):
            what = own_folder(text) or f"a file or folder: --file {quote(text)} reads it"
            say(f"{text!r} is explained as text; it is also the name of {what}")
    given = [
        given_text(text, account, f"text {number}", reading=reading) for number, text in enumerate(texts, 1)
    ]
    if file is not None:
        given += (text for _, text in read_texts([file], account, reading=reading))
    if not given:
        raise LucidError(
            'nothing to explain: give a text in quotes, or --file; lucidlm explain lecture "every effort"'
        )
    return given


def _show_explanation(result: "Explanation", answer: Answer, model: str) -> None:
    from lucidlm.display import print_token_lines
    from lucidlm.measure.explanation import steps

    if answer.json:
        for line in result.json_lines():
            show_json_text(line)
    elif answer.html is not None:
        show("\n".join(steps(result)))
    else:
        print_token_lines(result)
    sys.stdout.flush()
    if answer.html is not None:
        result.write_html(answer.html, model=model)
        say_page(answer.html)


@app.command
def compare(
    model_a: str,
    model_b: str,
    *texts: str,
    windows: Windows = WINDOWS,
    reading: HowToRead = READING,
    answer: Answer = ANSWER,
    compute: Compute = COMPUTE,
) -> None:
    """Compare two models on a text: which predicts it better, by how much, and where. Tokenizers may differ.

    Several runs of each, trained with other seeds, compare the recipes: compare A1,A2,A3 B1,B2,B3 TEXT.
    In JSON, differences and intervals are A minus B: below 0, A is better.

    Parameters
    ----------
    model_a
        A run, a checkpoint, a Hugging Face folder, a published name or a preset; or several runs: A1,A2,A3.
    model_b
        The other model, or several runs of the other recipe.
    texts
        Files, folders, patterns, URLs or - for standard input; none: the held-out text of the first run.
    """
    check_reading(reading, texts)
    refuse_models(
        texts, f"commas join the runs of one recipe: lucidlm compare {quote(model_a)} {quote(model_b)},{{0}}"
    )
    sides = _sources(model_a), _sources(model_b)
    sources = [*sides[0], *sides[1]]
    _check_seed(sources, compute)
    if len(sources) > 2:
        _refuse_runs_given_twice(sides)
    check_places([*(source.name for source in sources), *texts], html=answer.html)
    held_out_of = None if texts else run_with_text(sources[0])
    a, b = ([load_model(source, compute, _seed(source, compute)) for source in side] for side in sides)
    for source in dict.fromkeys(sources):
        say_state(source)
    protocol = replace(windows, dtype=matmul_dtype(compute.dtype, a[0][0].device))
    names = [source.name for source in sides[0]], [source.name for source in sides[1]]
    result = _compared((a, b), names, texts, held_out_of, protocol, reading)
    held_out_of = held_out_of or Path(sources[0].name)
    seen = {source.name: seen_of(source, texts, reading, held_out_of=held_out_of) for source in sources}
    result = replace(result, seen=seen)
    show_json(result.to_dict()) if answer.json else show(result)
    sys.stdout.flush()
    if answer.html is not None:
        result.write_html(answer.html)
        say_page(answer.html)


def _sources(models: str) -> "list[Source]":
    """The runs of one recipe, commas between; a path that has a comma is one."""
    names = [models] if Path(models).exists() else [name for name in models.split(",") if name]
    if not names:
        raise LucidError(f"{models!r} names no model; give a run, or several of a recipe: A1,A2,A3")
    return [model_source(name) for name in names]


def _check_seed(sources: "list[Source]", compute: Compute) -> None:
    """LucidError for a seed where no model is drawn from it."""
    if all(source.kind != "preset" for source in sources):
        model_source(sources[0].name, compute.seed)


def _seed(source: "Source", compute: Compute) -> int | None:
    return compute.seed if source.kind == "preset" else None


def _refuse_runs_given_twice(sides: "tuple[list[Source], list[Source]]") -> None:
    """One run is one seed, under whatever path: before minutes are spent on models and texts."""
    found: dict[object, str] = {}
    for side in sides:
        of_side: dict[object, str] = {}
        for source in side:
            place = source.name if source.path is None else source.path.resolve()
            # Checkpoints of a run are of one seed too; on two sides they may be what is compared.
            run = place if source.run is None else source.run.resolve()
            if (first := found.get(place, of_side.get(run))) is not None:
                raise LucidError(
                    f"{first} and {source.name} are the same run: one run is not two seeds; give each run "
                    "once (lucidlm train --seed N makes others)"
                )
            found[place] = of_side[run] = source.name


def _compared(
    models: "tuple[Loaded, Loaded]",
    names: tuple[list[str], list[str]],
    texts: Sequence[str],
    held_out_of: Path | None,
    protocol: Windows,
    reading: Reading,
) -> "Comparison":
    from lucidlm.display import Display
    from lucidlm.measure.atoms import Passage
    from lucidlm.measure.comparison import compare_texts
    from lucidlm.text.documents import read_texts

    account, design, fraction = Account(), None, 0.0
    if held_out_of is None:
        given = (text for _, text in read_texts(texts, account, reading=reading))
    else:
        excerpts, design, fraction = own_validation_text(held_out_of)
        given = (Passage.of_excerpt(excerpt, models[0][0][1]) for excerpt in excerpts)
    with Display() as progress:
        result = compare_texts(
            *models,
            given,
            design=design,
            fraction=fraction,
            names=names,
            protocol=protocol,
            progress=progress,
        )
    return replace(result, account=account) if texts else result
