"""The mesh of ranks: who computes which tower of which replica, on which device."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from distributed.device import backend_for, take_device
from distributed.ledger import Ledger
from model.errors import InputError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)
MOST_REPLICAS_DRAWN = 8


class World(NamedTuple):
    """What torchrun tells a process about itself; one process where there is no torchrun."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched_world() -> World:
    """The world that torchrun has put into the environment, read in this module alone."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return World(*(int(os.environ.get(name, alone)) for name, alone in names.items()))


@dataclass(frozen=True)
class Plan:
    """How ``replicas × ranks_per_replica`` processes share out the network's towers."""

    replicas: int
    ranks_per_replica: int
    towers: int

    @property
    def placement(self) -> Literal["local", "split"]:
        """Where the towers of a replica are: in one process, or one on each rank."""
        return "split" if self.ranks_per_replica > 1 else "local"

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.replicas * self.ranks_per_replica

    def picture(self) -> str:
        """A small drawing of the mesh, a line for each replica (the first few of many)."""
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
    """Share out ``world_size`` ranks; ``auto`` splits when they divide into the towers.

    Raises InputError when ``split`` is asked for and the numbers do not allow it.
    """
    divides = towers > 1 and world_size % towers == 0
    if placement == "split" and not divides:
        raise InputError(
            "placement split needs one rank for each tower, so the ranks must be a multiple of "
            f"the towers, and those at least 2: there are {world_size} ranks and {towers} towers"
        )
    per_replica = towers if placement != "local" and divides else 1
    return Plan(world_size // per_replica, per_replica, towers)


@dataclass(frozen=True)
class Mesh:
    """This rank's place in a running process group, and the ledger of what it costs."""

    plan: Plan
    rank: int
    device: torch.device
    tower_group: dist.ProcessGroup
    replica_group: dist.ProcessGroup
    ledger: Ledger

    @staticmethod
    def start(plan: Plan) -> "Mesh":
        """Take this process's device and join the process group (one of its own, if alone).

        Raises InputError when there are too few GPUs.
        """
        world = launched_world()
        device = take_device(world.local_rank, world.local_size)
        if world.size == world.local_size:
            # One machine: gloo need not find, nor listen on, an address that others can reach.
            loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        if "RANK" in os.environ:
            device_id = device if device.type == "cuda" else None
            dist.init_process_group(backend_for(device), timeout=TIMEOUT, device_id=device_id)
        else:  # no torchrun: no store to meet at, and nobody to meet
            store = dist.HashStore()
            dist.init_process_group(backend_for(device), store=store, rank=0, world_size=1)
        return Mesh.over_running_group(plan, device)

    @staticmethod
    def over_running_group(plan: Plan, device: torch.device) -> "Mesh":
        """The mesh of a default group that runs already."""
        mesh = init_device_mesh(
            device.type,
            (plan.replicas, plan.ranks_per_replica),
            mesh_dim_names=("replica", "tower"),
        )
        groups = mesh.get_group("tower"), mesh.get_group("replica")
        return Mesh(plan, dist.get_rank(), device, *groups, Ledger(device))

    @property
    def replica(self) -> int:
        """Which replica this rank belongs to."""
        return self.rank // self.plan.ranks_per_replica

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def sum_over_replicas(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over replicas, in place; equal on every rank."""
        dist.all_reduce(values, group=self.replica_group)
        return values

    def largest(self, value: float) -> float:
        """The largest of all ranks' values, on every rank."""
        everyone = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(everyone, dist.ReduceOp.MAX)
        return float(everyone)

    def from_main(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on rank 0, on every rank; its InputError is raised on every rank."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except InputError as error:
                outcome[1] = error.args
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise InputError(*outcome[1])
        return outcome[0]
