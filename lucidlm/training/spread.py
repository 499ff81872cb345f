"""A model with its loss in, the same among the processes of torchrun out: their gradients are added up.

Replicas (DDP) each hold the whole model. Shards (FSDP2) hold a part of each weight, and the weights of a
block are whole only while it computes. Both engines average by default: with losses that are divided by the
tokens of all processes, a sum is the gradient of the mean, and an average would be too small by their number.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lucidlm.model.config import GPTConfig
from lucidlm.runtime.distributed import World

STATE_BYTES = 16
"""Of a weight in training: itself, its gradient and AdamW's two moments, in float32."""
STATE_SHARE = 0.5
"""Of a GPU's memory, for the state of the weights that it holds; the rest is for activations."""


def arranged(world: World, shape: GPTConfig, device: torch.device) -> tuple[int, int]:
    """Replicas and shards of a model: those asked for, else as few shards as the memory of a GPU allows."""
    fits = 1
    if device.type == "cuda":
        room = int(STATE_SHARE * torch.cuda.get_device_properties(device).total_memory)
        fits = -(-STATE_BYTES * shape.n_parameters // room)
    return world.layout.over(world.size, fits=fits)


def replicated(module: nn.Module, device: torch.device, finite: list[Tensor]) -> nn.Module:
    """The module, whose gradients are the sums over all replicas after each backward pass.

    `finite` gets, of each part of this process's own gradient, whether it was finite.
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
    """Divides each weight of the module among the shards of a world, in each of its replicas, block by block.

    All that is no block (embeddings, the last norm and the head, which may be an embedding) is one group.
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
    """Divides what a forward pass without a backward pass has left whole.

    Else an optimizer that is made now would hold the whole weights, whose gradients nobody empties.
    """
    from torch.distributed.fsdp import FSDPModule

    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def distinct(model: nn.Module) -> list[Tensor]:
    """Every tensor of the model's state, a tied one once."""
    found = {tensor.data_ptr(): tensor.detach() for tensor in model.state_dict().values()}
    return list(found.values())
