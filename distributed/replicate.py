"""Data parallelism: gradients averaged over the replicas by DDP."""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


@dataclass
class Averaging:
    """What gradient averaging sends: bytes in all, and when the last bucket was handed over."""

    group: dist.ProcessGroup
    bytes: int = 0
    last_bucket: float = 0.0


def _counted(state: Averaging, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    n, gradients = state.group.size(), bucket.buffer()
    state.bytes += 2 * (n - 1) * gradients.numel() * gradients.element_size() // n
    state.last_bucket = time.perf_counter()
    return allreduce_hook(state.group, bucket)


def replicate(model: nn.Module, group: dist.ProcessGroup) -> tuple[nn.Module, Averaging]:
    """The model with its gradients averaged over ``group``; the model itself for one replica."""
    averaging = Averaging(group)
    if group.size() == 1:
        return model, averaging
    replica = DistributedDataParallel(
        model, process_group=group, gradient_as_bucket_view=True, broadcast_buffers=False
    )
    replica.register_comm_hook(averaging, _counted)
    return replica, averaging
