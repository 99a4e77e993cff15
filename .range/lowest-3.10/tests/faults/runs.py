"""Small runs with a fault in them."""

from pathlib import Path

from tests.programs import ranks, run
from tests.runs import SETTINGS

INJECTED = Path("tests") / "faults" / "injected.py"


def train_with(fault, world, runs, *arguments, timeout=150, **environment):
    """(exit status, standard output, standard error) of a run with a fault, ``KIND:RANK:STEP``."""
    command = [*ranks(world), INJECTED, *SETTINGS, f"runs={runs}", *arguments]
    return run(*command, timeout=timeout, FAULT=fault, **environment)
