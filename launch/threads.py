"""Threads of a process: what OMP_NUM_THREADS says, or its share of the cores."""

import os

from common.errors import ReportedError
from launch.world import is_under_bare_torchrun

VARIABLE = "OMP_NUM_THREADS"
MOST = 1024
"""A larger number is refused: OpenMP ends a process whose threads it cannot start."""


def chosen_threads() -> int | None:
    """The threads of each process that somebody chose by OMP_NUM_THREADS; None if nobody did.

    Where nobody chose, torchrun sets the variable to 1 and leaves the other cores idle, so a 1
    under bare torchrun counts as not chosen. Raises ReportedError if it is no number of threads.
    """
    text = os.environ.get(VARIABLE, "").partition(",")[0].strip()  # a list is of nested loops
    if not text or (text == "1" and is_under_bare_torchrun()):
        return None
    if not (text.isdecimal() and 1 <= int(text) <= MOST):
        raise ReportedError(
            f"OMP_NUM_THREADS is {text!r}: it must be a number of threads from 1 to {MOST}"
        )
    return int(text)


def usable_cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """Threads for one of ``processes`` on this machine: those chosen, or an equal share."""
    return chosen_threads() or max(1, usable_cores() // processes)
