"""The verbs that judge a model by a text: evaluate, explain, compare."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import (
    check_places,
    check_reading,
    documents_of,
    load_model,
    own_validation_text,
    refuse_models,
    say_state,
    seen_of,
    state_line,
)
from lucidlm.cli.options import COMPUTE, SCORING, WINDOWS, Compute, HowToRead, Scoring, Windows, app
from lucidlm.errors import LucidError
from lucidlm.runtime.console import say, show, show_json, show_json_text
from lucidlm.text.reading import READING

if TYPE_CHECKING:
    from lucidlm.measure.gate import Verdict


@app.command
def evaluate(
    model: str,
    *texts: str,
    protocol: Scoring = SCORING,
    reading: HowToRead = READING,
    baselines: bool = True,
    by: Literal["document"] | None = None,
    csv: str | None = None,
    max_bits: float | None = None,
    baseline: str | None = None,
    html: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    compute: Compute = COMPUTE,
) -> int:
    """Say how well a model predicts a text: loss, perplexity, bits per byte.

    Exit code: 0; 1 a gate failed (--max-bits, --baseline); 2 wrong input, or a text too short to tell.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset.
    texts
        Files, folders, patterns, URLs or - for standard input; none: the run's own validation text.
    baselines
        Of a run: what gzip, xz and n-grams make of the same text, and how much of what it writes is copied.
    by
        document: a table of the documents, the worst first; all of them with --csv or --json.
    csv
        Write the table of --by document to this file.
    max_bits
        A gate: exit with 1 if there are more bits per byte than this.
    baseline
        A gate: exit with 1 if the result is worse than this one, by more than its 95 % interval. A file that
        lucidlm evaluate MODEL TEXT --json > FILE wrote, of the same text.
    html
        Write a report: one page that stands alone.
    json
        Print the result as JSON.
    """
    from lucidlm.display import Display
    from lucidlm.measure import document_scores, gate
    from lucidlm.measure.scoring import Scorer
    from lucidlm.report import assessment as judgement
    from lucidlm.report import run_page as report
    from lucidlm.runs.data import corpus_of_run, is_run
    from lucidlm.runs.history import read_history
    from lucidlm.text.account import Account
    from lucidlm.text.corpus import held_out_names

    check_reading(reading, texts)
    refuse_models(texts, f"to compare two models: lucidlm compare {quote(model)} {{0}}")
    if baseline is not None:
        way_out = "store its result first: lucidlm evaluate {0} TEXT --json > FILE"
        wanted = "give what lucidlm evaluate MODEL TEXT --json > FILE wrote"
        refuse_models([baseline], way_out, expected="a stored result", of_a_text=wanted)
    if csv is not None and by is None:
        raise LucidError("--csv needs --by document")
    check_places([model, *texts, baseline], html=html, csv=csv)
    limit = gate.check_limit(max_bits) if max_bits is not None else None
    stored = gate.read_result(baseline) if baseline is not None else None
    loaded, tokenizer, dtype = load_model(model, compute)
    scorer = Scorer(loaded, tokenizer, replace(protocol, dtype=dtype))
    if stored is not None:
        gate.check_settings(stored, scorer)
    run = Path(model) if is_run(Path(model)) else None
    account, sources = Account(), list[str]()
    documents, design, fraction = (
        (documents_of(texts, scorer, reading, account, sources), None, 0.0)
        if texts
        else own_validation_text(model)
    )
    settings: dict[str, Any] = {
        "design": design,
        "fraction": fraction,
        "protocol": scorer.protocol,
    }
    remarks = (state,) if (state := state_line(model)) else ()
    seen = seen_of(model, texts, reading, held_out_of=model)
    with Display() as progress:
        if run is not None and baselines and protocol.name == "lucid":
            result = judgement.judge(
                loaded,
                tokenizer,
                list(documents),
                corpus=corpus_of_run(run),
                history=None if texts else read_history(run),
                remarks=remarks,
                seen=seen,
                progress=progress,
                **settings,
            )
        else:
            result = judgement.without_training_text(
                loaded,
                tokenizer,
                documents,
                remarks=remarks,
                seen=seen,
                progress=progress,
                **settings,
            )
    if texts:
        result = replace(result, evaluation=replace(result.evaluation, account=account))
    verdicts = [gate.below_limit(result.evaluation, limit)] if limit is not None else []
    verdicts += [gate.no_worse(result.evaluation, stored)] if stored is not None else []
    values = {"gate": [verdict.to_dict() for verdict in verdicts]} if verdicts else {}
    scores, kind = [], "piece" if result.evaluation.protocol.in_pieces else "document"
    if by is not None:
        of = result.evaluation
        names = sources if texts else held_out_names(corpus_of_run(Path(model)), of.documents)
        scores = document_scores.score_documents(of.by_document, names, by_bytes=of.bytes_scored > 0)
        values["by_document"] = [score.to_dict() for score in scores]
    show_json(result.to_dict() | values) if json else show(result)
    if scores and not json:
        show("\n".join(["", *document_scores.table(scores, kind=kind)]))
    sys.stdout.flush()  # what was computed is told before anything else can go wrong
    code = _gate_code(verdicts)
    if csv is not None:
        document_scores.write_csv(csv, scores)
        say(f"{csv}: {document_scores.counted(scores, kind)}")
    if html is not None:
        report.write_report(
            html,
            result,
            title=f"{model} on {', '.join(texts)}" if texts else model,
            run=None if texts else run,
        )
        say(f"{html}: open it in a browser")
    return code


def _gate_code(verdicts: "list[Verdict]") -> int:
    """Exit code of the gates that were asked for, with one line on stderr."""
    if not verdicts:
        return 0
    # Failed ones alone where there are some: one line, and the reason in it.
    failed = [verdict for verdict in verdicts if not verdict.passed]
    lines = "; ".join(verdict.line for verdict in failed or verdicts)
    say(f"gate {'failed' if failed else 'passed'}: {lines}")
    return 1 if failed else 0


@app.command
def explain(
    model: str,
    *texts: str,
    file: str | None = None,
    top_k: int = 5,
    windows: Windows = WINDOWS,
    reading: HowToRead = READING,
    html: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    compute: Compute = COMPUTE,
) -> None:
    """Show why a loss is what it is: every token's probability, rank, alternatives and the way to the loss.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset: lecture is the course's model.
    texts
        One or more texts; several are a batch, as in the lecture.
    file
        A file whose text is explained, or - for standard input.
    top_k
        Alternatives of each token.
    html
        Write one page that stands alone: the coloured text, each token's alternatives, the steps to the loss.
    json
        Print the result as JSON.
    """
    from lucidlm.display import Display, print_token_lines
    from lucidlm.measure.explanation import explain_texts, steps
    from lucidlm.text.account import Account
    from lucidlm.text.documents import given_text, read_texts
    from lucidlm.text.own_folders import own_folder

    check_reading(reading, [*texts, *([file] if file is not None else [])])
    if file is None and replace(reading, raw=False) != READING:
        raise LucidError(
            "--encoding and --field say how a file is read: give it by --file, or leave them out"
        )
    check_places([model, file], html=html)
    for text in texts:
        if len(text) < 256 and os.path.exists(text):
            what = own_folder(text) or f"a file or folder: --file {quote(text)} reads it"
            say(f"{text!r} is explained as text; it is also the name of {what}")
    account = Account()
    given = [
        given_text(text, account, f"text {number}", reading=reading) for number, text in enumerate(texts, 1)
    ]
    if file is not None:
        given += (text for _, text in read_texts([file], account, reading=reading))
    if not given:
        raise LucidError(
            'nothing to explain: give a text in quotes, or --file; lucidlm explain lecture "every effort"'
        )
    loaded, tokenizer, dtype = load_model(model, compute)
    say_state(model)
    with Display() as progress:
        result = explain_texts(
            loaded,
            tokenizer,
            given,
            top_k=top_k,
            protocol=replace(windows, dtype=dtype),
            progress=progress,
        )
    result = replace(result, account=account)
    if json:
        for line in result.json_lines():
            show_json_text(line)
    elif html is not None:
        show("\n".join(steps(result)))
    else:
        print_token_lines(result)
    sys.stdout.flush()
    if html is not None:
        result.write_html(html, model=model)
        say(f"{html}: open it in a browser")


@app.command
def compare(
    model_a: str,
    model_b: str,
    *texts: str,
    windows: Windows = WINDOWS,
    reading: HowToRead = READING,
    html: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    compute: Compute = COMPUTE,
) -> None:
    """Say which of two models predicts a text better, by how much, and where; their tokenizers may differ.

    Several runs of each, with other seeds, compare the recipes: compare A1,A2,A3 B1,B2,B3 TEXT.

    Parameters
    ----------
    model_a
        A run, a checkpoint, a Hugging Face folder or a preset; of several runs of a recipe: A1,A2,A3.
    model_b
        The other, or runs of the other recipe.
    texts
        Files, folders, patterns, URLs or - for standard input; none: the validation text of the first run.
    html
        Write one page that stands alone: the numbers, and the text as a heat map of the differences.
    json
        Print the result as JSON; its differences and intervals are A minus B: below 0, A is better.
    """
    from lucidlm.display import Display
    from lucidlm.measure.atoms import Passage
    from lucidlm.measure.comparison import compare_texts
    from lucidlm.text.account import Account
    from lucidlm.text.documents import read_texts

    check_reading(reading, texts)
    refuse_models(
        texts, f"commas join the runs of one recipe: lucidlm compare {quote(model_a)} {quote(model_b)},{{0}}"
    )
    names = (_names(model_a), _names(model_b))
    runs = [name for each in names for name in each]
    if len(runs) > 2:
        _refuse_runs_given_twice(names)
    check_places([*runs, *texts], html=html)
    a, b = ([load_model(name, compute) for name in each] for each in names)
    for name in dict.fromkeys(runs):
        say_state(name)
    tokenizer, dtype = a[0][1:]
    account, design, fraction = Account(), None, 0.0
    if texts:
        read = read_texts(texts, account, reading=reading)
        given = (text for _, text in read)
    else:
        excerpts, design, fraction = own_validation_text(names[0][0])
        given = (Passage.of_excerpt(excerpt, tokenizer) for excerpt in excerpts)
    with Display() as progress:
        result = compare_texts(
            [loaded[:2] for loaded in a],
            [loaded[:2] for loaded in b],
            given,
            design=design,
            fraction=fraction,
            names=names,
            protocol=replace(windows, dtype=dtype),
            progress=progress,
        )
    result = replace(result, account=account) if texts else result
    seen = {name: seen_of(name, texts, reading, held_out_of=runs[0]) for name in runs}
    result = replace(result, seen=seen)
    show_json(result.to_dict()) if json else show(result)
    sys.stdout.flush()
    if html is not None:
        result.write_html(html)
        say(f"{html}: open it in a browser")


def _names(models: str) -> list[str]:
    """The runs of one recipe, commas between; a path that has a comma is one."""
    names = [models] if Path(models).exists() else [name for name in models.split(",") if name]
    if not names:
        raise LucidError(f"{models!r} names no model; give a run, or several of a recipe: A1,A2,A3")
    return names


def _refuse_runs_given_twice(names: tuple[list[str], list[str]]) -> None:
    """One run is one seed, under whatever path: before minutes are spent on models and texts."""
    found: dict[Path, str] = {}
    for side in names:
        of_side: dict[Path, str] = {}
        for name in side:
            path = Path(name).resolve()
            # Checkpoints of a run are of one seed too; on two sides they may be what is compared.
            run = path.parent.parent if path.parent.name == "checkpoints" else path
            if (first := found.get(path, of_side.get(run))) is not None:
                raise LucidError(
                    f"{first} and {name} are the same run: one run is not two seeds; give each run once "
                    "(lucidlm train --seed N makes others)"
                )
            found[path] = of_side[run] = name
