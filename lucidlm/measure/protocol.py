"""How a text is scored: the request that the verbs take as flags, and the record of what was really used."""

from dataclasses import dataclass
from typing import Literal, get_args

from lucidlm.errors import ConfigError
from lucidlm.runtime.ranges import Range, check_ranges

ProtocolName = Literal["lucid", "lm-eval", "hf-guide", "batch-mean"]
Dtype = Literal["float32", "bfloat16"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
SIDE_BY_SIDE = ("lm-eval", "batch-mean")
"""Protocols that have no stride of their own: each window begins where the one before it ends."""
BATCH_SIZES = Range(1, 2**16)

DIFFERENCES = {
    "lm-eval": (
        "counted as the evaluation harness does: windows side by side, so that a window's first tokens have "
        "next to nothing before them, and end-of-text first whatever the model was trained with; its "
        "local-completions model has windows of two tokens less (--context-length)"
    ),
    "hf-guide": (
        "counted as the transformers guide to perplexity does: no prefix, and each later window weighs one "
        "token less than it scores: wrong for small strides (at stride 1 only the first window counts)"
    ),
    "batch-mean": (
        "counted as the course's first code does: whole windows in whole batches, the rest dropped"
    ),
}
"""What each protocol of others does differently from ours."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a text is scored. What is left out depends on the model; `Scorer` finds it and checks the rest."""

    name: ProtocolName = "lucid"
    """lucid: every token once; as others count: lm-eval, hf-guide (transformers), batch-mean (the course)."""
    context_length: int | None = None
    """Tokens of a window (default: the model's context)."""
    stride: int | None = None
    """Tokens by which the window moves on (default: half of it); fewer give tokens more text before them."""
    prefix: Literal["auto", "none"] = "auto"
    """What the model reads before each document. auto: the end-of-text token, if the model was trained with
    that, else nothing. none: nothing. After nothing, the first token is not scored."""
    dtype: Dtype = "float32"
    """dtype of the matmuls."""
    batch_size: int | None = None
    """Windows at once; the number does not depend on it (batch-mean: the course's batches, default 2)."""

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ConfigError(f"--protocol {self.name}: not known; there are {', '.join(PROTOCOLS)}")
        if self.prefix not in ("auto", "none"):
            raise ConfigError(f"--prefix {self.prefix}: not known; there are auto and none")
        if self.stride is not None and self.name in SIDE_BY_SIDE:
            raise ConfigError(
                f"--stride {self.stride}: {self.name} sets its windows side by side; leave --stride out"
            )
        if self.name == "lm-eval" and self.prefix == "none":
            raise ConfigError(
                "--protocol lm-eval: the harness puts end-of-text first, leave --prefix none out"
            )
        check_ranges(self, {"batch_size": BATCH_SIZES})


LUCID = Protocol()
"""Every token scored once, with the model's own context and prefix, in float32."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a number was counted by: the protocol with all its values known."""

    name: str
    context_length: int
    stride: int
    prefix: str
    """What is before a document's first token: "end-of-text"; or "none", and that token is not scored."""
    dtype: str
    device: str
    in_pieces: bool = False
    """Whether pieces of a text were scored, each read after the text before it."""

    @property
    def difference(self) -> str:
        """What this protocol does differently from ours; "" for ours."""
        return DIFFERENCES.get(self.name, "")

    def __str__(self) -> str:
        """One line, to be shown beside the number."""
        scored = "is not scored" if self.prefix == "none" else "is predicted from the end-of-text token"
        first = f"the first token of a document {scored}"
        if self.in_pieces:
            first = f"each piece is scored with the text before it as context, {first}"
        shape = f"context {self.context_length}, stride {self.stride}"
        line = f"protocol {self.name}: {shape}, {first}, {self.dtype} on {self.device}"
        return f"{line}\n({self.difference})" if self.difference else line
