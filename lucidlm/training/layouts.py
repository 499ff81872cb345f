"""A model and GPUs come in; the layouts of a training over them come out, with the memory of one GPU.

Nothing is measured: footprint.py computes the memory.
"""

from dataclasses import dataclass

from lucidlm.errors import ConfigError
from lucidlm.model.config import GPTConfig
from lucidlm.runtime.ranks import Layout
from lucidlm.training.footprint import GPUMemory, memory_on_a_gpu
from lucidlm.training.gpus import GPU
from lucidlm.training.spread import STATE_BYTES, STATE_SHARE


@dataclass(frozen=True, slots=True)
class LayoutFlags:
    """The flags of `lucidlm plan` that fix a part of the layout; None where a flag was not given."""

    replicas: int | None = None
    shards: int | None = None
    checkpointing: bool | None = None


@dataclass(frozen=True, slots=True)
class PlannedLayout:
    """A layout of a training over GPUs, and the memory that one of them needs."""

    replicas: int
    shards: int
    checkpointing: bool
    memory: GPUMemory
    """Of a micro-batch of one window."""
    windows: int
    """The largest micro-batch that fits, in windows; 0 where not even one window fits."""

    @property
    def flags(self) -> str:
        """The flags of `train` that give this layout."""
        more = " --checkpointing" if self.checkpointing else ""
        return f"--replicas {self.replicas} --shards {self.shards}{more}"

    @property
    def name(self) -> str:
        """The usual name: DDP, FSDP2, with checkpointing or without."""
        kind = "one GPU" if self.replicas == self.shards == 1 else "DDP" if self.shards == 1 else "FSDP2"
        return kind + (", checkpointing" if self.checkpointing else "")


def default_layout(model: GPTConfig, gpu: GPU, gpus: int, flags: LayoutFlags) -> tuple[int, int]:
    """Replicas and shards: those of the flags, else those that `train` chooses on these GPUs.

    ConfigError where the flags and the number of GPUs contradict each other.
    """
    for flag, value in (("--replicas", flags.replicas), ("--shards", flags.shards)):
        if value is not None and (value < 1 or gpus % value):
            raise ConfigError(f"{flag} {value}: it does not divide --gpus {gpus}; give {_near(value, gpus)}")
    replicas, shards = flags.replicas, flags.shards
    if replicas is not None and shards is not None and replicas * shards != gpus:
        raise ConfigError(
            f"--replicas {replicas} x --shards {shards} is not --gpus {gpus}; leave one of the two out"
        )
    fits = -(-STATE_BYTES * model.n_parameters // int(STATE_SHARE * 1e9 * gpu.gigabytes))
    return Layout(replicas=replicas, shards=shards).over(gpus, fits=fits)


def _near(value: int, count: int) -> str:
    """The divisors of `count` next to a value: as in "2 or 4"."""
    divisors = [each for each in range(1, count + 1) if count % each == 0]
    below = [each for each in divisors if each < value][-1:]
    above = [each for each in divisors if each > value][:1]
    return " or ".join(map(str, below + above))


def layouts_for(model: GPTConfig, gpu: GPU, gpus: int, flags: LayoutFlags) -> tuple[PlannedLayout, ...]:
    """The layouts to choose from: that of the flags; without any DDP, the choice of `train`, and FSDP2."""
    default = default_layout(model, gpu, gpus, flags)
    fixed = flags.replicas is not None or flags.shards is not None
    divisions = [default] if fixed else [*dict.fromkeys(((gpus, 1), default, (1, gpus)))]
    switches = (False, True) if flags.checkpointing is None else (flags.checkpointing,)
    return tuple(
        planned_layout(model, gpu, replicas=replicas, shards=shards, checkpointing=checkpointing)
        for checkpointing in switches
        for replicas, shards in divisions
    )


def planned_layout(
    model: GPTConfig, gpu: GPU, *, replicas: int, shards: int, checkpointing: bool
) -> PlannedLayout:
    """One layout, with its memory and the largest micro-batch that fits."""

    def memory(windows: int) -> GPUMemory:
        return memory_on_a_gpu(
            model,
            "adamw",
            tokens=windows * model.context_length,
            checkpointing=checkpointing,
            shards=shards,
            several=True,
        )

    # Memory grows with the windows, so doubling and halving the step finds the most that fit.
    windows, step = 0, 1
    while memory(windows + step).bytes <= gpu.usable_bytes:
        windows, step = windows + step, 2 * step
    while step > 1:
        step //= 2
        if memory(windows + step).bytes <= gpu.usable_bytes:
            windows += step
    return PlannedLayout(replicas, shards, checkpointing, memory(1), windows)
