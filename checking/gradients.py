"""Summed gradients beside a sum by hand, while one rank is late."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from checking.report import Outcome
from checking.steps import Trainings, relative_error
from distributed.replication import replicate

LATE = 0.5
"""Seconds by which the last rank begins its backward pass after the others."""
WIDTH, LAYERS, IMAGES = 1024, 4, 8
"""4 MB of gradients in each layer, so that they travel in several buckets."""


def check_gradients(trainings: Trainings) -> Iterator[Outcome]:
    """Sum gradients over all ranks as fp32 and as bf16, and hold them against a sum by hand.

    Every rank computes the gradients of all others itself.
    """
    ranks = trainings.ranks
    if ranks == 1:
        yield Outcome("gradients of all ranks", None, "one rank")
        return
    for name, compress, tolerance in (
        ("gradients, fp32", False, 1e-5),
        ("gradients, compressed to bf16", True, ranks * 2**-8),
    ):
        error = trainings.mesh.largest(_error(trainings, compress=compress))
        said = f"largest relative error {error:.1e}, one rank {LATE} s late"
        yield Outcome(name, error <= tolerance, said)


def _error(trainings: Trainings, *, compress: bool) -> float:
    """The largest error of this rank's summed gradients in two steps; the first makes buckets."""
    mesh = trainings.mesh
    copies = mesh.features.copies.at("gradients")
    stage = _stage(mesh.device)
    replica = replicate(stage, copies, compress=compress)
    for _ in range(2):
        replica.zero_grad()
        loss = _loss(replica, mesh.rank, mesh.device)
        if mesh.rank == trainings.ranks - 1:
            time.sleep(LATE)
        loss.backward()
    sums = [parameter.grad for parameter in stage.parameters()]
    pairs = zip(sums, _by_hand(trainings.ranks, mesh.device), strict=True)
    return max(relative_error(found, expected) for found, expected in pairs if found is not None)


def _by_hand(ranks: int, device: torch.device) -> list[Tensor]:
    """The gradients of the sum of all ranks' losses."""
    stage = _stage(device)
    for rank in range(ranks):
        _loss(stage, rank, device).backward()
    return [parameter.grad for parameter in stage.parameters() if parameter.grad is not None]


def _stage(device: torch.device) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
    return nn.Sequential(*layers).to(device)


def _loss(stage: nn.Module, rank: int, device: torch.device) -> Tensor:
    """A loss that is another on each rank."""
    images = torch.randn(IMAGES, WIDTH, generator=torch.Generator().manual_seed(rank))
    return ((1 + rank) * stage(images.to(device)).sin()).sum()
