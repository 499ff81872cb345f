"""The command line's app and the option groups that several verbs share."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import App, Parameter

from lucidlm import __version__
from lucidlm.measure.protocol import Dtype, Protocol, ProtocolName
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.ranges import SEEDS, check_ranges
from lucidlm.text.reading import Reading

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


HowToRead = Annotated[Reading, Parameter(name="*", negative="")]
"""The flags --encoding, --field and --raw of every verb that reads texts."""
COMPUTE, STORED, SCORING, WINDOWS = Compute(), Stored(), Scoring(), Windows()
DEFAULTS = TrainConfig()
