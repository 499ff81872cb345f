"""GPUs, a size and an amount of tokens come in; memory of each GPU, time and loss of the training come out.

Nothing is measured: layouts.py computes the memory, gpus.py has the rule of the speed, and the loss is
predicted as in Hoffmann 2022.
"""

from dataclasses import dataclass

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import preset
from lucidlm.training.alternatives import alternatives
from lucidlm.training.gpus import GPU, gpu_named, mfu, seconds_per_token
from lucidlm.training.layouts import LayoutFlags, PlannedLayout, default_layout, layouts_for
from lucidlm.training.sizes import amount, shape_of

IRREDUCIBLE, BY_SIZE, SIZE_POWER, BY_TOKENS, TOKENS_POWER = 1.69, 406.4, 0.34, 410.7, 0.28
"""Loss = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28: N parameters, D new tokens (Hoffmann 2022, equation 10)."""
SMALLEST_PREDICTED = 44_000_000
"""Parameters of the smallest model that this was fitted to."""
BEST_TOKENS = 20
"""Tokens for each parameter that give the lowest loss for the same compute (Hoffmann 2022, table 3)."""
LARGEST_GPUS = 2**16


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A training on many GPUs: its layouts, its time, and the loss that is predicted."""

    model: GPTConfig
    gpu: GPU
    gpus: int
    tokens: int
    layouts: tuple[PlannedLayout, ...]
    chosen: PlannedLayout | None
    """The default of `train` where it fits, else the first that fits; None where none does."""
    mfu: float
    """Share of the peak: as given, else by the rule of gpus.py for this trainer."""
    fused_mfu: float | None
    """The same for programs with fused kernels; None where the share was given."""
    way_out: str | None
    """What fits instead; None where a layout fits."""

    @property
    def seconds(self) -> float:
        """Time of the whole training."""
        return self.model.flops_per_token() * self.tokens / (self.mfu * self.gpu.flops_per_s * self.gpus)

    @property
    def gpu_hours(self) -> float:
        """Time x number of GPUs."""
        return self.seconds * self.gpus / 3600

    @property
    def tokens_per_s(self) -> float:
        """Speed of one GPU."""
        return self.tokens / self.seconds / self.gpus

    @property
    def tokens_per_parameter(self) -> float:
        """About 20 give the lowest loss for the compute; more pay for a model that is used a lot."""
        return self.tokens / self.model.n_parameters

    @property
    def loss_nats(self) -> float | None:
        """The loss that Hoffmann 2022 predict for their text and tokenizer; None for smaller models."""
        if self.model.n_parameters < SMALLEST_PREDICTED:
            return None
        return chinchilla_loss(self.model.n_parameters, self.tokens)


def chinchilla_loss(params: int, tokens: int) -> float:
    """Predicted loss in nats per token of a model with this many parameters after this many tokens.

    >>> round(chinchilla_loss(70_000_000_000, 1_400_000_000_000), 2)
    1.94
    """
    return IRREDUCIBLE + BY_SIZE / params**SIZE_POWER + BY_TOKENS / tokens**TOKENS_POWER


def plan_cluster(
    *,
    gpus: int,
    gpu: str = "h100",
    params: str | None = None,
    preset_name: str | None = None,
    tokens: str | None = None,
    context_length: int | None = None,
    replicas: int | None = None,
    shards: int | None = None,
    checkpointing: bool | None = None,
    share: float | None = None,
) -> ClusterPlan:
    """The plan; ConfigError where the request contradicts itself. `share`: the MFU, if it is known."""
    if not 1 <= gpus <= LARGEST_GPUS:
        raise ConfigError(f"--gpus {gpus}: give a number from 1 to {LARGEST_GPUS:,}")
    if share is not None and not 0 < share <= 1:
        raise ConfigError(f"--mfu {share:g}: it is a share of the peak; give a number above 0, at most 1")
    kind = gpu_named(gpu)
    model = _model(params, preset_name, context_length)
    count = BEST_TOKENS * model.n_parameters if tokens is None else amount("--tokens", tokens)
    flags = LayoutFlags(replicas, shards, checkpointing)
    layouts = layouts_for(model, kind, gpus, flags)
    fitting = [layout for layout in layouts if layout.windows]
    default = default_layout(model, kind, gpus, flags)
    chosen = next((each for each in fitting if (each.replicas, each.shards) == default), None)
    chosen = chosen or next(iter(fitting), None)
    computed_twice = (chosen or layouts[-1]).checkpointing
    by_rule = {
        program: mfu(
            model, kind, seconds_per_token(model, kind, program=program, checkpointing=computed_twice)
        )
        for program in ("lucidlm", "fused")
    }
    return ClusterPlan(
        model=model,
        gpu=kind,
        gpus=gpus,
        tokens=count,
        layouts=layouts,
        chosen=chosen,
        mfu=by_rule["lucidlm"] if share is None else share,
        fused_mfu=by_rule["fused"] if share is None else None,
        way_out=None if chosen is not None else alternatives(model, kind, gpus, flags),
    )


def _model(params: str | None, preset_name: str | None, context_length: int | None) -> GPTConfig:
    if (params is None) == (preset_name is None):
        raise ConfigError("--gpus needs the size of the model: give either --params, as in 7b, or --preset")
    if preset_name is not None:
        shape = preset(preset_name).shape
    else:
        assert params is not None
        shape = shape_of(amount("--params", params))
    return shape if context_length is None else shape.changed(context_length=context_length)
