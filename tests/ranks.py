"""Real gloo ranks for tests: processes started once and reused, one pool for each world size."""

import contextlib
import ctypes
import functools
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distributed.mesh import Mesh
from distributed.plan import Plan


def _serve(rank: int, world_size: int, port: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ.pop("RANK", None)
    store = dist.TCPStore("127.0.0.1", port, world_size, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            pipe.send((function(*arguments), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
        _return_freed_memory()
    dist.destroy_process_group()


def _return_freed_memory() -> None:
    """Where the C library can: twenty idle ranks would otherwise keep a gigabyte each."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def mesh_of(plan: Plan) -> Mesh:
    """The mesh of a plan over this pool's ranks, with a timer that has booked nothing."""
    mesh = _made_once(plan)
    mesh.timer.take()
    return mesh


@functools.cache
def _made_once(plan: Plan) -> Mesh:
    """Gloo starts threads for every group, which live as long as the process."""
    return Mesh.over_running_group(plan, torch.device("cpu"))


class RankPool:
    """``world_size`` processes in one gloo group; ``run`` calls a function on each of them."""

    def __init__(self, world_size: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            arguments = (rank, world_size, port, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 240) -> list[Any]:
        """Each rank's result, in rank order; raises AssertionError with a rank's traceback."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        results, errors = [], []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(timeout), f"rank {rank} did not answer within {timeout} s"
            result, error = pipe.recv()
            results.append(result)
            if error:
                errors.append(f"rank {rank}: {error}")
        assert not errors, "\n".join(errors)
        return results

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
