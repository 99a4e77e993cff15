"""torchrun's agent, which starts and restarts a machine's ranks, with our rules for failures.

Every use of a private name of torch's launcher is in this module, as CONTRIBUTING.md lists them;
``_monitor_workers`` and ``_shutdown`` are those that subclasses are meant to override. Of public
names, the one under which ``launcher.api`` finds the agent is replaced. torchrun's interface,
``ChildFailedError``, reports the exit codes only after all restarts, and after torchrun has waited
30 s for the other ranks.
"""

import os
import signal
import socket
import sys
from types import FrameType

from launch.signals import SIGNALS

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher import api as launcher
from typing_extensions import override

from common.errors import ReportedError

LOOPBACK = "loopback"
GRACE = 10
"""Seconds that ranks have to end by themselves after one of them has failed."""
SHUTDOWN = 60
"""Seconds from a signal, which ranks receive too, to SIGKILL: time to write a checkpoint."""
ASKED_TO_STOP = {code for number in SIGNALS for code in (128 + number, -number)}

OVERRIDDEN = {
    LocalElasticAgent: ("_monitor_workers", "_shutdown"),
    processes: ("_terminate_process_handler",),
    launcher: ("LocalElasticAgent",),
}


class RankFailedError(Exception):
    """A rank failed and the launch is over; a negative ``code`` is the number of a signal."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Agent(LocalElasticAgent):
    """End the other ranks soon after one has failed, name that one, and restart if it may help.

    Raises RankFailedError when it may not, or no restart is left.
    """

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Check the ranks once; torchrun restarts all of them after FAILED."""
        context = self._pcontext
        assert isinstance(context, SubprocessContext)  # as for every program that is a command
        codes = {
            worker_group.workers[local].global_rank: code
            for local, handler in context.subprocess_handlers.items()
            if (code := handler.proc.poll()) is not None
        }
        if any(codes.values()):
            context.close(signal.SIGTERM, timeout=GRACE)
            self._announce_restart(codes, worker_group)
            return RunResult(WorkerState.FAILED)
        if len(codes) == len(worker_group.workers):
            return RunResult(WorkerState.SUCCEEDED, return_values=codes)
        return RunResult(WorkerState.HEALTHY)

    @override
    def _shutdown(
        self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = SHUTDOWN
    ) -> None:
        """End the ranks; torch 2.11 names no ``timeout``, and would give them 30 s."""
        if self._pcontext is not None:
            self._pcontext.close(death_sig, timeout)

    def _announce_restart(self, codes: dict[int, int], worker_group: WorkerGroup) -> None:
        """Print that a new attempt follows; raise RankFailedError if none does."""
        _, code = likely_cause(codes)
        # Of several machines, one may have been asked to leave the others alone.
        stopped = code in ASKED_TO_STOP and worker_group.group_world_size == 1
        if stopped or code == ReportedError.status or not self._remaining_restarts:
            raise RankFailedError(how_it_ended(codes), code)
        left = self._remaining_restarts - 1
        print(f"{how_it_ended(codes)}; starting again (restarts left: {left})", file=sys.stderr)


def likely_cause(codes: dict[int, int]) -> tuple[int, int]:
    """The rank that failed first of those found dead at the same time, and its exit code.

    A rank that a signal ended is the likely cause, and the others' broken connections its effect.
    SIGTERM is the exception: a launcher ends the other ranks with it.
    """
    failed = [rank for rank, code in codes.items() if code]
    rank = min(failed, key=lambda rank: 2 if codes[rank] == -signal.SIGTERM else codes[rank] > 0)
    return rank, codes[rank]


def how_it_ended(codes: dict[int, int]) -> str:
    """One line on the likely cause, and on ranks that left before, which may be the true one."""
    rank, code = likely_cause(codes)
    left = ", ".join(str(rank) for rank, code in codes.items() if code == 0)
    before = f" (before that, rank {left} had left with status 0)" if left else ""
    if code > 0:
        return f"rank {rank} exited with status {code}{before}"
    names = {s.value: s.name for s in signal.Signals}
    return f"rank {rank} was ended by {names.get(-code, f'signal {-code}')}{before}"


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of one machine's ranks: a new store for each attempt, on the loopback device.

    torchrun's own listens to every network, and keeps one store for all attempts, in which the
    ranks of the next find the addresses of the last.
    """

    use_agent_store = True

    def __init__(self, parameters: RendezvousParameters) -> None:
        self.run_id = parameters.run_id

    @override
    def next_rendezvous(self) -> RendezvousInfo:
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        store = dist.TCPStore(
            host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(host, port))

    @override
    def get_backend(self) -> str:
        return LOOPBACK

    @override
    def get_run_id(self) -> str:
        return self.run_id

    @override
    def num_nodes_waiting(self) -> int:
        return 0

    @override
    def is_closed(self) -> bool:
        return False

    @override
    def set_closed(self) -> None: ...

    @override
    def shutdown(self) -> bool:
        return True


def install() -> None:
    """Have torchrun use this agent and rendezvous, and end at once on a second signal.

    Raises ReportedError if torch has no longer what is overridden here.
    """
    for owner, names in OVERRIDDEN.items():
        for name in names:
            if not hasattr(owner, name):
                raise ReportedError(
                    f"torch {torch.__version__} has no {name}, which the launcher needs: use "
                    "an older torch, or start the program with torchrun"
                )
    launcher.LocalElasticAgent = Agent  # type: ignore[misc]
    rendezvous_handler_registry.register(LOOPBACK, LoopbackRendezvous)
    end_ranks = processes._terminate_process_handler

    def handle(signum: int, frame: FrameType | None) -> None:
        # torchrun would wait for its ranks again; they die with this process.
        signal.signal(signum, lambda signum, _: os._exit(128 + signum))
        end_ranks(signum, frame)

    processes._terminate_process_handler = handle
