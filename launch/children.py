"""Launches from within a program."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.signals import held_signals

from launch.world import outside_launch

ROOT = Path(__file__).parents[1]


def run_launcher(
    arguments: Sequence[str], *, quietly: bool, timeout: float | None = None
) -> tuple[int, str]:
    """Run our launcher with ``arguments``; returns its exit status and its complaints.

    It starts in this process's folder, so a program is named by its whole path. With ``quietly``
    nothing is shown, and the complaints are what it wrote to standard error; otherwise all of it is
    shown and they are empty. A signal ends the ranks before it is raised, and so do ``timeout``
    seconds, which raise subprocess.TimeoutExpired.
    """
    with held_signals() as release, _started(arguments, quietly) as process:
        try:
            release()
            _, complaints = process.communicate(timeout=timeout)
        except BaseException:
            process.terminate()
            process.communicate()
            raise
    return process.returncode, complaints or ""


def _started(arguments: Sequence[str], quietly: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch", *arguments],
        env={**outside_launch(os.environ), **_ours_first()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quietly else None,
        stderr=subprocess.PIPE if quietly else None,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _ours_first() -> dict[str, str]:
    """Variables with which Python finds this project's modules before any others."""
    others = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([others] if others else [])])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
