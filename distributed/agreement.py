"""Checks that ranks still agree: equal weights where they must be equal, and a common pace."""

import logging
import statistics
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import ReportedError
from distributed.device import HostCopy, kind_of
from distributed.mesh import Mesh
from distributed.placement import MeshPlacement
from model.alexnet import AlexNet

log = logging.getLogger(__name__)

SLOW = 1.5
"""A rank that works this many times as long as the others is worth a warning."""


def check_same_weights(mesh: Mesh, model: AlexNet, placement: MeshPlacement) -> None:
    """Compare a checksum of every weight over its copies.

    The slices' copies of fc8's bias are not compared with each other: their gradients are summed in
    groups of their own, which may round differently, and only one of them is used. Nor are devices
    of different kinds. Every rank must call it; it reads its weights once. Raises ReportedError on
    every rank when some differ, as after a bit flip in memory or a gradient that was not summed.
    """
    if len(kinds := mesh.union({kind_of(mesh.device)})) > 1:
        named = " and ".join(sorted(kinds))
        log.warning("ranks' weights are not compared: %s round differently", named)
        return
    names = [name for name, _ in model.named_parameters()]
    sums = torch.stack([_sum_of_bits(parameter) for parameter in model.parameters()])
    copies = [placement.sharding(name).copies for name in names]
    suspect = [-1, -1, mesh.rank]  # (place of a parameter, a rank that differs, this rank)
    for ranks in dict.fromkeys(copies):
        everyone = _gather(mesh, torch.cat([sums, sums.new_tensor([mesh.rank])]), ranks.group)
        first, own = everyone[0], everyone[ranks.index]
        places = [place for place, each in enumerate(copies) if each == ranks]
        if differing := [place for place in places if first[place] != own[place]]:
            suspect[:2] = [differing[0], first[-1]]
    for place, first_rank, rank in _gather(mesh, sums.new_tensor(suspect)):
        if place >= 0:
            raise ReportedError(
                f"ranks {first_rank} and {rank} should hold the same {names[place]}, and do not: a "
                "fault of memory, of a device or of the network; go on with --resume",
                retry=True,
            )


def slowest_rank(mesh: Mesh, seconds: float) -> dict[str, float]:
    """Find the rank with the longest own work; here it takes ``seconds`` a step.

    Every rank must call it. Returns metrics.
    """
    own = torch.tensor([seconds], dtype=torch.float64, device=mesh.device)
    everyone = [each for [each] in _gather(mesh, own)]
    slowest = max(range(len(everyone)), key=everyone.__getitem__)
    others = everyone[:slowest] + everyone[slowest + 1 :]
    if others and everyone[slowest] > SLOW * (usual := statistics.median(others)):
        log.warning(
            "rank %d is slow: its own work takes %.3f s of a step, and that of others %.3f s",
            *(slowest, everyone[slowest], usual),
        )
    return {"ranks/slowest": slowest, "ranks/slowest_seconds": everyone[slowest]}


@torch.no_grad()
def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Add up the numbers' bits, read as integers, (), int64: equal in any order and layout."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.view(integers).sum(dtype=torch.int64)


def _gather(mesh: Mesh, values: Tensor, group: dist.ProcessGroup | None = None) -> list[list[Any]]:
    """The ``values`` (N,) of each rank of a group, or of all."""
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, values, group)
    numbers = mesh.read(HostCopy(torch.cat(rows)))
    return [numbers[start : start + len(values)] for start in range(0, len(numbers), len(values))]
