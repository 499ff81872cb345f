"""The command line's app and the option groups that several verbs share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.help import DefaultFormatter, HelpPanel

from lucidlm import __version__
from lucidlm.measure.protocol import Dtype, Protocol, ProtocolName
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.ranges import SEEDS, check_ranges
from lucidlm.text.reading import Reading

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions


def _shown_default(value: object) -> str | None:
    """A default as help shows it; None for an empty one and for a switch that is off."""
    return None if value is None or value is False or value in ("", ()) else str(value)


class _Help(DefaultFormatter):
    """The help of flags, in lines that end where the terminal ends, not where those of a docstring end."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: HelpPanel) -> None:
        from rich.text import Text

        for entry in panel.entries:
            entry.description.primary_renderable = Text(
                " ".join(str(entry.description.primary_renderable).split())
            )
        super().__call__(console, options, panel)


app = App(
    name="lucidlm",
    help="From any text to a language model whose quality is a number you can trust.",
    help_format="plaintext",
    help_formatter=_Help(),
    version=__version__,
    default_parameter=Parameter(show_default=_shown_default),
    suppress_keyboard_interrupt=False,  # main says what was interrupted, and by which signal
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a verb computes on."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: int = 0
    """CPU threads (0: all)."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Machine):
    """How the verbs compute whose result must be exact: always in float32."""

    seed: int | None = None
    """Seed of the random weights of a preset (default: 123)."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seed": SEEDS})


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Compute(Exact):
    """How the verbs compute that score a text."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """dtype of the matmuls (auto: float32 on a CPU, bfloat16 on a GPU)."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How a verb reads the weights that it writes."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the weights (auto: as they are stored)."""
    seed: int | None = None
    """Seed of the random weights of a preset (default: 123)."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seed": SEEDS})


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Scoring(Protocol):
    """How evaluate scores a text; its --dtype is that of `Compute`."""

    name: Annotated[ProtocolName, Parameter(name="--protocol")] = "lucid"
    dtype: Annotated[Dtype, Parameter(parse=False)] = "float32"


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Windows(Scoring):
    """How the verbs that score every token once read a text."""

    name: Annotated[ProtocolName, Parameter(parse=False)] = "lucid"
    batch_size: Annotated[int | None, Parameter(parse=False)] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """When evaluate exits with 1."""

    max_bits: float | None = None
    """Exit with 1 if the result has more bits per byte than this."""
    baseline: str | None = None
    """Exit with 1 if the result is worse than this one by more than its 95 % interval. A file that
    lucidlm evaluate MODEL TEXT --json > FILE wrote, of the same text."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Where a verb writes its result, besides standard output."""

    html: str | None = None
    """Write a report to this file: one HTML page without external files."""
    json: Annotated[bool, Parameter(negative="")] = False
    """Print the result as JSON."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Documents(Answer):
    """How evaluate shows its result."""

    by: Literal["document"] | None = None
    """document: add a table of the documents, the worst first; --csv and --json have all of them."""
    csv: str | None = None
    """Write the table of --by document to this file."""


HowToRead = Annotated[Reading, Parameter(name="*", negative="")]
"""The flags --encoding, --field and --raw of every verb that reads texts."""
MACHINE, EXACT, COMPUTE, STORED = Machine(), Exact(), Compute(), Stored()
SCORING, WINDOWS, GATE, ANSWER, DOCUMENTS = Scoring(), Windows(), Gate(), Answer(), Documents()
DEFAULTS = TrainConfig()
DEFAULT_SEED = DEFAULTS.seed
