"""One measurement: runs the real training program and reads its metrics."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.signals import held_signals

from recording.folder import RunFolder
from recording.metrics import read_metrics, step_speed

ROOT = Path(__file__).parents[1]


class TrainingError(Exception):
    """The program ended with an error; the message is its last line."""


def train(
    config: Path, processes: int, settings: Sequence[str], name: str, runs: Path
) -> RunFolder:
    """Run train.py on ``processes`` ranks; returns its folder, ``runs/name``.

    Raises TrainingError if it fails. On Ctrl-C, ends the ranks before raising KeyboardInterrupt.
    """
    command = [sys.executable, "-m", "launch", "--nproc-per-node", str(processes)]
    command += ["train.py", "--config", str(config.resolve()), *settings]
    command += [f"runs={runs.resolve()}", f"name={name}", "tracking.mode=disabled"]
    with held_signals() as release, _started(command) as process:
        try:
            release()
            _, complaint = process.communicate()
        except BaseException:
            process.terminate()
            process.communicate()
            raise
    if process.returncode:
        lines = complaint.strip().splitlines() or [f"it ended with status {process.returncode}"]
        raise TrainingError(lines[-1].removeprefix("error: "))
    return RunFolder(runs / name)


def _started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def steady_speed(folder: RunFolder, warmup: int) -> dict[str, Any]:
    """The median step after ``warmup`` steps, peak memory and parameters, as flat keys."""
    steps = [line for line in read_metrics(folder.metrics) if "train/loss" in line]
    summary = json.loads(folder.summary.read_text())
    kept = ("peak_memory_bytes", "parameters", "parameters_per_rank")
    return {**step_speed(steps[warmup:]), **{key: summary[key] for key in kept}}
