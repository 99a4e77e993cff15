"""Data parallelism: gradients summed over the replicas by torch's DistributedDataParallel."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distributed.collectives import Ranks
from distributed.device import all_done

BUCKET_MB = 5
"""DDP never splits a parameter, so fc8, fc7 and fc6 fill a bucket each. This size puts conv5 to
conv3 into one. The last bucket, which no computation hides, is conv2 and conv1: 1 MB of 244."""


def replicate(
    stage: nn.Module, copies: Ranks, *, compress: bool, ends_backward: bool = True
) -> nn.Module:
    """Wrap a stage so that its gradients are summed over ``copies``; a single one stays as it is.

    The sum, not the mean: the loss is divided by the number of images in the global batch. With
    ``compress`` gradients travel, and are added, as bf16. The timer of ``copies`` counts the bytes
    and, where the backward of this stage ends all of it, the time that backward does not hide. Keep
    the result until backward has ended: its hooks live as long as it does.

    DDP's ``static_graph`` stays off: it gains nothing where every parameter is used in every step,
    and fails when a run's first gradients are accumulated (``no_sync``).
    """
    if copies.size == 1:
        return stage
    replica = DistributedDataParallel(
        stage,
        process_group=copies.group,
        bucket_cap_mb=BUCKET_MB,
        gradient_as_bucket_view=True,
    )
    replica.register_comm_hook(_Summing(copies, compress, ends_backward), _sum_bucket)
    return replica


def summing(stage: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """A context for forward, where DDP decides whether backward sums: if that is ``wanted``."""
    if wanted or not isinstance(stage, DistributedDataParallel):
        return nullcontext()
    return stage.no_sync()


@dataclass
class _Summing:
    copies: Ranks
    compress: bool
    ends_backward: bool


def _sum_bucket(state: _Summing, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Sum one bucket over the replicas.

    All-reduce each gradient separately: DDP rebuilds its buckets after step 1, which would change
    the order of summation, so a resumed run would differ in the last digits.
    """
    copies, gradients = state.copies, bucket.buffer()
    sent = gradients.to(torch.bfloat16) if state.compress else gradients
    copies.count(2 * (copies.size - 1) / copies.size * sent.nbytes)
    if state.ends_backward and bucket.is_last():  # no work is left to hide the rest behind
        copies.timer.switch("gradient_communication")
    sizes = [gradient.numel() for gradient in bucket.gradients()]
    sums = [dist.all_reduce(part, group=copies.group, async_op=True) for part in sent.split(sizes)]

    def arrived(done: torch.futures.Future[Any]) -> Tensor:
        done.value()  # raises the error of a collective that failed
        return gradients.copy_(sent)

    return all_done(sums, sent.device, copies.group).then(arrived)
