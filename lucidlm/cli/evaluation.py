"""The verb evaluate: a model and a text come in; loss, perplexity, bits per byte and gates go out."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

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
    seen_of,
    state_line,
)
from lucidlm.cli.options import (
    COMPUTE,
    DOCUMENTS,
    GATE,
    SCORING,
    Compute,
    Documents,
    Gate,
    HowToRead,
    Scoring,
    app,
)
from lucidlm.errors import LucidError
from lucidlm.runtime.console import say, show, show_json, silenced
from lucidlm.runtime.ranks import Layout, Rank, this_rank
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.reading import READING, Reading

if TYPE_CHECKING:
    from lucidlm.measure.document_scores import DocumentScore
    from lucidlm.measure.gate import StoredResult, Verdict
    from lucidlm.measure.intervals import Design
    from lucidlm.measure.scoring import Scorer
    from lucidlm.measure.seen import Seen
    from lucidlm.measure.shares import Share
    from lucidlm.model.gpt import GPT
    from lucidlm.report.assessment import Assessment
    from lucidlm.runtime.distributed import World
    from lucidlm.weights.load import Source


@dataclass(frozen=True, slots=True)
class _Text:
    """What evaluate scores; `account` and `sources` are complete when all documents are read."""

    documents: Iterable[Any]
    run: Path | None = None
    """The run whose held-out text it is; None of texts that were given."""
    design: "Design | None" = None
    fraction: float = 0.0
    account: Account = field(default_factory=Account)
    sources: list[str] = field(default_factory=list)


@app.command
def evaluate(
    model: str,
    *texts: str,
    protocol: Scoring = SCORING,
    reading: HowToRead = READING,
    baselines: bool | None = None,
    gate: Gate = GATE,
    answer: Documents = DOCUMENTS,
    compute: Compute = COMPUTE,
) -> int:
    """Measure how well a model predicts a text: loss, perplexity, bits per byte.

    Exit code: 0; 1 a gate failed (--max-bits, --baseline); 2 wrong input, or a text too short to tell.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face folder, a published name (gpt2) or a preset.
    texts
        Files, folders, patterns, URLs or - for standard input; none: the run's own held-out text.
    baselines
        Compare with gzip, xz and n-grams on the same text, and count how much of what the model generates is
        copied from its training text (default: yes, for a run and the protocol lucid).
    """
    given = _Request(model, texts, protocol, reading, baselines, gate, answer, compute)
    if this_rank().size == 1:
        return _evaluated(given, None)
    from lucidlm.runtime.distributed import joined

    with (
        joined(Layout(), device="cpu") as world,  # no weights are exchanged
        world.said_once(),
        contextlib.nullcontext() if world.first else silenced(),
    ):
        _check_shared(given, world.rank)
        return _evaluated(given, world)


@dataclass(frozen=True, slots=True)
class _Request:
    """What evaluate is asked for."""

    model: str
    texts: tuple[str, ...]
    protocol: Scoring
    reading: Reading
    baselines: bool | None
    gate: Gate
    answer: Documents
    compute: Compute


def _evaluated(given: _Request, world: "World | None") -> int:
    """The exit code; `world` has the processes that share the text, of which the first answers."""
    texts, protocol, gate, answer = given.texts, given.protocol, given.gate, given.answer
    source = model_source(given.model, given.compute.seed)
    _check_request(source, texts, given.reading, gate, answer)
    run = source.path if _has_text(source) else None
    if given.baselines and (run is None or protocol.name != "lucid"):
        raise LucidError(f"--baselines: they need a run and --protocol lucid, not {_which(source, protocol)}")
    stored = _stored_result(gate)
    held_out_of = None if texts else run_with_text(source)
    loaded, tokenizer = load_model(source, given.compute, given.compute.seed)
    dtype = matmul_dtype(given.compute.dtype, loaded.device)
    scorer = _scorer(loaded, tokenizer, replace(protocol, dtype=dtype), stored)
    text = _held_out(held_out_of) if held_out_of is not None else _given(texts, scorer, given.reading)
    share = _share(world, loaded, scorer, given, held_out_of) if world is not None else None
    if share is not None and not share.world.first:
        from lucidlm.measure.evaluation import score_share

        score_share(loaded, tokenizer, text.documents, share, protocol=scorer.protocol)
        return 0
    seen = seen_of(source, texts, given.reading, held_out_of=held_out_of or Path(given.model))
    remarks = (line,) if (line := state_line(source)) else ()
    corpus_run = run if protocol.name == "lucid" and given.baselines is not False else None
    result = _assessed(loaded, scorer, text, corpus_run, seen, remarks, share)
    verdicts = _verdicts(result, gate, stored)
    scores = _document_scores(result, text) if answer.by is not None else []
    _show_result(result, verdicts, scores, answer)
    code = _gate_code(verdicts)
    title = f"{given.model} on {', '.join(texts)}" if texts else given.model
    _write_files(result, scores, answer, title=title, run=None if texts else run)
    if share is not None:
        share.forget()
    return code


def _check_shared(given: _Request, rank: Rank) -> None:
    """LucidError for what several processes cannot do; each takes a GPU of its own."""
    from lucidlm.text.pipes import DASH, STDIN

    for text in given.texts:
        if text in (DASH, STDIN) or Path(text).is_fifo():
            raise LucidError(
                f"{text}: a pipe is read by one process, torchrun has started {rank.size}; give a file"
            )
    if given.compute.device not in ("auto", "cuda"):
        return
    import torch

    if torch.cuda.is_available():
        if rank.local >= (count := torch.cuda.device_count()):
            raise LucidError(
                f"{rank.local_size} processes on a machine of {plural(count, 'GPU')}; start "
                f"{count} (--nproc-per-node)"
            )
        torch.cuda.set_device(rank.local)


def _share(
    world: "World", model: "GPT", scorer: "Scorer", given: _Request, held_out_of: Path | None
) -> "Share":
    """This process's part of the text."""
    from lucidlm.measure.compression import model_hash
    from lucidlm.measure.shares import Share, hash_of
    from lucidlm.text.documents import read_texts

    if held_out_of is not None:
        documents: Iterable[Any] = own_validation_text(held_out_of)[0]
    else:
        documents = (text for _, text in read_texts(given.texts, Account(), reading=given.reading))
    return Share(
        world,
        scorer,
        model=model_hash(model, scorer.tokenizer).hex(),
        text=hash_of(documents, scorer.context_length),
    )


