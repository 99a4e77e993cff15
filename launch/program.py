"""Start and end of a program: its messages, its signals, its exit status."""

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from launch.signals import Interrupted, end_on_signals, interrupt_on_signals

import torch.distributed as dist
from typing_extensions import override

from common.errors import ReportedError
from launch.console import open_console
from launch.failures import agree_on_failure, in_words, out_of_memory
from launch.threads import chosen_threads
from launch.world import (
    group_store,
    is_launched,
    launched_world,
    launcher_process,
    twins_of,
)

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
LONGEST_ENDING = timedelta(seconds=600)


def run_program(main: Callable[[], int], most_ranks: int | None = None) -> None:
    """Run ``main`` and end the process; of several ranks that fail, only the first one reports.

    ``most_ranks`` is the largest number of ranks that the program may be started on.

    Exit status: what ``main`` returns; that of a ReportedError (2, or 1 if a retry may help);
    128 + N after signal N (SIGINT or SIGTERM, unless ``main`` handles them); 1 after any other
    exception. A failing rank leaves at once, without waiting for collectives that will never
    complete.
    """
    interrupt_on_signals()
    try:
        status = _run(main, most_ranks)
    except Interrupted as signalled:
        status = _leave_group(128 + signalled.number)
    end_on_signals()
    sys.exit(status)


def _run(main: Callable[[], int], most_ranks: int | None) -> int:
    try:
        world = launched_world()
    except ReportedError as error:
        open_console(0)
        log.error("error: %s", error)
        return error.status
    console = open_console(world.rank)
    _die_with_launcher()
    if most_ranks != 1 and not is_launched() and (twins := twins_of("SLURM_NTASKS")):
        log.warning("%s", twins)
    try:
        chosen_threads()  # raises before torch reads what it cannot use
        if most_ranks and world.size > most_ranks:
            raise ReportedError(
                f"{Path(sys.argv[0]).name} takes at most {most_ranks} process, and {world.size} "
                f"were started: use `python {Path(sys.argv[0]).name}` or ./launch.sh"
            )
        status = main()
        console.check()
    except Exception as error:
        reported = error if isinstance(error, ReportedError) else out_of_memory(error)
        status, is_first = agree_on_failure(reported.status if reported else 1)
        if is_first:
            log.error("error: %s", reported or in_words(error))
        return _leave_group(status)
    if dist.is_initialized():
        _let_rank_0_end()
        dist.destroy_process_group()
    return status


def _let_rank_0_end() -> None:
    """Wait for rank 0, which draws and sends the last of a run when the others have ended.

    The launcher ends all ranks when the first has ended with a status, and NCCL's ranks must leave
    their group together.
    """
    with contextlib.suppress(RuntimeError):  # the store has gone with the launcher
        if launched_world().rank == 0:
            group_store().set("rank 0 ends", "")
        else:
            group_store().wait(["rank 0 ends"], LONGEST_ENDING)


def _leave_group(status: int) -> int:
    """Return ``status``; inside a process group, end the process with it here and now."""
    if dist.is_initialized():
        os._exit(status)
    return status


class ArgumentParser(argparse.ArgumentParser):
    """Show the description as it is written; raise ReportedError for a wrong command line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    @override
    def error(self, message: str) -> NoReturn:
        message = message.replace(", key.sub=value", "")  # which may be left out
        raise ReportedError(f"{message}; --help lists the arguments")


def _die_with_launcher() -> None:
    """On Linux, have the kernel end this rank if its launcher is killed.

    Our launcher tells its process id, so that a rank also ends if the launcher was killed before
    this call. Under bare torchrun such a rank goes on, alone.
    """
    if is_launched() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != (launcher_process() or os.getppid()):
            os._exit(1)
