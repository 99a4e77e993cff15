"""The promise that a stopped or a killed rank is reported, tried in launches of their own."""

import re
import signal
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from checking.report import Outcome
from checking.victim import TIMEOUT
from launch.children import run_launcher

RANKS, PATIENCE = 2, 300
"""Ranks of a launch, and the seconds within which it must end."""


class Promise(NamedTuple):
    """What the launch must report after its rank 1 got a ``signal``: a status, and some words."""

    name: str
    signal: signal.Signals
    status: int
    words: str


PROMISES = (
    Promise(
        *("a killed rank is named", signal.SIGKILL, 128 + signal.SIGKILL),
        r"rank 1 was ended by SIGKILL",
    ),
    Promise(
        *("a stopped rank is named", signal.SIGSTOP, 1),
        rf"no answer within {TIMEOUT:.0f} s\n(.*\n)*\s*rank 1 +silent for \d+ s",
    ),
)


def check_faults() -> Iterator[Outcome]:
    """Launch ranks, of which one is killed or stopped, and read what is reported."""
    for name, number, status, words in PROMISES:
        found, said = launch_victim(number)
        told = re.search(words, said)
        line = (told[0] if told else said.strip() or "nothing").splitlines()[-1]
        holds = found == status and told is not None
        yield Outcome(name, holds, f"status {found}, {' '.join(line.split())}")


def launch_victim(number: signal.Signals) -> tuple[int | None, str]:
    """(status, errors) of a launch in which rank 1 gets a signal; no status if it did not end."""
    flags = ["--nproc-per-node", str(RANKS), "-m", "checking.victim", number.name]
    try:
        return run_launcher(flags, quietly=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None, f"no end within {PATIENCE} s"