def _check_request(
    source: "Source", texts: Sequence[str], reading: Reading, gate: Gate, answer: Documents
) -> None:
    """LucidError for what cannot be done, before a model is loaded."""
    check_reading(reading, texts)
    refuse_models(texts, f"to compare two models: lucidlm compare {quote(source.name)} {{0}}")
    if gate.baseline is not None:
        way_out = "store its result first: lucidlm evaluate {0} TEXT --json > FILE"
        wanted = "give what lucidlm evaluate MODEL TEXT --json > FILE wrote"
        refuse_models([gate.baseline], way_out, expected="a stored result", of_a_text=wanted)
    if answer.csv is not None and answer.by is None:
        raise LucidError("--csv needs --by document")
    check_places([source.name, *texts, gate.baseline], html=answer.html, csv=answer.csv)


def _has_text(source: "Source") -> bool:
    """Whether it is a run whose training text is at hand."""
    from lucidlm.runs.data import is_run

    return source.kind == "run" and source.path is not None and is_run(source.path)


def _which(source: "Source", protocol: Scoring) -> str:
    return f"--protocol {protocol.name}" if _has_text(source) else source.name


def _stored_result(gate: Gate) -> "StoredResult | None":
    from lucidlm.measure import gate as gates

    if gate.max_bits is not None:
        gates.check_limit(gate.max_bits)
    return gates.read_result(gate.baseline) if gate.baseline is not None else None


def _scorer(model: Any, tokenizer: Any, protocol: Scoring, stored: "StoredResult | None") -> "Scorer":
    """The scorer; ConfigError where a stored result was counted in another way."""
    from lucidlm.measure import gate as gates
    from lucidlm.measure.scoring import Scorer

    scorer = Scorer(model, tokenizer, protocol)
    if stored is not None:
        gates.check_settings(stored, scorer)
    return scorer


