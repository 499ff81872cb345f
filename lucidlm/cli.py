"""The command line: one short function a verb. Results go to stdout, progress and notes to stderr.

Nothing here imports torch before a verb runs, so that --help answers at once.
"""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from lucidlm import __version__
from lucidlm.edge import (
    END_OF_FLAGS,
    Arguments,
    answered,
    check_current_folder,
    leave_at_once,
    protected,
    refuse_dash_as_place,
    refuse_fractions,
    restore_docstrings,
)
from lucidlm.errors import LucidError
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.console import say, show, show_generated, show_json, show_json_text, sound_streams
from lucidlm.runtime.ranges import SEEDS, check_ranges
from lucidlm.runtime.signals import ending
from lucidlm.runtime.wording import fixed, one_line, plural
from lucidlm.text.reading import READING, Reading

if TYPE_CHECKING:
    import torch

    from lucidlm.measure.gate import Verdict
    from lucidlm.measure.intervals import Design
    from lucidlm.measure.seen import Seen
    from lucidlm.model.gpt import GPT
    from lucidlm.text.account import Account
    from lucidlm.text.excerpts import Excerpt
    from lucidlm.text.tokenizer import Tokenizer
    from lucidlm.training.loop import TrainResult

app = App(
    name="lucidlm",
    help="From any text to a language model whose quality is a number you can trust.",
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main says what was interrupted, and by which signal
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where and how a verb computes."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the products (auto: float32 on a CPU, bfloat16 on a GPU)."""
    threads: int = 0
    """Processor threads (0: all)."""
    seed: int = 123
    """Seed of random weights, where MODEL is a preset."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seed": SEEDS})


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How a verb reads the weights that it writes."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights (auto: the one that they are stored in)."""
    seed: int = 123
    """Seed of random weights, where MODEL is a preset."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seed": SEEDS})


HowToRead = Annotated[Reading, Parameter(name="*", negative="")]
"""The flags --encoding, --field and --raw of every verb that reads texts."""
COMPUTE, STORED = Compute(), Stored()
DEFAULTS = TrainConfig()


@app.command
def train(
    *texts: str,
    settings: Annotated[TrainConfig, Parameter(name="*")] = DEFAULTS,
    config: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model on a text and say how good it became.

    Parameters
    ----------
    texts
        Files, folders, patterns, URLs, - for standard input, or a folder of `lucidlm prepare`; none: a story.
    config
        A .toml file of these settings; a run's own run.toml repeats the run. Other flags stand over it.
    resume
        Go on with the run at --out from its last checkpoint; everything else comes from its run.toml.
    overwrite
        Delete the run that stands at --out and begin again.
    json
        Print the result as JSON.
    """
    from lucidlm.display import TrainingDisplay
    from lucidlm.runs.run_toml import read_settings
    from lucidlm.training.loop import train as run_training

    if resume and (texts or config is not None or settings != replace(DEFAULTS, out=settings.out)):
        raise LucidError("--resume takes everything from the run's run.toml: give --out and nothing else")
    if texts:
        settings = replace(settings, text=texts)
        _refuse_models(
            texts,
            "to start from its weights: lucidlm train TEXT --from {0}",
            of_a_run="to go on with it: lucidlm train --resume --out {0}; to start from its weights: "
            "lucidlm train TEXT --from {0}",
            prepared=len(texts) == 1,
        )
    asked, plan = read_settings(Path(config)) if config is not None and not resume else (settings, None)

    def answer(result: "TrainResult") -> None:
        show_json(_summary(result)) if json else show(f"\n{result.judgement}")
        sys.stdout.flush()

    with TrainingDisplay() as display:
        if plan is not None and settings != replace(asked, out=settings.out):
            display.say(f"{config} is changed by the flags given, so the plan is made again")
            plan = None
        result = run_training(
            settings,
            plan=plan,
            resume=resume,
            overwrite=overwrite,
            say=display.say,
            watch=display.watch,
            stages=display.stage,
            answer=answer,
        )
    if result.judgement is None and json:
        show_json(_summary(result))
    elif not json:
        show(_closing_lines(result))
    return 128 + result.interrupted if result.interrupted else 1 if result.problems else 0


@app.command
def evaluate(
    model: str,
    *texts: str,
    stride: int | None = None,
    context_length: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
    protocol: Literal["lucid", "lm-eval", "hf-guide", "batch-mean"] = "lucid",
    batch_size: int | None = None,
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
    stride
        Tokens from one window to the next (default: half of the context); 1 is exact and slow.
    context_length
        Tokens of a window (default: the model's context).
    prefix
        auto: end-of-text before each document where the model knows it. none: leave the first token out.
    protocol
        lucid: every token once. As others count, for their figures: lm-eval (the harness), hf-guide
        (the transformers guide), batch-mean (the course's first code); the result says what differs.
    batch_size
        Windows at once; the number does not depend on it (batch-mean: the course's batches, default 2).
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
    from lucidlm.display import counter, stage_printer
    from lucidlm.measure import document_scores, gate
    from lucidlm.report import assessment as judgement
    from lucidlm.report import run_page as report
    from lucidlm.runs.data import corpus_of_run, is_run
    from lucidlm.runs.history import read_history
    from lucidlm.text.account import Account
    from lucidlm.text.corpus import held_out_names

    _check_reading(reading, texts)
    _refuse_models(texts, f"to compare two models: lucidlm compare {quote(model)} {{0}}")
    if baseline is not None:
        way_out = "store its result first: lucidlm evaluate {0} TEXT --json > FILE"
        wanted = "give what lucidlm evaluate MODEL TEXT --json > FILE wrote"
        _refuse_models([baseline], way_out, expected="a stored result", of_a_text=wanted)
    if csv is not None and by is None:
        raise LucidError("--csv needs --by document")
    _check_places([model, *texts, baseline], html=html, csv=csv)
    limit = gate.check_limit(max_bits) if max_bits is not None else None
    stored = gate.read_result(baseline) if baseline is not None else None
    loaded, tokenizer, dtype = _load(model, compute)
    if stored is not None:
        gate.check_settings(
            stored, loaded, protocol=protocol, context_length=context_length, stride=stride, prefix=prefix
        )
    run = Path(model) if is_run(Path(model)) else None
    account, sources = Account(), list[str]()
    documents, design, fraction = (
        (_documents(texts, tokenizer, reading, account, sources), None, 0.0)
        if texts
        else _own_validation_text(model)
    )
    settings: dict[str, Any] = {
        "design": design,
        "fraction": fraction,
        "protocol": protocol,
        "context_length": context_length,
        "stride": stride,
        "prefix": prefix,
        "batch_size": batch_size,
        "dtype": dtype,
    }
    remarks = (state,) if (state := _state(model)) else ()
    seen = _seen(model, texts, reading, held_out_of=model)
    if run is not None and baselines and protocol == "lucid":
        result = judgement.judge(
            loaded,
            tokenizer,
            list(documents),
            corpus=corpus_of_run(run),
            history=None if texts else read_history(run),
            remarks=remarks,
            seen=seen,
            progress=stage_printer,
            **settings,
        )
    else:
        result = judgement.without_training_text(
            loaded,
            tokenizer,
            documents,
            remarks=remarks,
            seen=seen,
            progress=counter("tokens scored"),
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
    stride: int | None = None,
    context_length: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
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
    stride
        Of a text longer than the context: tokens from one window to the next (default: half of the context).
    context_length
        Tokens of a window (default: the model's context).
    prefix
        auto: end-of-text before each text where the model knows it. none: leave the first token out.
    html
        Write one page that stands alone: the coloured text, each token's alternatives, the steps to the loss.
    json
        Print the result as JSON.
    """
    from lucidlm.display import counter, print_token_lines
    from lucidlm.measure.explanation import explain_texts, steps
    from lucidlm.text.account import Account
    from lucidlm.text.documents import given_text, read_texts
    from lucidlm.text.own_folders import own_folder

    _check_reading(reading, [*texts, *([file] if file is not None else [])])
    if file is None and replace(reading, raw=False) != READING:
        raise LucidError(
            "--encoding and --field say how a file is read: give it by --file, or leave them out"
        )
    _check_places([model, file], html=html)
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
    loaded, tokenizer, dtype = _load(model, compute)
    _say_state(model)
    result = explain_texts(
        loaded,
        tokenizer,
        given,
        top_k=top_k,
        context_length=context_length,
        stride=stride,
        prefix=prefix,
        dtype=dtype,
        progress=counter("tokens explained"),
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
def generate(
    model: str,
    prompt: str = "",
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: tuple[str, ...] = (),
    num: int = 1,
    seed: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int = 0,
) -> None:
    """Go on from a prompt.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset.
    prompt
        The text to go on from; none: from the beginning of a document.
    max_new_tokens
        At most so many tokens.
    temperature
        0 takes the likeliest token each time, 1 draws as the model believes, more is wilder.
    top_k
        Draw among the k likeliest.
    top_p
        Draw among the fewest tokens that together have this probability.
    min_p
        Draw among tokens that have at least this share of the likeliest one's probability.
    repetition_penalty
        Over 1: tokens that are there already become less likely.
    stop
        End before this string; may be given several times.
    num
        So many texts from the same prompt.
    seed
        The same seed gives the same text; none: a fresh one, which is printed.
    json
        Print the result as JSON.
    device
        auto, cpu, cuda or mps.
    dtype
        Number type of the products.
    threads
        Processor threads (0: all).
    """
    from lucidlm.model.generation import generate_batch

    compute = Compute(device=device, dtype=dtype, threads=threads)
    loaded, tokenizer, _ = _load(model, compute)
    _say_state(model)
    results = generate_batch(
        loaded,
        tokenizer,
        [prompt],
        num=num,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=seed,
    )
    if json:
        show_json([result.to_dict() for result in results])
        return
    show_generated("\n\n".join(str(result) for result in results))
    if seed is None and temperature > 0:
        say(f"seed {results[0].seed}")


@app.command
def compare(
    model_a: str,
    model_b: str,
    *texts: str,
    stride: int | None = None,
    context_length: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
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
    stride
        Tokens from one window to the next (default: half of each model's context).
    context_length
        Tokens of a window (default: each model's context).
    prefix
        auto: end-of-text before each document where a model knows it. none: leave the first token out.
    html
        Write one page that stands alone: the numbers, and the text as a heat map of the differences.
    json
        Print the result as JSON; its differences and intervals are A minus B: below 0, A is better.
    """
    from lucidlm.display import counter
    from lucidlm.measure.comparison import Passage, compare_texts
    from lucidlm.text.account import Account
    from lucidlm.text.documents import read_texts

    _check_reading(reading, texts)
    _refuse_models(
        texts, f"commas join the runs of one recipe: lucidlm compare {quote(model_a)} {quote(model_b)},{{0}}"
    )
    names = (_names(model_a), _names(model_b))
    runs = [name for each in names for name in each]
    if len(runs) > 2:
        _refuse_runs_given_twice(names)
    _check_places([*runs, *texts], html=html)
    a, b = ([_load(name, compute) for name in each] for each in names)
    for name in dict.fromkeys(runs):
        _say_state(name)
    tokenizer, dtype = a[0][1:]
    account, design, fraction = Account(), None, 0.0
    if texts:
        read = read_texts(texts, account, reading=reading)
        given = (text for _, text in read)
    else:
        excerpts, design, fraction = _own_validation_text(names[0][0])
        given = (Passage.of_excerpt(excerpt, tokenizer) for excerpt in excerpts)
    result = compare_texts(
        [loaded[:2] for loaded in a],
        [loaded[:2] for loaded in b],
        given,
        design=design,
        fraction=fraction,
        names=names,
        context_length=context_length,
        stride=stride,
        prefix=prefix,
        dtype=dtype,
        progress=counter("bytes compared"),
    )
    result = replace(result, account=account) if texts else result
    seen = {name: _seen(name, texts, reading, held_out_of=runs[0]) for name in runs}
    result = replace(result, seen=seen)
    show_json(result.to_dict()) if json else show(result)
    sys.stdout.flush()
    if html is not None:
        result.write_html(html)
        say(f"{html}: open it in a browser")


@app.command
def compress(
    model: str,
    file: str,
    *,
    out: str,
    stride: int | None = None,
    context_length: int | None = None,
    prefix: Literal["auto", "none"] = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
    compute: Compute = COMPUTE,
) -> None:
    """Compress a file by a model's own probabilities: the proof that its evaluation is right.

    The same model on the same machine brings it back. It runs at the speed of generation.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset.
    file
        Any file, or - for standard input: a text comes out small.
    out
        The compressed file to write.
    stride
        Tokens from one window to the next (default: half of the context).
    context_length
        Tokens of a window (default: the model's context).
    prefix
        auto: end-of-text first where the model knows it. none: nothing first.
    json
        Print the sizes as JSON.
    """
    from lucidlm.display import counter
    from lucidlm.measure.compression import compress as compress_bytes
    from lucidlm.runtime.files import write_atomically

    _check_places([model, file], out=out)
    data = _file_bytes(file)
    loaded, tokenizer, _ = _load(model, compute)
    _say_state(model)
    result = compress_bytes(
        loaded,
        tokenizer,
        data,
        context_length=context_length,
        stride=stride,
        prefix=prefix,
        source=file,
        progress=counter("tokens coded"),
    )
    write_atomically(out, result.file)
    show_json(result.to_dict()) if json else show(result)


@app.command
def decompress(model: str, file: str, *, out: str, compute: Compute = COMPUTE) -> None:
    """Bring back what `compress` compressed with the same model on the same machine.

    It computes on as many threads as the file was made with, unless --threads says otherwise.

    Parameters
    ----------
    model
        The model that it was compressed with.
    file
        The compressed file, or - for standard input.
    out
        The file to write.
    """
    from lucidlm.display import counter
    from lucidlm.measure.compression import arithmetic_of
    from lucidlm.measure.compression import decompress as decompress_bytes
    from lucidlm.runtime.files import write_atomically

    _check_places([model, file], out=out)
    coded = _file_bytes(file)
    made = arithmetic_of(coded)
    loaded, tokenizer, _ = _load(model, compute)
    threads = compute.threads or None
    say(f"made with {made or 'unknown threads (version 1)'}")
    data = decompress_bytes(loaded, tokenizer, coded, threads=threads, progress=counter("tokens decoded"))
    write_atomically(out, data)
    show(f"{out}: {plural(len(data), 'byte')}, checked")


@app.command
def prepare(
    *texts: str,
    out: str,
    tokenizer: str = "auto",
    val: tuple[str, ...] = (),
    val_fraction: float = 0.1,
    split: Literal["auto", "pieces", "documents", "end"] = "auto",
    reading: HowToRead = READING,
) -> None:
    """Turn texts into token files that several runs can train on.

    Parameters
    ----------
    texts
        Files, folders, patterns, URLs or - for standard input.
    out
        The folder to write.
    tokenizer
        auto, gpt2, bytes, or bpe:N for N tokens learnt from the text.
    val
        Validation texts of your own.
    val_fraction
        The part that is held out where no validation text is given.
    split
        What is held out: pieces from all over the text, whole documents, or the end of each document
        (auto: documents where there are 20 or more, else pieces).
    """
    from lucidlm.display import stage_printer
    from lucidlm.text.corpus import prepare as prepare_corpus

    corpus = prepare_corpus(
        texts,
        out,
        tokenizer=tokenizer,
        validation=val or None,
        validation_fraction=val_fraction,
        split=split,
        reading=reading,
        progress=stage_printer,
    )
    for note in corpus.notes:
        say(note)
    show(
        f"{out}: {plural(corpus.train_tokens, 'token')} to train on, {corpus.heldout_tokens:,} held out, "
        f"tokenizer {corpus.tokenizer.name}; lucidlm train {out} trains on it"
    )


@app.command(name="import")
def import_model(source: str, *, out: str, stored: Stored = STORED) -> None:
    """Bring a model from elsewhere into a folder of this machine: OpenAI's weights, the hub's, any folder.

    Parameters
    ----------
    source
        gpt2, gpt2-medium, gpt2-large, gpt2-xl, owner/name of the Hugging Face hub, or a folder: OpenAI's, or
        one with config.json and safetensors of GPT-2, Qwen3 or Llama.
    out
        The folder to write.
    """
    from lucidlm.display import counter
    from lucidlm.weights.export import check_place
    from lucidlm.weights.export import export as export_model

    check_place(out, "hf")
    loaded, tokenizer = _load_as_stored(source, stored)
    export_model(loaded, tokenizer, out, progress=counter("tensors written or compared"))
    show(
        f"{out}: {plural(loaded.n_parameters, 'parameter')}, tokenizer {tokenizer.name}; opened "
        f"again, logits equal"
    )


@app.command
def export(
    model: str,
    *,
    out: str,
    format: Literal["hf", "gguf"] = "hf",
    kind: Literal["f32", "f16", "bf16", "q8_0"] = "f16",
    stored: Stored = STORED,
) -> None:
    """Write a model for other programs, and check what was written.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face or OpenAI folder, a published name or a preset.
    out
        The folder (hf) or file (gguf) to write.
    format
        hf: for transformers, vLLM, the evaluation harness. gguf: for llama.cpp, Ollama.
    kind
        How a gguf file stores matrices.
    """
    from lucidlm.display import counter
    from lucidlm.weights.export import check_place
    from lucidlm.weights.export import export as export_model

    check_place(out, format)
    loaded, tokenizer = _load_as_stored(model, stored)
    _say_state(model)
    export_model(
        loaded, tokenizer, out, format=format, kind=kind, progress=counter("tensors written or compared")
    )
    checked = "every tensor compared" if format == "gguf" else "opened again, logits equal"
    show(f"{out}: {plural(loaded.n_parameters, 'parameter')}, tokenizer {tokenizer.name}; {checked}")


@app.command
def info(model: str, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Say what a model is: family, shape, parameters, tokenizer, and of a run how it went.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder or a preset.
    json
        Print the result as JSON.
    """
    from lucidlm.model.config import PRESETS
    from lucidlm.weights.load import load

    run = Path(model) / "run.toml"
    if model in PRESETS:  # its shape says all, and random weights of it may need more memory than there is
        loaded, tokenizer = load(model, device="meta", notice=say)
        values = _shape_values(model, loaded, tokenizer)
    elif run.exists() and not (Path(model) / "model.safetensors").exists():
        values = _planned(model)
    else:
        loaded, tokenizer, _ = _load(model, Compute(device="cpu"))
        values = _shape_values(model, loaded, tokenizer)
    if model not in PRESETS and run.exists():
        values |= _course_values(Path(model), json=json)
    if json:
        show_json(values)
        return
    for name, value in values.items():
        text = f"{value:,}" if name == "parameters" else str(value)
        show(f"{name:<20} {one_line(text) if name == 'model' else text}")


def _shape_values(model: str, loaded: "GPT", tokenizer: "Tokenizer") -> dict[str, Any]:
    values = {"model": model, "parameters": loaded.n_parameters} | loaded.config.to_dict()
    return values | {"tokenizer": tokenizer.name, "document_prefix_id": loaded.document_prefix_id}


def _planned(model: str) -> dict[str, Any]:
    """What is known of a run that has no weights: the plan that it has, or its error."""
    from lucidlm.runs.run_toml import read_settings

    plan = read_settings(Path(model))[1]
    values: dict[str, Any] = {"model": model, "weights": f"{Path(model) / 'model.safetensors'}: not there"}
    if plan is None:
        return values
    values |= {"parameters": plan.model.n_parameters} | plan.model.to_dict()
    return values | {"planned_steps": plan.steps, "dtype": plan.dtype}


def _course_values(run: Path, *, json: bool) -> dict[str, Any]:
    """How a run went, for `info`."""
    from lucidlm.report.verdict import course_of
    from lucidlm.runs.data import design_of_run
    from lucidlm.runs.folder import state_of
    from lucidlm.runs.history import read_history

    history = read_history(run)
    state = state_of(run, history)
    values: dict[str, Any] = {"status": state.status, "step": state.step}
    if (best := history.best) is not None:
        values["best_step"] = best.step
        values["validation"] = f"{best.validation_loss_nats:.4f} nats per token"
        if json:
            values["validation"] = asdict(best)
    if history.final is not None:
        values["evaluation"] = asdict(history.final) if json else str(history.final)
    course = str(course_of(history, design=design_of_run(run)))
    return values | {"verdict": f"{state.sentence(run)} {course}".strip()}


@app.command
def runs(folder: str = "runs", *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """List the runs in a folder, the newest first: status, best validation loss, dtype and threads.

    Parameters
    ----------
    folder
        Where to look, folders below it too.
    json
        Print the list as JSON.
    """
    from lucidlm.runs.folder import list_runs, row_of

    rows = [row_of(run) for run in list_runs(Path(folder))]
    if json:
        show_json(rows)
    elif not rows:
        say(f"no runs in {folder}; lucidlm train BOOK makes one")
    else:
        _print_runs(rows)


@app.command
def doctor(*, device: str = "auto", json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Say what this machine can do, and check that its device computes what a CPU in float32 computes.

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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0, 1 our fault, 2 the user's, 130 / 143 interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index(END_OF_FLAGS) if END_OF_FLAGS in given else len(given)
    debug = "--debug" in given[:end]
    arguments = protected([argument for argument in given[:end] if argument != "--debug"] + given[end:])
    _yield_processors_soon(arguments.given)
    with sound_streams():
        code = answered(lambda: _run(arguments), arguments, debug=debug)
    if argv is None and code > 128:
        leave_at_once(code)
    return code


def _run(arguments: Arguments) -> int:
    restore_docstrings(sys.modules[__name__])
    app.config = (*_settings_file(arguments.given), refuse_fractions)
    verb, bound, unparsed = app.parse_args(arguments.parsed, exit_on_error=False, print_error=False)
    values = {name: arguments.restored(value) for name, value in bound.arguments.items()}
    refuse_dash_as_place(values)
    if verb.__module__ == __name__:  # help needs no folder
        check_current_folder()
    bound.arguments.update(values)
    with ending():
        result = verb(*bound.args, **bound.kwargs, **unparsed)
    return result if isinstance(result, int) else 0


def _yield_processors_soon(arguments: list[str]) -> None:
    """Lets threads that wait for each other spin for a moment only; to be called before PyTorch is imported.

    GNU's OpenMP spins 300,000 times by default. Where another program holds a processor, the thread that is
    waited for may want the very one that the waiting spins on: evaluating a small model took 23 s instead
    of 4, with this 8. It costs training 4 % on a quiet machine, and training leaves stalled threads anyway.
    """
    if arguments[:1] != ["train"] and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _settings_file(arguments: list[str]) -> tuple[Any, ...]:
    """The settings of `--config FILE`, below the flags and above the defaults."""
    for flag, value in itertools.zip_longest(arguments, arguments[1:]):
        if flag == END_OF_FLAGS:
            break
        name, equals, attached = flag.partition("=")
        value = attached if equals else value
        if name == "--config" and arguments[0] == "train" and value is not None:
            if not value:
                raise LucidError('--config "": no file has this name; give a .toml file or leave it out')
            from cyclopts.config import Dict

            from lucidlm.runs.folder import SETTINGS
            from lucidlm.runs.run_toml import read_settings, read_toml

            _refuse_models(
                [value],
                wanted := f"give a run's {SETTINGS}, or another .toml file of settings",
                of_a_run=f"give its settings: --config {{0}}/{SETTINGS}",
                of_a_text=wanted,
                expected="a file",
            )
            asked, plan = read_settings(Path(value))  # refuses what is no setting, by name
            settings = {
                key: item for key, item in read_toml(Path(value)).items() if key not in ("plan", "out")
            }
            if plan is not None:
                settings["split"] = asked.split  # a run from before there was a choice does not say
            if "from_" in settings:
                settings["from"] = settings.pop("from_")  # the flag is no name in Python
            return (Dict(settings, source=value, use_commands_as_keys=False),)
    return ()


def _load(model: str, compute: Compute) -> "tuple[GPT, Tokenizer, torch.dtype]":
    """Model, tokenizer and the number type to compute in."""
    import torch

    from lucidlm.display import counter
    from lucidlm.runtime.device import choose_device, dtype_of, keep_freed_memory, set_threads
    from lucidlm.weights.load import load

    device = choose_device(compute.device)
    set_threads(compute.threads)
    loaded, tokenizer = load(
        model,
        seed=compute.seed,
        device=str(device),
        notice=say,
        progress=counter("tensors read"),
    )
    keep_freed_memory()  # after loading: what it frees is not to be kept
    automatic = torch.bfloat16 if device.type == "cuda" else torch.float32
    return loaded, tokenizer, automatic if compute.dtype == "auto" else dtype_of(compute.dtype)


def _load_as_stored(model: str, stored: Stored) -> "tuple[GPT, Tokenizer]":
    """Model and tokenizer as they are to be written."""
    import torch

    from lucidlm.display import counter
    from lucidlm.runtime.device import return_freed_memory, set_threads
    from lucidlm.weights.load import load

    return_freed_memory()
    set_threads(0)
    return load(
        model,
        seed=stored.seed,
        dtype=None if stored.dtype == "auto" else getattr(torch, stored.dtype),
        notice=say,
        progress=counter("tensors read"),
    )


def _file_bytes(path: str) -> bytes:
    """A file's bytes, or a DataError that says why not."""
    from lucidlm.errors import DataError
    from lucidlm.text.own_folders import own_folder
    from lucidlm.text.pipes import readable

    if Path(path).is_dir():
        raise DataError(f"{path} is {own_folder(path) or 'a folder'}, not a file; give a file")
    try:
        return readable(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: {getattr(error, 'strerror', None) or error}; give a file that can be read"
        ) from None


def _documents(
    texts: Sequence[str], tokenizer: "Tokenizer", reading: Reading, account: "Account", sources: list[str]
) -> Any:
    """The texts' tokens; `account` and `sources` are complete when all are read."""
    from lucidlm.measure.evaluation import encoded
    from lucidlm.text.documents import read_texts

    def read() -> Iterator[str]:
        for source, text in read_texts(texts, account, reading=reading):
            sources.append(source)
            yield text

    return encoded(tokenizer, read())


def _check_reading(reading: Reading, texts: Sequence[str]) -> None:
    """LucidError for flags that say how a text is read where no text is given."""
    if not texts and reading != READING:
        flags = [f"--{name}" for name, value in asdict(reading).items() if value != getattr(READING, name)]
        raise LucidError(f"{', '.join(flags)}: no text is given to read so; give one, or leave this out")


def _check_places(inputs: Sequence[str | None], **places: str | None) -> None:
    """Before minutes are spent on what could not be written: each flag's file, if there is one."""
    from lucidlm.runtime.places import check_file_place

    seen: dict[str, str] = {}
    for flag, place in places.items():
        if place is None:
            continue
        check_file_place(place, f"--{flag}", inputs=filter(None, inputs))
        if (other := seen.setdefault(os.path.realpath(place), flag)) != flag:
            raise LucidError(f"--{other} and --{flag} are one file, {place}; give each a file of its own")


def _refuse_models(
    texts: Sequence[str],
    way_out: str,
    *,
    expected: str = "a text",
    prepared: bool = False,
    of_a_run: str = "",
    of_a_text: str = "",
) -> None:
    """LucidError for a run or a model that is given as a text, with what was meant, before one is loaded.

    `of_a_run` is the way out for runs where it is another than for models, `of_a_text` for prepared texts.
    """
    from lucidlm.text.own_folders import PREPARED, RUN, own_folder
    from lucidlm.text.sources import no_text

    for text in texts:
        kind = own_folder(text)
        if kind == PREPARED and expected == "a text" and not prepared:
            raise LucidError(no_text(text, kind))
        if kind is not None and (kind != PREPARED or not prepared):
            way = {RUN: of_a_run, PREPARED: of_a_text}.get(kind) or way_out
            raise LucidError(f"{text} is {kind}, not {expected}; {way.replace('{0}', quote(text))}")


def _seen(model: str, texts: Sequence[str], reading: Reading, *, held_out_of: str) -> "Seen | None":
    """How much a model was trained on of the texts or, without any, of a run's held-out text."""
    from lucidlm.display import stage_printer
    from lucidlm.runs.lineage import held_out_seen_by, lineage_of, seen_by
    from lucidlm.text.documents import read_documents

    for fault in lineage_of(model).faults:
        say(f"what {model} was trained on is not known: {fault}")
    if not texts:
        return held_out_seen_by(model, Path(held_out_of), progress=stage_printer)
    given = (document.pieces() for document in read_documents(texts, reading=reading))
    return seen_by(model, given, progress=stage_printer)


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


def _state(model: str) -> str:
    """That a run is training now or was interrupted, in one sentence; "" of a finished run and of others."""
    from lucidlm.runs.data import is_run
    from lucidlm.runs.folder import state_of

    run = Path(model)
    return state_of(run).sentence(run) if is_run(run) else ""


def _say_state(model: str) -> None:
    if state := _state(model):
        say(state)


def _own_validation_text(model: str) -> "tuple[Iterator[Excerpt], Design | None, float]":
    """A run's held-out text, what it is a sample of, and its share of that."""
    from lucidlm.runs.data import corpus_of_run
    from lucidlm.text.corpus import validation_documents
    from lucidlm.training.validation import design_of, fraction_of

    say(f"no text given: the validation text of {model}")
    corpus = corpus_of_run(Path(model))
    return validation_documents(corpus), design_of(corpus), fraction_of(corpus)


def _summary(result: "TrainResult") -> dict[str, Any]:
    summary: dict[str, Any] = {"run": str(result.run), "step": result.step, "time_s": result.time_s}
    if result.best is not None:
        summary["best_step"] = result.best.step
    if result.judgement is not None:
        summary |= result.judgement.to_dict()
    return summary | {"verdict": result.verdict, "interrupted": result.interrupted}


def _closing_lines(result: "TrainResult") -> str:
    if result.interrupted:
        doing = "" if result.judgement is None else " while its report was written"
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


def _print_runs(rows: list[dict[str, Any]]) -> None:
    wide = max(len(one_line(row["run"])) for row in rows)
    show(
        f"{'run':<{wide}} {'status':<11} {'steps':>7} {'best':>7} {'loss':>8} {'perplexity':>11} "
        f"{'bits/byte':>9} {'dtype':<8} {'threads':>7}  measured on"
    )
    for row in rows:
        head = f"{one_line(row['run']):<{wide}} {row['status']:<11} {row['steps']:>7,}"
        if row["best_step"] is None:
            show(f"{head}  {'; '.join(row['problems']) or 'no validation yet'}")
            continue
        tokens, of = row["validation_tokens"], row["heldout_tokens"]
        sample = f"a sample of {tokens:,} of {of:,} tokens" if of and of > tokens else plural(tokens, "token")
        sample = "; ".join([sample, *row["problems"]])
        show(
            f"{head} {row['best_step']:>7,} {fixed(row['validation_loss_nats'], 4):>8} "
            f"{fixed(row['perplexity'], 2):>11} {fixed(row['bits_per_byte'], 4):>9} "
            f"{row['dtype'] or '?':<8} {row['threads'] or '?':>7}  {sample}"
        )
