"""The promise that a stopped or a killed rank is reported, tried in launches of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from launch.signals import held_signals

from checking.report import Outcome
from checking.victim import TIMEOUT
from launch.world import outside_launch

ROOT = Path(__file__).parents[1]
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
    with held_signals() as release, _started(flags) as process:
        try:
            release()
            said = process.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return None, process.communicate()[1]
        except BaseException:
            process.kill()  # and its ranks end with it
            raise
    return process.returncode, said


def _started(flags: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch", *flags],
        cwd=ROOT,
        env={**outside_launch(os.environ), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