def _held_out(run: Path) -> _Text:
    documents, design, fraction = own_validation_text(run)
    return _Text(documents, run, design, fraction)


def _given(texts: Sequence[str], scorer: "Scorer", reading: Reading) -> _Text:
    from lucidlm.text.documents import read_texts

    account, sources = Account(), list[str]()

    def read() -> Iterator[str]:
        for source, text in read_texts(texts, account, reading=reading):
            sources.append(source)
            yield text

    return _Text(map(scorer.encoded, read()), account=account, sources=sources)


def _assessed(
    model: "GPT",
    scorer: "Scorer",
    text: _Text,
    run: Path | None,
    seen: "Seen | None",
    remarks: tuple[str, ...],
    share: "Share | None",
) -> "Assessment":
    """The evaluation; with what the training text of `run` says about it, where there is one."""
    from lucidlm.display import Display
    from lucidlm.report.assessment import Background, HeldOut, assess
    from lucidlm.runs.data import corpus_of_run
    from lucidlm.runs.history import read_history

    background = Background(
        corpus=corpus_of_run(run) if run is not None else None,
        history=read_history(run) if run is not None and text.run is not None else None,
        seen=seen,
        remarks=remarks,
    )
    held_out = HeldOut(text.documents, text.design, text.fraction)
    with Display() as progress:
        result = assess(
            model,
            scorer.tokenizer,
            held_out,
            background,
            protocol=scorer.protocol,
            share=share,
            progress=progress,
        )
    if text.run is not None:
        return result
    return replace(result, evaluation=replace(result.evaluation, account=text.account))


def _verdicts(result: "Assessment", gate: Gate, stored: "StoredResult | None") -> "list[Verdict]":
    from lucidlm.measure import gate as gates

    limit = gate.max_bits
    verdicts = [gates.below_limit(result.evaluation, limit)] if limit is not None else []
    return verdicts + ([gates.no_worse(result.evaluation, stored)] if stored is not None else [])


def _document_scores(result: "Assessment", text: _Text) -> "list[DocumentScore]":
    from lucidlm.measure.document_scores import score_documents
    from lucidlm.runs.data import corpus_of_run
    from lucidlm.text.corpus import held_out_names

    of = result.evaluation
    names = text.sources if text.run is None else held_out_names(corpus_of_run(text.run), of.documents)
    return score_documents(of.by_document, names, by_bytes=of.bytes_scored > 0)


def _show_result(
    result: "Assessment", verdicts: "list[Verdict]", scores: "list[DocumentScore]", answer: Documents
) -> None:
    from lucidlm.measure.document_scores import table

    if answer.json:
        values = {"gate": [verdict.to_dict() for verdict in verdicts]} if verdicts else {}
        if answer.by is not None:
            values["by_document"] = [score.to_dict() for score in scores]
        show_json(result.to_dict() | values)
    else:
        show(result)
        if scores:
            show("\n".join(["", *table(scores, kind=_kind(result))]))
    sys.stdout.flush()  # the result is out before anything else can go wrong


def _kind(result: "Assessment") -> str:
    return "piece" if result.evaluation.protocol.in_pieces else "document"


def _write_files(
    result: "Assessment", scores: "list[DocumentScore]", answer: Documents, *, title: str, run: Path | None
) -> None:
    from lucidlm.measure.document_scores import counted, write_csv
    from lucidlm.report.run_page import write_report

    if answer.csv is not None:
        write_csv(answer.csv, scores)
        say(f"{answer.csv}: {counted(scores, _kind(result))}")
    if answer.html is not None:
        write_report(answer.html, result, title=title, run=run)
        say_page(answer.html)


def _gate_code(verdicts: "list[Verdict]") -> int:
    """Exit code of the gates that were asked for, with one line on stderr."""
    if not verdicts:
        return 0
    # Failed ones alone where there are some: one line, and the reason in it.
    failed = [verdict for verdict in verdicts if not verdict.passed]
    lines = "; ".join(verdict.line for verdict in failed or verdicts)
    say(f"gate {'failed' if failed else 'passed'}: {lines}")
    return 1 if failed else 0
