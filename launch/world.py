"""What a launch tells its processes: who they are, whose they are, and where they meet."""

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from launch.heartbeat import NoAnswerError

JOINING = timedelta(minutes=5)
"""For all ranks to start."""


class World(NamedTuple):
    """What torchrun tells a process about itself; one process where there is no torchrun."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    restarts: int

    @property
    def is_one_machine(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.size == self.local_size


def launched_world() -> World:
    """The world that torchrun has put into the environment, read in this module alone."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    names["TORCHELASTIC_RESTART_COUNT"] = 0
    return World(*(int(os.environ.get(name, alone)) for name, alone in names.items()))


def launch_marks() -> set[str]:
    """What tells the launch that started this process from every other; nothing without one.

    That is the launcher's process, the parent of this one, and the launch's ``--rdzv-id`` if it was
    given one, under which a job that is queued again starts anew.
    """
    if "RANK" not in os.environ:
        return set()
    parent = os.getppid()
    marks = {f"process {parent} on {socket.gethostname()}, {_start_of(parent)}"}
    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return marks if given == "none" else {*marks, f"id {given}"}


def _start_of(process: int) -> str:
    """When a process started, which tells it from an earlier one of the same number."""
    if not Path("/proc/self/stat").exists():
        return "start unknown"
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return f"tick {ticks} of boot {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def join(world: World) -> dist.Store:
    """The store through which the ranks of this attempt meet, once all of them have come.

    Raises NoAnswerError when some do not come.
    """
    if "RANK" not in os.environ:  # no torchrun: nobody to meet
        return dist.HashStore()
    store, *_ = next(dist.rendezvous("env://", timeout=JOINING))
    if world.is_one_machine:
        # torchrun's own store outlives its ranks, and gloo would find the addresses of dead ones.
        store = dist.PrefixStore(f"attempt {world.restarts}", store)
    keys = [f"rank {rank} is here" for rank in range(world.size)]
    store.set(keys[world.rank], "")
    try:
        store.wait(keys, JOINING)
    except dist.DistStoreError:
        missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
        raise NoAnswerError(f"rank {missing} did not start within {JOINING}") from None
    return store


def group_store() -> dist.Store:
    """The store of the running default process group."""
    return dist.distributed_c10d._get_default_store()
