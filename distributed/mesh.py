"""The mesh of ranks: who computes which tower of which replica, on which device."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from model.errors import InputError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True)
class Plan:
    """How ``replicas × ranks per replica`` processes share out the network's towers."""

    replicas: int
    ranks_per_replica: int
    towers: int

    @property
    def placement(self) -> str:
        return "split" if self.ranks_per_replica > 1 else "local"

    def picture(self) -> str:
        """A small drawing of the mesh, a line for each replica."""
        per_rank = self.towers // self.ranks_per_replica
        lines = []
        for replica in range(self.replicas):
            ranks = []
            for place in range(self.ranks_per_replica):
                towers = range(place * per_rank, (place + 1) * per_rank)
                rank = replica * self.ranks_per_replica + place
                ranks.append(f"[ rank {rank}: tower {' '.join(map(str, towers))} ]")
            lines.append(f"  replica {replica}  " + " <-> ".join(ranks))
        return "\n".join(lines)


def plan_mesh(world_size: int, towers: int, placement: str) -> Plan:
    """Share out ``world_size`` ranks; ``auto`` splits when they divide into the towers.

    Raises InputError when ``split`` is asked for and the numbers do not allow it.
    """
    divides = towers > 1 and world_size % towers == 0
    if placement == "split" and not divides:
        raise InputError(
            f"placement split needs one rank for each tower, so the ranks must be a multiple of "
            f"the towers (at least 2): there are {world_size} ranks and {towers} towers"
        )
    per_replica = towers if placement != "local" and divides else 1
    return Plan(world_size // per_replica, per_replica, towers)


def launched_world() -> tuple[int, int]:
    """(rank, world size) as torchrun has set them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@dataclass(frozen=True)
class Mesh:
    """This rank's place in a running process group."""

    plan: Plan
    rank: int
    device: torch.device
    tower_group: dist.ProcessGroup
    replica_group: dist.ProcessGroup

    @property
    def replica(self) -> int:
        return self.rank // self.plan.ranks_per_replica

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @staticmethod
    def start(plan: Plan, device_type: str | None = None) -> "Mesh":
        """Join the process group (of one, without torchrun) and take this rank's device."""
        device_type = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
        rank, world_size = launched_world()
        device = torch.device(device_type)
        if device_type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        backend = "nccl" if device_type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=TIMEOUT)
        else:
            dist.init_process_group(
                backend, store=dist.HashStore(), rank=rank, world_size=world_size, timeout=TIMEOUT
            )
        return Mesh.over_running_group(plan, device)

    @staticmethod
    def over_running_group(plan: Plan, device: torch.device) -> "Mesh":
        """The mesh of an already initialised default group."""
        mesh = init_device_mesh(
            device.type,
            (plan.replicas, plan.ranks_per_replica),
            mesh_dim_names=("replica", "tower"),
        )
        return Mesh(
            plan, dist.get_rank(), device, mesh.get_group("tower"), mesh.get_group("replica")
        )

    def stop(self) -> None:
        dist.destroy_process_group()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over replicas, in place; equal on every rank."""
        dist.all_reduce(values, group=self.replica_group)
        return values

    def from_main(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on rank 0, on every rank; its InputError is raised on every rank."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except InputError as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise InputError(outcome[1])
        return outcome[0]

    def gather(self, value: float) -> list[float]:
        """Every rank's value, in rank order."""
        own = torch.tensor([value], dtype=torch.float64, device=self.device)
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        return [float(part) for part in parts]
