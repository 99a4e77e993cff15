"""What looks after the ranks of one machine: torchrun's agent, less patient and more talkative."""

import signal
import socket
import sys
import time

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
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
GRACE = 10.0
"""Seconds that ranks have to end by themselves after one of them has failed."""
ASKED_TO_STOP = {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}


class RankFailedError(Exception):
    """A rank failed and the launch is over; a negative ``code`` is the number of a signal."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Agent(LocalElasticAgent):
    """Ends the other ranks soon after one has failed, says which, and knows what is worth a retry.

    Raises RankFailedError when nothing is left to be tried.
    """

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        codes = self._end_all_after_a_failure(worker_group)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            codes = codes or {rank: each.exitcode for rank, each in result.failures.items()}
            self._judge(codes, worker_group)
        return result

    def _end_all_after_a_failure(self, worker_group: WorkerGroup) -> dict[int, int]:
        """Exit codes by rank of what has ended, if one has failed; then no rank runs any more."""
        if not isinstance(self._pcontext, SubprocessContext):
            return {}
        handlers = self._pcontext.subprocess_handlers
        codes = {
            worker_group.workers[local].global_rank: code
            for local, handler in handlers.items()
            if (code := handler.proc.poll()) is not None
        }
        if not any(codes.values()):
            return {}
        deadline = time.monotonic() + GRACE
        for number in (signal.SIGTERM, signal.SIGKILL):
            for handler in handlers.values():
                if handler.proc.poll() is None:
                    handler.close(number)
            while time.monotonic() < deadline and any(
                handler.proc.poll() is None for handler in handlers.values()
            ):
                time.sleep(0.05)
        return codes

    def _judge(self, codes: dict[int, int], worker_group: WorkerGroup) -> None:
        """Say that a new attempt follows, or raise."""
        _, code = likely_cause(codes)
        # Of several machines, one may have been asked to leave the others alone.
        stopped = code in ASKED_TO_STOP and worker_group.group_world_size == 1
        if stopped or code == ReportedError.status or not self._remaining_restarts:
            raise RankFailedError(how_it_ended(codes), code)
        left = self._remaining_restarts - 1
        print(f"{how_it_ended(codes)}; starting again (restarts left: {left})", file=sys.stderr)


def likely_cause(codes: dict[int, int]) -> tuple[int, int]:
    """Of the ranks found dead at a time, the one that failed first, and its exit code.

    A rank that a signal ended is the likely cause and the others' broken connections its effect,
    except SIGTERM, which is how a launcher ends the rest.
    """
    failed = [rank for rank, code in codes.items() if code]
    rank = min(failed, key=lambda rank: 2 if codes[rank] == -signal.SIGTERM else codes[rank] > 0)
    return rank, codes[rank]


def how_it_ended(codes: dict[int, int]) -> str:
    """A line on the likely cause, and on who had left before, which may be the true one."""
    rank, code = likely_cause(codes)
    left = ", ".join(str(rank) for rank, code in codes.items() if code == 0)
    before = f" (before that, rank {left} had left with status 0)" if left else ""
    if code > 0:
        return f"rank {rank} exited with status {code}{before}"
    names = {s.value: s.name for s in signal.Signals}
    return f"rank {rank} was ended by {names.get(-code, f'signal {-code}')}{before}"


class LoopbackRendezvous(RendezvousHandler):
    """The meeting of one machine's ranks: a store for each attempt, on the loopback device only.

    torchrun's own listens to every network, and hands the addresses that the ranks of one attempt
    left in it to those of the next.
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
    """Have torchrun use this agent, and know the rendezvous ``LOOPBACK``."""
    launcher.LocalElasticAgent = Agent  # type: ignore[misc]
    rendezvous_handler_registry.register(LOOPBACK, LoopbackRendezvous)
