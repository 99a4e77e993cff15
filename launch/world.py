"""The ranks' environment, set by a launcher, and the store at which they meet."""

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from launch.heartbeat import NoAnswerError

JOINING = timedelta(minutes=5)
"""Time for all ranks to start."""
LAUNCHER = "ALEXNET_LAUNCHER"
"""The environment variable with our launcher's process id."""


class World(NamedTuple):
    """This process's rank among all, and among those of its machine; rank 0 of 1 if alone."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    restarts: int

    @property
    def is_one_machine(self) -> bool:
        """True if all ranks are on this machine."""
        return self.size == self.local_size


def launched_world() -> World:
    """The world that torchrun describes in the environment, which this module alone reads."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    names["TORCHELASTIC_RESTART_COUNT"] = 0
    return World(*(int(os.environ.get(name, alone)) for name, alone in names.items()))


def is_launched() -> bool:
    """True if torchrun or our launcher started this process as a rank."""
    return "RANK" in os.environ


def launcher_process() -> int | None:
    """The process id of our launcher; None without it, as under bare torchrun."""
    number = os.environ.get(LAUNCHER)
    return int(number) if number else None


def is_under_bare_torchrun() -> bool:
    """True if a launcher other than ours started this process as a rank."""
    return is_launched() and LAUNCHER not in os.environ


def launch_marks() -> set[str]:
    """Strings that identify the launch that started this process; empty without one.

    One names the launcher's process, the parent of this one. Another holds the launch's
    ``--rdzv-id`` if it has one: a job that is queued again keeps it.
    """
    if not is_launched():
        return set()
    parent = os.getppid()
    marks = {f"process {parent} on {socket.gethostname()}, {_start_of(parent)}"}
    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return marks if given == "none" else {*marks, f"id {given}"}


def _start_of(process: int) -> str:
    """The time a process started, which tells it from an earlier one with the same id."""
    if not Path("/proc/self/stat").exists():
        return "start unknown"
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return f"tick {ticks} of boot {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def join(world: World) -> dist.Store:
    """Wait for all ranks of this attempt to start, and return the store that they share.

    Raises NoAnswerError when a rank does not start within ``JOINING``.
    """
    if not is_launched():
        return dist.HashStore()
    store, *_ = next(dist.rendezvous("env://", timeout=JOINING))
    if world.is_one_machine:
        # torchrun's store outlives its ranks: without a prefix, gloo finds addresses of dead ones.
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
    assert dist.group.WORLD is not None
    return dist.group.WORLD.get_group_store()
