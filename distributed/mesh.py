"""The mesh of ranks: this process's device, and its place in the groups of a plan."""

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist

from common.errors import ReportedError
from distributed.collectives import Ranks
from distributed.device import HostCopy, backend_for, patience_of, take_device
from distributed.plan import Grid, Plan, plan_alone
from distributed.timer import StepTimer
from launch.heartbeat import send_heartbeats, wait_for_key
from launch.world import group_store, join, launched_world

T = TypeVar("T")

MAIN_WORK = 3600.0
"""Seconds that ranks wait for work of rank 0: a download, a checkpoint."""
TIMEOUT = 100.0
"""Seconds that ranks wait for each other in everything else."""


class StageRanks(NamedTuple):
    """This rank's place in one stage of the net.

    ``slices`` together hold one copy of it, ``copies`` hold the same slice, and ``tower`` are those
    of the slices that share a tower.
    """

    slices: Ranks
    copies: Ranks
    tower: Ranks


@dataclass(frozen=True)
class Mesh:
    """This rank's place in a running process group, and the timer of what it costs.

    ``feeders`` are the ranks of a copy of the classifier that hold the same slice of the features,
    one in each replica that feeds it.
    """

    plan: Plan
    rank: int
    device: torch.device
    features: StageRanks
    classifier: StageRanks
    feeders: Ranks
    timer: StepTimer
    timeout: float = TIMEOUT
    _groups: "_Groups" = field(default_factory=lambda: _Groups())
    _turns: Iterator[int] = field(default_factory=itertools.count)
    """Numbers rank 0's work for all; heartbeats and these go on when the ranks are replanned."""

    @staticmethod
    def start(plan: Plan, timeout: float = TIMEOUT, *, share_devices: bool = False) -> "Mesh":
        """Take this process's device and join the process group; a single process gets its own.

        A rank then waits ``timeout`` seconds for another. With ``share_devices`` several may use
        one GPU. Raises ReportedError when there are too few GPUs, and NoAnswerError when a rank
        does not start.
        """
        world = launched_world()
        device = take_device(world.local_rank, world.local_size, shared=share_devices)
        if world.is_one_machine:
            # Neither library need find, nor listen on, an address that others can reach.
            loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={loopback}")
        store, backend = join(world), backend_for(device, shared=share_devices)
        dist.init_process_group(
            backend,
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=patience_of(backend, timeout),
            device_id=device if backend == "nccl" else None,
        )
        mesh = Mesh.over_running_group(plan, device, timeout)
        if world.size > 1:
            send_heartbeats(group_store(), world.rank, mesh.timer.whereabouts)
        return mesh

    @staticmethod
    def over_running_group(plan: Plan, device: torch.device, timeout: float = TIMEOUT) -> "Mesh":
        """The mesh over a default process group that already exists."""
        groups = _Groups(patience_of(dist.get_backend(), timeout))
        return _place(plan, timeout, groups, StepTimer(device), itertools.count())

    def replanned(self, plan: Plan) -> "Mesh":
        """A mesh of the same ranks by another plan, with the groups that this one has."""
        timer = StepTimer(self.device, self.timer.whereabouts)
        return _place(plan, self.timeout, self._groups, timer, self._turns)

    def alone(self, towers: int) -> "Mesh":
        """A mesh of this process alone, for a net of ``towers``; all ranks must make theirs."""
        everyone = [[rank] for rank in range(self.plan.world_size)]
        own = Ranks(self._groups.own(everyone), StepTimer(self.device, self.timer.whereabouts))
        stage, plan = StageRanks(own, own, own), plan_alone(towers)
        return Mesh(plan, 0, self.device, stage, stage, own, own.timer, self.timeout, self._groups)

    @property
    def replica(self) -> int:
        """The number of the features' replica that this rank belongs to."""
        return self.features.copies.index

    @property
    def fed_by(self) -> slice:
        """The features' replicas whose images this rank's classifier works on."""
        first = self.classifier.copies.index * self.plan.feeds
        return slice(first, first + self.plan.feeds)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which prints and writes for all."""
        return self.rank == 0

    def sum_over_replicas(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``values`` over the replicas, in place; the result is equal on every rank."""
        with self.timer.whereabouts.inside("sum over replicas"):
            dist.all_reduce(values, group=self.features.copies.group)
        return values

    def start_largest(self, value: float) -> Callable[[], float]:
        """Begin to find the largest value of all ranks; the result returns it, on every rank."""
        everyone = torch.full((), value, dtype=torch.float64, device=self.device)
        with self.timer.whereabouts.inside("agreement of all ranks"):
            dist.all_reduce(everyone, dist.ReduceOp.MAX)
        copy = HostCopy(everyone)
        return lambda: float(self.read(copy)[0])

    def largest(self, value: float) -> float:
        """The largest value of all ranks, on every rank."""
        return self.start_largest(value)()

    def read(self, numbers: HostCopy) -> list[Any]:
        """Numbers that other ranks had a part in; raises NoAnswerError when one does not answer."""
        with self.timer.whereabouts.inside("wait for all ranks"):
            return numbers.read(self.timeout)

    def union(self, values: set[str]) -> set[str]:
        """The union of all ranks' ``values``, on every rank."""
        everyone: list[set[str]] = [set()] * self.plan.world_size
        dist.all_gather_object(everyone, values)
        return set().union(*everyone)

    def check_equal(self, own: str, differing: str, advice: str) -> None:
        """Raise ReportedError on every rank if some have another ``own`` text."""
        if self.plan.world_size > 1 and len(found := self.union({own})) > 1:
            raise ReportedError(f"{differing} ({'; '.join(sorted(found))}): {advice}")

    def from_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on rank 0 alone and return its result on every rank.

        The other ranks wait as long as rank 0 sends heartbeats, but at most ``MAIN_WORK`` seconds.
        Its ReportedError is raised on every rank.
        """
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                with self.timer.whereabouts.inside("work for all ranks"):
                    outcome[0] = work()
            except ReportedError as error:
                outcome[1] = error
        self._wait_for_main()
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _wait_for_main(self) -> None:
        """Wait until rank 0 gets here too; raises NoAnswerError when it does not."""
        if self.plan.world_size == 1:
            return
        store, turn = group_store(), f"turn {next(self._turns)} of rank 0"
        if self.is_main:
            store.set(turn, "")
            return
        with self.timer.whereabouts.inside("wait for rank 0"):
            wait_for_key(store, turn, 0, self.timeout, MAIN_WORK)


def _place(
    plan: Plan, timeout: float, groups: "_Groups", timer: StepTimer, turns: Iterator[int]
) -> Mesh:
    def own(partition: list[list[int]]) -> Ranks:
        return Ranks(groups.own(partition), timer)

    def stage(grid: Grid) -> StageRanks:
        together = grid.copies()
        spread = plan.shards_of_tower(grid)
        return StageRanks(own(together), own(_across(together)), own(grid.parts(spread)))

    features, classifier = stage(plan.features), stage(plan.classifier)
    fed = [_across(ranks) for ranks in _feeding(plan)]
    feeders = own([group for groups in fed for group in groups])
    rank = dist.get_rank()
    places = features, classifier, feeders
    return Mesh(plan, rank, timer.device, *places, timer, timeout, groups, turns)


def _across(rows: list[list[int]]) -> list[list[int]]:
    """The columns of ``rows``."""
    return [list(column) for column in zip(*rows, strict=True)]


def _feeding(plan: Plan) -> list[list[list[int]]]:
    """For each copy of the classifier, the ranks of each of the features' replicas in it."""
    replicas = plan.features.copies()
    return [replicas[first : first + plan.feeds] for first in range(0, len(replicas), plan.feeds)]


class _Groups:
    """The process groups of this rank, each made once. All ranks must ask for the same ones."""

    def __init__(self, timeout: timedelta | None = None) -> None:
        self.timeout = timeout
        self.made: dict[str, dist.ProcessGroup] = {}

    def own(self, partition: list[list[int]]) -> dist.ProcessGroup:
        """The group of that part of the ranks which holds this one."""
        key = str(partition)
        if key not in self.made:
            group, _ = dist.new_subgroups_by_enumeration(partition, self.timeout)
            self.made[key] = cast(dist.ProcessGroup, group)
        return self.made[key]
