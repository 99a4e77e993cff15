"""Predictions beside the measurements of a comparison."""

import logging
from pathlib import Path
from typing import Any

from distributed.plan import Plan
from planning.job import Job
from planning.machine import MACHINE, Machine, read_machine
from planning.prediction import predict
from training.config import Config

log = logging.getLogger(__name__)

PARTS = {
    "compute": ("data", "forward", "backward"),
    "activations": ("activation_communication",),
    "gradients": ("gradient_communication",),
    "optimizer": ("optimizer",),
}
"""The parts of a prediction, and those of a measured step that it stands for."""


def usable_machine(named: Path | None, config: Config, ranks: int) -> Machine | None:
    """The machine of the file that was ``named``, or of the runs' folder if it has one.

    None with a reason if it says nothing of the configuration's precision or of so many ranks.
    Raises ReportedError if the file that was named cannot be read.
    """
    path = named or config.runs / MACHINE
    if not (named or path.exists()):
        return None
    machine = read_machine(path)
    if machine.precision != config.precision:
        log.info("no predictions: %s was measured in %s", path, machine.precision)
        return None
    if ranks > machine.ranks_per_node or not machine.connects(ranks):
        log.info("no predictions: %s has no node of %d ranks that are linked", path, ranks)
        return None
    return machine


def with_prediction(row: dict[str, Any], job: Job, plan: Plan, machine: Machine) -> dict[str, Any]:
    """The row with the predicted step and its error: predicted over measured time, less 1."""
    if "images_per_second" not in row:
        return row
    found = predict(job, plan, machine)
    measured = row["global_batch"] / row["images_per_second"]
    return {
        **row,
        "predicted_images_per_second": row["global_batch"] / found.seconds,
        **{f"predicted_seconds_{name}": seconds for name, seconds in found.parts.items()},
        "prediction_error": found.seconds / measured - 1,
    }
