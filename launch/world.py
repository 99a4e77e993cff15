"""The ranks' environment, set by a launcher, and the store at which they meet."""

import os
import re
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from common.errors import ReportedError
from launch.heartbeat import NoAnswerError

JOINING = timedelta(minutes=5)
"""Time for all ranks to start."""
LAUNCHER = "ALEXNET_LAUNCHER"
"""The environment variable with our launcher's process id."""

NUMBERS = {
    "RANK": 0,
    "WORLD_SIZE": 1,
    "LOCAL_RANK": 0,
    "LOCAL_WORLD_SIZE": 1,
    "TORCHELASTIC_RESTART_COUNT": 0,
}
"""What torchrun sets for each rank; the values of a process alone."""
OF_A_LAUNCH = re.compile(
    rf"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|(MASTER|TORCHELASTIC)_\w+|{LAUNCHER}"
    "|OMP_NUM_THREADS)"
)
"""The variables that a launcher sets for its ranks."""
MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""What the launchers of MPI tell each process of their number."""


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


def outside_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """The ``environment`` without what a launcher has set for its ranks, to start another."""
    if not environment.keys() & {"RANK", "WORLD_SIZE"}:
        return dict(environment)
    return {name: value for name, value in environment.items() if not OF_A_LAUNCH.fullmatch(name)}


def launched_world() -> World:
    """The world that torchrun describes in the environment, which this module alone reads.

    Raises ReportedError if a variable is missing or wrong.
    """
    if not is_launched():
        return World(0, 1, 0, 1, 0)
    if faults := _missing_or_wrong() or _out_of_range():
        raise ReportedError(
            f"the environment describes no world of ranks ({', '.join(faults)}): start with "
            "./launch.sh or torchrun, which set these, or unset RANK and WORLD_SIZE"
        )
    return World(*(int(os.environ.get(name, alone)) for name, alone in NUMBERS.items()))


def _missing_or_wrong() -> list[str]:
    needed = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
    if os.environ.get("WORLD_SIZE") != "1":
        needed += ["LOCAL_RANK", "LOCAL_WORLD_SIZE"]
    missing = [f"{name} is missing" for name in needed if name not in os.environ]
    given = [name for name in (*NUMBERS, "MASTER_PORT") if name in os.environ]
    wrong = [
        f"{name} is {os.environ[name]!r}" for name in given if not os.environ[name].isdecimal()
    ]
    return missing + wrong


def _out_of_range() -> list[str]:
    world = {name: int(os.environ.get(name, alone)) for name, alone in NUMBERS.items()}
    pairs = [("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    return [
        f"{rank} is {world[rank]} of {size} {world[size]}"
        for rank, size in pairs
        if world[rank] >= world[size]
    ]


def is_launched() -> bool:
    """True if torchrun or our launcher started this process as a rank."""
    return "RANK" in os.environ or "WORLD_SIZE" in os.environ


def twins_of(slurm: str) -> str:
    """A warning if a job's manager has started several of this process; else empty.

    Slurm's variable ``slurm`` holds their number.
    """
    numbers = [os.environ.get(name, "") for name in (slurm, *MPI)]
    tasks = max((int(number) for number in numbers if number.isdecimal()), default=1)
    if tasks == 1:
        return ""
    return (
        f"this job has {tasks} tasks, and each that starts this program has a run of its own: for "
        "one run of many ranks, start a launcher on each node (see examples/slurm.sbatch)"
    )


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

    Raises NoAnswerError when a rank does not start within ``JOINING``, and ReportedError when
    rank 0 cannot be found or reached.
    """
    if not is_launched():
        return dist.HashStore()
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    _find_rank_0(host)
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=JOINING))
    except dist.DistNetworkError as error:
        reason = str(error).partition("\n")[0]
        raise ReportedError(f"cannot join rank 0 at {host}:{port} ({reason})", retry=True) from None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # The launcher's store outlives ranks: without a prefix, gloo finds addresses of dead ones.
        store = dist.PrefixStore(f"attempt {world.restarts}", store)
    keys = [f"rank {rank} is here" for rank in range(world.size)]
    store.set(keys[world.rank], "")
    try:
        store.wait(keys, JOINING)
    except dist.DistStoreError:
        missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
        raise NoAnswerError(f"rank {missing} did not start within {JOINING}") from None
    return store


def _find_rank_0(host: str) -> None:
    """Raise ReportedError if ``host`` is a name that this machine cannot look up."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ReportedError(
            f"the node of rank 0 calls itself {host}, which cannot be found from here "
            f"({error.strerror}): start its launcher with --local-addr and an address that can",
            retry=True,
        ) from None


def group_store() -> dist.Store:
    """The store of the running default process group; raises RuntimeError if there is none."""
    if dist.group.WORLD is None:
        raise RuntimeError("no process group is running")
    return dist.group.WORLD.get_group_store()
