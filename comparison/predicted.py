"""Predictions beside the measurements of a comparison."""

import logging
from pathlib import Path
from typing import Any

import torch

from common.errors import ReportedError
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

    None with a reason if it says nothing of this device or of so many ranks. Raises ReportedError
    if the file that was named cannot be read or is of another precision.
    """
    path = named or config.runs / MACHINE
    if not (named or path.exists()):
        return None
    try:
        machine = read_machine(path, config.precision)
    except ReportedError as error:
        if named:
            raise
        log.info("no predictions: %s", error)
        return None
    if (machine.device == "cpu") == torch.cuda.is_available():
        log.info("no predictions: %s was measured on %s", path, machine.device)
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
