"""Tensors that are divided among processes in, a folder of safetensors files out; and back in other parts.

torch.distributed.checkpoint writes and reads them, each process its own part, in its format for safetensors:
no pickle. Every call is one of all processes, or of a single one.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.runtime.distributed import World

SHARDS = "shards"
"""The folder of a checkpoint that has them."""


def write_shards(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Writes the tensors into a new folder, each process its part; an error of one is an OSError of all."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    folder.mkdir(exist_ok=True)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        checkpoint.save(dict(tensors), storage_writer=writer, process_group=world.group)
    except CheckpointException as error:
        raise _first_of(error) from None


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """The whole shapes of the tensors in a folder; WeightsError where its files are no whole safetensors."""
    return {name: tuple(about.size) for name, about in _metadata(folder).items()}


def read_shards(folder: Path, targets: Mapping[str, Tensor], world: World) -> None:
    """Fills the targets, of which each process may have only a part, with the tensors of a folder."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        with warnings.catch_warnings():  # one that a single process reads, as it should
            warnings.simplefilter("ignore", UserWarning)
            checkpoint.load(
                dict(targets),
                storage_reader=HuggingFaceStorageReader(str(folder)),
                process_group=world.group,
                no_dist=world.alone,
            )
    except CheckpointException as error:
        raise WeightsError(f"{folder}: {_first_of(error)}", "go back to another checkpoint") from None


def _metadata(folder: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        return dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder}: {error}", "go back to another checkpoint") from None


def _first_of(error: Any) -> OSError:
    """The error of the first process that had one, of whatever kind, as one of the disk."""
    rank, (cause, _) = min(error.failures.items())
    if isinstance(cause, OSError):
        return cause
    return OSError(f"rank {rank}: {type(cause).__name__}: {cause}")
