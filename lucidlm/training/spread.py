"""A model with its loss comes in; it comes out on all processes of torchrun, with summed gradients.

A replica (DDP) holds the whole model. A shard (FSDP2) holds a part of each weight; a block gathers its
weights only while it computes. By default both average gradients. Here each loss is already divided by the
tokens of all processes, so the sum is right, and an average would be too small by the number of processes.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lucidlm.model.config import GPTConfig
from lucidlm.runtime.distributed import World

STATE_BYTES = 16
"""Bytes for each parameter in training: weight, gradient and AdamW's two moments, in float32."""
STATE_SHARE = 0.5
"""Share of a GPU's memory for weights, gradients and moments; the rest is for activations."""


def arranged(world: World, shape: GPTConfig, device: torch.device) -> tuple[int, int]:
    """Replicas and shards of a model: as given, else as few shards as the memory of a GPU allows."""
    fits = 1
    if device.type == "cuda":
        room = int(STATE_SHARE * torch.cuda.get_device_properties(device).total_memory)
        fits = -(-STATE_BYTES * shape.n_parameters // room)
    return world.layout.over(world.size, fits=fits)


def replicated(module: nn.Module, device: torch.device, finite: list[Tensor]) -> nn.Module:
    """The module, with gradients that are summed over all replicas after each backward pass.

    For each bucket of this process's own gradients, `finite` gets whether they are finite.
    """
    replica = nn.parallel.DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )

    def summed(state: list[Tensor], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        part = bucket.buffer()
        state.append(part.isfinite().all())
        work = dist.all_reduce(part, async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])

    replica.register_comm_hook(finite, summed)
    return replica


def sharded(module: nn.Module, blocks: Iterable[nn.Module], world: World, device: torch.device) -> None:
    """Shards each weight of the module over the processes of each replica, block by block.

    Everything outside of blocks (embeddings, last norm, head, which may be tied) is one group.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    replicas = world.size // world.shards
    mesh = init_device_mesh(device.type, (replicas, world.shards), mesh_dim_names=("replicas", "shards"))
    if replicas == 1:
        mesh = mesh["shards"]
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.set_gradient_divide_factor(1.0)
            each.set_force_sum_reduction_for_comms(True)


def resharded(module: nn.Module) -> None:
    """Shards again the weights that a forward pass without a backward pass has left gathered.

    Otherwise an optimizer made now would hold the gathered weights, whose gradients are never reset.
    """
    from torch.distributed.fsdp import FSDPModule

    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def distinct(model: nn.Module) -> list[Tensor]:
    """All tensors of the model's state; a tied tensor occurs once."""
    found = {tensor.data_ptr(): tensor.detach() for tensor in model.state_dict().values()}
    return list(found.values())
