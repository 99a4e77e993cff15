"""Data parallelism: gradients averaged over the replicas by DDP."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distributed.timer import StepTimer

BUCKET_MB = 5
"""DDP never cuts a parameter, so fc8, fc7 and fc6 fill a bucket each; this gathers conv5 to conv3
in one. What is left for the last bucket, which no computation hides, is conv2 and conv1: 1 MB of
244."""


def replicate(
    model: nn.Module, group: dist.ProcessGroup, timer: StepTimer, *, compress: bool
) -> nn.Module:
    """The model with its gradients averaged over ``group``; the model itself for one replica.

    With ``compress`` they travel, and are added up, as bf16. ``timer`` counts what averaging
    costs. DDP's ``static_graph`` stays off: it gains nothing where every parameter is used in every
    step, and fails when a run's first gradients are accumulated (``no_sync``).
    """
    if group.size() == 1:
        return model
    replica = DistributedDataParallel(
        model,
        process_group=group,
        bucket_cap_mb=BUCKET_MB,
        gradient_as_bucket_view=True,
    )
    replica.register_comm_hook(_Averaging(group, timer, compress), _booked_average)
    return replica


@dataclass
class _Averaging:
    group: dist.ProcessGroup
    timer: StepTimer
    compress: bool


def _booked_average(state: _Averaging, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average one bucket; once the last is handed over, nothing is left to hide the rest behind.

    Its gradients travel one by one: DDP makes other buckets after the first step than in it, and
    in which order the ranks' numbers are added depends on where they lie in what is sent. A run
    that is resumed, whose first step is another, would come to other digits.
    """
    n, gradients = state.group.size(), bucket.buffer()
    sent = gradients.to(torch.bfloat16) if state.compress else gradients
    state.timer.bytes_sent += 2 * (n - 1) / n * sent.nbytes
    if bucket.is_last():
        state.timer.switch("averaging")
    sizes = [gradient.numel() for gradient in bucket.gradients()]
    sums = [
        dist.all_reduce(part, group=state.group, async_op=True).get_future()
        for part in sent.div_(n).split(sizes)
    ]
    whole = torch.futures.collect_all(sums)
    return whole.then(lambda _: gradients.copy_(sent))
