"""One rank's part of a net under a plan, alone: the other ranks are imitated.

It does the work of that rank, by the same code, and sends nothing: what others would send are its
own messages. So its time is what the rank computes, and its numbers mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from distributed.collectives import Ranks
from distributed.device import Started
from distributed.mesh import Mesh, StageRanks
from distributed.plan import Grid, Plan
from distributed.timer import StepTimer


@dataclass(frozen=True)
class Echo(Ranks):
    """``many`` ranks, of which this is the first; the others say what it says."""

    many: int = 1

    @property
    @override
    def size(self) -> int:
        return self.many

    @property
    @override
    def index(self) -> int:
        return 0

    @override
    def start(self, collective: Any, to: Tensor, what: Tensor) -> Started:
        to.unflatten(0, (-1, len(what))).copy_(what.expand(len(to) // len(what), *what.shape))
        return Started(to[None], None)

    @override
    def swap(self, to: Tensor, what: Tensor, counts: list[int]) -> None:
        to.copy_(what)

    @override
    def add_up(self, x: Tensor) -> None:
        pass

    @override
    def start_gather(self, own: Tensor, counts: Sequence[int]) -> Started:
        return Started(own.repeat(self.many, 1)[None], None)

    @override
    def start_sum(self, parts: Tensor, counts: Sequence[int]) -> Started:
        return Started(parts.unflatten(0, (self.many, -1)), None)


def imitated_mesh(plan: Plan, device: torch.device) -> Mesh:
    """The first rank's place in a mesh without other ranks; every replica has as many images."""
    timer = StepTimer(device)

    def ranks(count: int) -> Echo:
        return Echo(None, timer, many=count)  # type: ignore[arg-type]  # no group to send to

    def stage(grid: Grid) -> StageRanks:
        tower = ranks(plan.shards_of_tower(grid))
        return StageRanks(ranks(grid.shards), ranks(grid.replicas), tower)

    places = stage(plan.features), stage(plan.classifier)
    return Mesh(plan, 0, device, *places, ranks(plan.feeds), timer)
