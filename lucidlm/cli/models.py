"""The verbs about a model's files: info, import, export."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lucidlm.cli.inputs import load_as_stored, load_model, model_source, say_state
from lucidlm.cli.options import STORED, Machine, Stored, app
from lucidlm.errors import LucidError
from lucidlm.runtime.console import show, show_json
from lucidlm.runtime.wording import one_line, plural

if TYPE_CHECKING:
    from lucidlm.model.gpt import GPT
    from lucidlm.text.tokenizer import Tokenizer


@app.command
def info(model: str, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show what a model is: family, shape, parameters, tokenizer; and how its training went, for a run.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face or OpenAI folder, a published name (gpt2) or a preset.
    json
        Print the result as JSON.
    """
    from lucidlm.display import Display
    from lucidlm.weights.load import load

    source = model_source(model)
    if source.kind == "preset":  # a preset's random weights may need more memory than there is
        values = _shape_values(model, *load(source, device="meta", progress=Display()))
    elif not source.has_weights:
        values = _planned(model)
    else:
        values = _shape_values(model, *load_model(source, Machine(device="cpu")))
    if source.kind == "run":
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
    from lucidlm.report.course import course_of
    from lucidlm.report.verdict import course_sentences
    from lucidlm.runs.data import design_of_run
    from lucidlm.runs.history import read_history
    from lucidlm.runs.listing import state_of

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
    course = course_sentences(course_of(history, design=design_of_run(run)))
    return values | {"verdict": f"{state.sentence(run)} {course}".strip()}


@app.command(name="import")
def import_model(source: str, *, out: str, stored: Stored = STORED) -> None:
    """Copy a model from elsewhere into a folder: published GPT-2 weights, a model of the hub, or any folder.

    Parameters
    ----------
    source
        gpt2, gpt2-medium, gpt2-large, gpt2-xl, owner/name of the Hugging Face hub, or a folder: OpenAI's, or
        one with config.json and safetensors of GPT-2, Qwen3 or Llama.
    out
        The folder to write.
    """
    _write(source, out, stored)


@app.command
def export(
    model: str,
    *,
    out: str,
    format: Literal["hf", "gguf"] = "hf",
    kind: Literal["f32", "f16", "bf16", "q8_0"] | None = None,
    stored: Stored = STORED,
) -> None:
    """Write a model in another program's format, and check what was written.

    Parameters
    ----------
    model
        A run, a checkpoint, a Hugging Face or OpenAI folder, a published name (gpt2) or a preset.
    out
        The folder (hf) or file (gguf) to write.
    format
        hf: for transformers, vLLM, the evaluation harness. gguf: for llama.cpp, Ollama.
    kind
        outtype of the matrices in a gguf file (default: f16).
    """
    if kind is not None and format != "gguf":
        raise LucidError(
            f"--kind {kind}: only --format gguf has it; --dtype is the dtype of --format {format}"
        )
    _write(model, out, stored, format=format, kind=kind or "f16")


def _write(
    model: str,
    out: str,
    stored: Stored,
    *,
    format: Literal["hf", "gguf"] = "hf",
    kind: Literal["f32", "f16", "bf16", "q8_0"] = "f16",
) -> None:
    from lucidlm.display import Display
    from lucidlm.weights.export import check_place
    from lucidlm.weights.export import export as export_model

    check_place(out, format)
    source = model_source(model, stored.seed)
    loaded, tokenizer = load_as_stored(source, stored)
    say_state(source)
    with Display() as progress:
        export_model(loaded, tokenizer, out, format=format, kind=kind, progress=progress)
    checked = "every tensor compared" if format == "gguf" else "opened again, logits equal"
    show(f"{out}: {plural(loaded.n_parameters, 'parameter')}, tokenizer {tokenizer.name}; {checked}")
