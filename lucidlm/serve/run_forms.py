"""A form for a training comes in, the arguments of `lucidlm train` go out; none can name a file or a host."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lucidlm.model.presets import Recipe, preset
from lucidlm.runs.settings import TrainConfig
from lucidlm.serve.forms import Form, Seed

STORY = "story"
"""The id of the text that comes with lucidlm."""
MOST_MINUTES, MOST_STEPS, MOST_EPOCHS = 24 * 60, 10**6, 10**4


def _in_utf8(text: str) -> str:
    """The text; ValueError for one that no argument of a program can be."""
    text.encode("utf-8")
    if "\0" in text:
        raise ValueError("it has a NUL character")
    return text


Size = Annotated[int, Field(ge=1, le=2**20)]
Text = Annotated[str, AfterValidator(_in_utf8)]


class NoForm(Form):
    """{}: the body of a request that needs none; as JSON, no page of another site can send it unasked."""


class OptimForm(Form):
    """The optimizer's settings; what is left out is chosen by the plan."""

    name: Literal["muon", "adamw"] | None = None
    lr: float | None = Field(None, description="Peak learning rate of AdamW.")
    matrix_lr: float | None = Field(None, description="Peak learning rate of Muon.")
    weight_decay: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    momentum: float | None = None
    row_beta: float | None = None
    warmup_steps: int | None = None
    decay_fraction: float | None = None
    clip: float | None = None


class TextForm(Form):
    """A text, and how it is read and divided."""

    text: str = Field(STORY, pattern=f"^({STORY}|[0-9a-f]{{12}})$", description="An id of /api/documents.")
    tokenizer: str | None = Field(None, pattern="^(gpt2|bytes|bpe:[0-9]{1,6})$")
    val_fraction: float | None = Field(None, gt=0, lt=1)
    split: Literal["auto", "pieces", "documents", "end"] | None = None
    encoding: str | None = Field(None, pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")
    field: Text | None = Field(None, min_length=1, max_length=100)
    raw: bool | None = None


class PlanForm(TextForm):
    """POST /api/plan."""

    minutes: float | None = Field(None, gt=0, le=MOST_MINUTES)
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    epochs: float | None = Field(None, gt=0, le=MOST_EPOCHS)
    preset: str | None = Field(None, max_length=40)
    context_length: Size | None = None
    drop_rate: float | None = None
    batch_tokens: Size | None = None
    micro_batch: Size | None = None
    validate_every: int | None = Field(None, ge=1, le=MOST_STEPS)
    seed: Seed | None = None
    early_stop: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    threads: int | None = Field(None, ge=0, le=1024)
    sample_prompt: Text | None = Field(None, min_length=1, max_length=500)
    optim: OptimForm | None = None


class TrainForm(PlanForm):
    """POST /api/runs: a training; at most one of minutes, steps and epochs (default: 3 minutes)."""

    name: str | None = Field(
        None,
        pattern="^[A-Za-z0-9_][A-Za-z0-9_-]{0,59}$",
        description="The folder of the run below the folder of runs (default: the text's name, numbered).",
    )


def settings_of(form: TextForm) -> dict[str, Any]:
    """The settings that a form has values for, as TrainConfig calls them; its text and name are no part."""
    given = form.model_dump(exclude_none=True, exclude={"text", "name"})
    return {name: value for name, value in given.items() if value != {}}


def config_of(form: TextForm, **others: Any) -> TrainConfig:
    """The request; ConfigError for values that contradict each other, are out of range or unknown."""
    settings = settings_of(form)
    if "preset" in settings:
        preset(settings["preset"])
    if "optim" in settings:
        settings["optim"] = Recipe(**settings["optim"])
    return TrainConfig(**settings, **others)


def flags_of(form: TextForm) -> list[str]:
    """The settings as flags. Each value is in one argument with its flag, so that it can be no other flag."""
    flags = []
    for name, value in settings_of(form).items():
        table = value if isinstance(value, dict) else {"": value}
        for key, item in table.items():
            flag = (f"{name}.{key}" if key else name).replace("_", "-")
            if isinstance(item, bool):
                flags.append(f"--{'' if item else 'no-'}{flag}")
            else:
                flags.append(f"--{flag}={item}")
    return flags
