"""The mesh of ranks: which rank computes which tower of which replica, on which device."""

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist

from common.errors import ReportedError
from distributed.device import backend_for, take_device
from distributed.timer import StepTimer
from launch.heartbeat import send_heartbeats, wait_for_key
from launch.world import group_store, join, launched_world

T = TypeVar("T")

MAIN_WORK = 3600.0
"""Seconds that ranks wait for work of rank 0: a download, a checkpoint."""
TIMEOUT = 100.0
"""Seconds that ranks wait for each other in everything else."""
MOST_REPLICAS_DRAWN = 8


@dataclass(frozen=True)
class Plan:
    """A mesh of ``replicas × ranks_per_replica`` ranks for a net of ``towers``."""

    replicas: int
    ranks_per_replica: int
    towers: int

    @property
    def placement(self) -> Literal["local", "split"]:
        """``local``: a replica's towers in one process; ``split``: one on each rank."""
        return "split" if self.ranks_per_replica > 1 else "local"

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.replicas * self.ranks_per_replica

    def picture(self) -> str:
        """Draw the mesh, a line for each replica (the first few of many)."""
        per_rank = self.towers // self.ranks_per_replica
        lines = []
        for replica in range(min(self.replicas, MOST_REPLICAS_DRAWN)):
            ranks = []
            for place in range(self.ranks_per_replica):
                rank, first = replica * self.ranks_per_replica + place, place * per_rank
                towers = f"{first}" if per_rank == 1 else f"{first}-{first + per_rank - 1}"
                ranks.append(f"[ rank {rank}: tower {towers} ]")
            lines.append(f"  replica {replica}  " + " <-> ".join(ranks))
        if self.replicas > len(lines):
            lines.append(f"  … and {self.replicas - len(lines)} more replicas")
        return "\n".join(lines)


def plan_mesh(world_size: int, towers: int, placement: str) -> Plan:
    """Plan ``world_size`` ranks; ``auto`` splits if their number is a multiple of the towers.

    Raises ReportedError when ``split`` is asked for and the numbers do not allow it.
    """
    divides = towers > 1 and world_size % towers == 0
    if placement == "split" and not divides:
        raise ReportedError(
            "placement split needs one rank for each tower, so the ranks must be a multiple of "
            f"the towers, and those at least 2: there are {world_size} ranks and {towers} towers"
        )
    per_replica = towers if placement != "local" and divides else 1
    return Plan(world_size // per_replica, per_replica, towers)


@dataclass(frozen=True)
class Mesh:
    """This rank's place in a running process group, and the timer of what it costs."""

    plan: Plan
    rank: int
    device: torch.device
    tower_group: dist.ProcessGroup
    replica_group: dist.ProcessGroup
    timer: StepTimer
    timeout: float = TIMEOUT
    _turns: Iterator[int] = field(default_factory=itertools.count)

    @staticmethod
    def start(plan: Plan, timeout: float = TIMEOUT) -> "Mesh":
        """Take this process's device and join the process group; a single process gets its own.

        A rank then waits ``timeout`` seconds for another. Raises ReportedError when there are too
        few GPUs, and NoAnswerError when a rank does not start.
        """
        world = launched_world()
        device = take_device(world.local_rank, world.local_size)
        if world.is_one_machine:
            # Gloo need not find, nor listen on, an address that others can reach.
            loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        store = join(world)
        dist.init_process_group(
            backend_for(device),
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout),
            device_id=device if device.type == "cuda" else None,
        )
        mesh = Mesh.over_running_group(plan, device, timeout)
        if world.size > 1:
            send_heartbeats(group_store(), world.rank, mesh.timer.whereabouts)
        return mesh

    @staticmethod
    def over_running_group(plan: Plan, device: torch.device, timeout: float = TIMEOUT) -> "Mesh":
        """The mesh over a default process group that already exists."""
        ranks = torch.arange(plan.world_size).view(plan.replicas, plan.ranks_per_replica)
        towers, replicas = (_own_group(ranks, timeout), _own_group(ranks.T, timeout))
        return Mesh(plan, dist.get_rank(), device, towers, replicas, StepTimer(device), timeout)

    @property
    def replica(self) -> int:
        """The number of the replica that this rank belongs to."""
        return self.rank // self.plan.ranks_per_replica

    @property
    def is_main(self) -> bool:
        """True on rank 0, which prints and writes for all."""
        return self.rank == 0

    def sum_over_replicas(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``values`` over the replicas, in place; the result is equal on every rank."""
        with self.timer.whereabouts.inside("sum over replicas"):
            dist.all_reduce(values, group=self.replica_group)
        return values

    def largest(self, value: float) -> float:
        """The largest value of all ranks, on every rank."""
        everyone = torch.tensor(value, dtype=torch.float64, device=self.device)
        with self.timer.whereabouts.inside("agreement of all ranks"):
            dist.all_reduce(everyone, dist.ReduceOp.MAX)
        return float(everyone)

    def union(self, values: set[str]) -> set[str]:
        """The union of all ranks' ``values``, on every rank."""
        everyone: list[set[str]] = [set()] * self.plan.world_size
        dist.all_gather_object(everyone, values)
        return set().union(*everyone)

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


def _own_group(ranks: torch.Tensor, timeout: float) -> dist.ProcessGroup:
    """The process group of the row of ``ranks`` that holds this rank."""
    group, _ = dist.new_subgroups_by_enumeration(ranks.tolist(), timedelta(seconds=timeout))
    return cast(dist.ProcessGroup, group)
