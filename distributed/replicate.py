"""Data parallelism: gradients averaged over the replicas by DDP."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from distributed.ledger import Ledger


def replicate(model: nn.Module, group: dist.ProcessGroup, ledger: Ledger) -> nn.Module:
    """The model with its gradients averaged over ``group``; the model itself for one replica.

    ``ledger`` counts what averaging costs.
    """
    if group.size() == 1:
        return model
    replica = DistributedDataParallel(model, process_group=group, gradient_as_bucket_view=True)
    replica.register_comm_hook(_Averaging(group, ledger), _booked_average)
    return replica


@dataclass
class _Averaging:
    group: dist.ProcessGroup
    ledger: Ledger


def _booked_average(state: _Averaging, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average one bucket; once the last is handed over, nothing is left to hide the rest behind."""
    n = state.group.size()
    state.ledger.bytes_sent += 2 * (n - 1) / n * bucket.buffer().nbytes
    if bucket.is_last():
        state.ledger.switch("averaging")
    return allreduce_hook(state.group, bucket)
