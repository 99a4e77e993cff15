"""One measurement: runs the real training program and reads its metrics."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.children import ROOT, run_launcher
from recording.folder import RunFolder
from recording.metrics import read_metrics, step_speed


class TrainingError(Exception):
    """The program ended with an error; the message is its last line."""


def train(
    config: Path, processes: int, settings: Sequence[str], name: str, runs: Path
) -> RunFolder:
    """Run train.py on ``processes`` ranks; returns its folder, ``runs/name``.

    Raises TrainingError if it fails. On Ctrl-C, ends the ranks before raising KeyboardInterrupt.
    """
    command = ["--nproc-per-node", str(processes), str(ROOT / "train.py")]
    command += ["--config", str(config.resolve()), *settings]
    command += [f"runs={runs.resolve()}", f"name={name}", "tracking.mode=disabled"]
    status, complaints = run_launcher(command, quietly=True)
    if status:
        lines = complaints.strip().splitlines() or [f"it ended with status {status}"]
        raise TrainingError(lines[-1].removeprefix("error: "))
    return RunFolder(runs / name)


def steady_speed(folder: RunFolder, warmup: int) -> dict[str, Any]:
    """The median step after ``warmup`` steps, peak memory and parameters, as flat keys."""
    steps = [line for line in read_metrics(folder.metrics) if "train/loss" in line]
    summary = json.loads(folder.summary.read_text())
    kept = ("peak_memory_bytes", "parameters", "parameters_per_rank")
    return {**step_speed(steps[warmup:]), **{key: summary[key] for key in kept}}
