"""Mistakes in a divided net, each as a patch of this project's own code."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.collectives import _AllReduce, _Gather
from distributed.placement import PartialLinear
from model.keyed_random import image_keys
from model.layers import Dropout
from training.batches import LocalBatch
from training.trainer import Trainer

take_step, draw_masks = Trainer.train_step, Dropout.drop


def no_sum(stage: nn.Module, *_: Any, **__: Any) -> nn.Module:
    """Leave a stage as it is, where its gradients should be summed over the replicas."""
    return stage


def mean_of_means(self: Trainer, local: LocalBatch) -> Any:
    """Weigh the mean of each replica alike, whatever its share of the images."""
    count = len(local.batch.labels) * len(local.indices)
    return take_step(self, local._replace(global_count=count))


def key_by_place(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Derive masks and crops from an image's place in the replica's batch, not from the image."""
    return image_keys(seed, epoch, torch.arange(len(indices)))


def mask_first_units(self: Dropout, x: Tensor, keys: Tensor) -> Tensor:
    """Draw the masks of a rank's units as if they were the layer's first."""
    self.units = range(len(self.units))
    return draw_masks(self, x, keys)


def keep_own(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    """Return the gradient of own channels as this rank alone computed it."""
    return grad.chunk(ctx.ranks.size, 1)[ctx.ranks.index], None


def sum_again(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    """Sum over the ranks the gradient that each of them holds whole."""
    return dist.get_world_size() * grad, None


class Mistake(NamedTuple):
    """Something done wrong in a placement; ``made`` is the context in which it is."""

    name: str
    placement: str
    made: AbstractContextManager[Any] = nullcontext()


MISTAKES = (
    Mistake("none", "ddp"),
    Mistake("gradients are not summed", "ddp", patch("training.trainer.replicate", no_sum)),
    Mistake(
        "mean of the replicas' means", "ddp", patch.object(Trainer, "train_step", mean_of_means)
    ),
    Mistake(
        "masks by place in the batch", "ddp", patch("training.trainer.image_keys", key_by_place)
    ),
    Mistake("none", "split"),
    Mistake("both towers draw one mask", "split", patch.object(Dropout, "drop", mask_first_units)),
    Mistake("a gather returns own gradient", "split", patch.object(_Gather, "backward", keep_own)),
    Mistake("a sum's gradient is summed", "split", patch.object(_AllReduce, "backward", sum_again)),
    Mistake(
        "each rank adds fc8's bias",
        "split",
        patch.object(PartialLinear, "forward", nn.Linear.forward),
    ),
)
