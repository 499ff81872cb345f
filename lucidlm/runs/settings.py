"""What a training run is asked for, and what it then does: TrainConfig is the request, Plan the answer.

No torch here: the command line's flags and help are made from these classes, and run.toml holds both.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import Recipe
from lucidlm.runtime.ranges import SEEDS, Range, check_ranges
from lucidlm.text.reading import Reading

LARGEST = 2**31 - 1
"""Of steps, tokens and threads: no run has more, and a damaged file may say so."""
LARGEST_FACTOR = 1000.0
DEFAULT_MINUTES = 3.0
"""Of a run without minutes, steps or epochs."""


_TRAIN = {
    "minutes": Range(0, 366 * 24 * 60, without_least=True, otherwise="continue a run later (--resume)"),
    "steps": Range(1, 10**9),
    "epochs": Range(0, 10**6, without_least=True),
    "context_length": Range(1, 2**20),
    "batch_tokens": Range(1, 2**30),
    "micro_batch": Range(1, 2**20),
    "validate_every": Range(1, 10**9),
    "val_fraction": Range(0, 1, without_least=True, without_most=True),
    "drop_rate": Range(0, 1, without_most=True),
    "checkpoint_seconds": Range(0, 10**9),
    "seed": SEEDS,
}


def _check_size(name: str, value: int) -> None:
    if isinstance(value, bool) or not 1 <= value <= LARGEST:
        raise ConfigError(f"{name} = {value!r:.40}: it must be from 1 to {LARGEST:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A request for a training run. The plan chooses each value that is None."""

    text: str | tuple[str, ...] = ()
    """Texts to train on: files, folders, patterns, URLs (default: the bundled story)."""
    out: str | None = None
    """Folder of the run (default: runs/ and the name of the text)."""
    minutes: float | None = None
    """Time limit for everything from start to saved model (default: 3, without steps or epochs)."""
    steps: int | None = None
    """Number of optimizer steps."""
    epochs: float | None = None
    """Number of passes over the training text."""
    preset: str | None = None
    """A model of known shape: lecture, gpt2-124m, modern-3m ..."""
    from_: str | None = None
    """Start from the weights of a run, a model folder or gpt2, with its shape and tokenizer."""
    tokenizer: str | None = None
    """gpt2, bytes, or bpe:N for N tokens learnt from the text (default: by the amount of text)."""
    context_length: int | None = None
    """Context length: tokens that the model sees at once."""
    drop_rate: float | None = None
    """Rate of dropout (default: by the number of epochs)."""
    batch_tokens: int | None = None
    """Tokens of one optimizer step."""
    micro_batch: int | None = None
    """Windows that go through a model at once; a step may need several (default: what fits)."""
    val: str | tuple[str, ...] = ()
    """Held-out texts of your own (default: a part of the training text is held out)."""
    val_fraction: float = 0.1
    """Part of the text that is held out, unless --val is given."""
    split: Literal["auto", "pieces", "documents", "end"] = "auto"
    """What is held out: pieces from all over the text, whole documents, or the end of each document
    (auto: documents where there are 20 or more, else pieces; preset lecture: the end, as in the course)."""
    encoding: str = "utf-8"
    """Encoding of the texts."""
    field: str = "text"
    """The field that holds the text: of .jsonl and .json, a column of .csv and .tsv."""
    raw: bool = False
    """Keep Project Gutenberg's header and footer."""
    optim: Recipe = dataclasses.field(default_factory=Recipe)
    """The optimizer's settings."""
    validate_every: int | None = None
    """Steps between two validations."""
    early_stop: bool = True
    """Stop when the validation loss rises for good."""
    sample_prompt: str | None = None
    """Prompt of the samples that are generated at each validation (default: words of the held-out text)."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints; saving never takes more than 5 % of the run."""
    seed: int = 123
    """Seed of the initial weights, the order of the text and dropout."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """dtype of matmuls. auto: the faster one with --minutes; else float32, on a GPU bfloat16."""
    threads: int = 0
    """CPU threads (0: one for each core)."""
    compile: bool = False
    """Compile the model with torch.compile; if that fails, train without it and print a note."""
    checkpointing: bool | None = None
    """Compute each block again in the backward pass instead of keeping its activations: less memory for
    about a third more work (default: where memory needs it)."""
    tensorboard: bool = False
    """Write TensorBoard's event files into the run too."""
    track: Literal["wandb", "trackio"] | None = None
    """Send losses and speeds to Weights & Biases, or to Trackio on this machine (docs/tracking.md)."""

    @property
    def reading(self) -> Reading:
        """How the texts are read."""
        return Reading(self.encoding, self.field, self.raw)

    @property
    def timed(self) -> bool:
        """Whether the run has a time limit; else steps or epochs say how long it is."""
        return self.seconds is not None

    @property
    def seconds(self) -> float | None:
        """Time of a run with a time limit; None where steps or epochs say how long it is."""
        open_end = self.steps is None and self.epochs is None
        return 60 * (self.minutes or DEFAULT_MINUTES) if open_end else None

    def __post_init__(self) -> None:
        check_ranges(self, _TRAIN)
        for name in ("text", "val"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, (value,))
        budgets = [name for name in ("minutes", "steps", "epochs") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ConfigError(f"--{' and --'.join(budgets)} contradict each other; give one of them")
        if self.from_ is not None:
            for name in ("preset", "tokenizer"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"--from {self.from_} brings its own shape and tokenizer; leave --{name} out"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the trained weights, apart from text and seed. It is saved in run.toml."""

    model: GPTConfig
    optim: Recipe
    batch_size: int
    """Windows of one optimizer step, of model.context_length tokens each."""
    micro_batch: int
    """Windows that go through a model at once: with workers, in each of them."""
    steps: int
    schedule: tuple[tuple[int, float], ...]
    """Corners (step, factor): the learning rate is its peak times the factor, linear in between."""
    validate_every: int
    validation_tokens: int
    """Tokens of the fixed samples of validation and training text that are evaluated each time."""
    dtype: Literal["float32", "bfloat16"]
    threads: int
    early_stop: bool
    compile: bool = False
    checkpointing: bool = False
    """Whether blocks are computed again in the backward pass; it changes no number."""
    moving_windows: bool = True
    """Whether the borders of the windows move from epoch to epoch; in the course they do not."""
    threads_from: tuple[tuple[int, int], ...] = ()
    """(step, threads): from this step on another number of threads computes, as the CPU was contended."""
    float32: Literal["stock", "onednn"] = "stock"
    """Kernels of float32 matmuls: PyTorch's own, or oneDNN's where a probe found them exact and faster."""
    workers: int = 0
    """Threads that each compute a fixed share of every batch; 0: all threads share each matmul."""

    def __post_init__(self) -> None:
        if self.optim.missing:
            raise ConfigError(f"plan.optim.{self.optim.missing[0]} is missing; restore this run.toml")
        for name in ("batch_size", "micro_batch", "steps", "validate_every", "validation_tokens", "threads"):
            _check_size(f"plan.{name}", getattr(self, name))
        if self.workers:
            _check_size("plan.workers", self.workers)
        for first, threads in self.threads_from:
            _check_size("plan.threads_from", threads)
            if first < 0:
                raise ConfigError(f"plan.threads_from: step {first}; it must be 0 or more")
        steps = [step for step, _ in self.schedule]
        if not steps or steps != sorted(set(steps)) or steps[0] < -1 or steps[-1] > LARGEST:
            raise ConfigError(
                f"plan.schedule: its steps are {steps!r:.80}; they must rise, from -1 or more on"
            )
        if odd := [factor for _, factor in self.schedule if not 0 <= factor <= LARGEST_FACTOR]:
            raise ConfigError(f"plan.schedule: a factor of {odd[0]}; it must be from 0 to {LARGEST_FACTOR}")

    def threads_at(self, step: int) -> int:
        """Threads that compute a step."""
        return next(
            (threads for first, threads in reversed(self.threads_from) if step >= first), self.threads
        )

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.model.context_length

    @property
    def decays(self) -> bool:
        """Whether the learning rate falls to 0 at the end."""
        return len(self.schedule) > 1 and self.schedule[-1][1] == 0.0

    @property
    def decay_from(self) -> int:
        """The step at which the decay begins; for a constant rate, a third of the steps."""
        return self.schedule[-2][0] if self.decays else self.steps // 3

    @property
    def early_stop_from(self) -> int:
        """No run is stopped before this step: the decay may lower a loss that has risen at the full rate."""
        return max(self.decay_from, self.steps // 3)
