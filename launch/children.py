"""Launches from within a program."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.signals import held_signals

ROOT = Path(__file__).parents[1]


def run_launcher(arguments: Sequence[str], *, quietly: bool) -> tuple[int, str]:
    """Run our launcher with ``arguments``; returns its exit status and its complaints.

    With ``quietly`` nothing is shown, and the complaints are what it wrote to standard error;
    otherwise all of it is shown and they are empty. A signal ends the ranks before it is raised.
    """
    with held_signals() as release, _started(arguments, quietly) as process:
        try:
            release()
            _, complaints = process.communicate()
        except BaseException:
            process.terminate()
            process.communicate()
            raise
    return process.returncode, complaints or ""


def _started(arguments: Sequence[str], quietly: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quietly else None,
        stderr=subprocess.PIPE if quietly else None,
        text=True,
        start_new_session=True,
    )
