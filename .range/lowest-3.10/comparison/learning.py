"""Trains the forms of the net on the same budget and records accuracy and time."""

import json
import logging
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import ReportedError
from common.files import writing
from comparison.measure import TrainingError, steady_speed, train
from comparison.session import check_plan
from recording.folder import RunFolder
from recording.metrics import read_metrics
from training.config import Config

log = logging.getLogger(__name__)

TRIAL_STEPS, TRIAL_WARMUP = 12, 4
POINTS = 60


class _Budget(NamedTuple):
    """The length of a training, as images or as time, and the number of evaluations."""

    images: int
    minutes: float | None
    evaluations: int


def compare_learning(
    forms: dict[str, list[str]],
    config: Config,
    source: Path,
    overrides: list[str],
    processes: int,
    folder: Path,
    *,
    images: int,
    minutes: float | None,
    evaluations: int,
) -> list[dict[str, Any]]:
    """Train each of ``forms`` on the same number of ``images`` or, if given, for ``minutes``.

    Each form is evaluated ``evaluations`` times during training, and after each epoch. ``source``
    and ``overrides`` are the file and the overrides that ``config`` was read from. Each outcome is
    written to ``folder/learning.json`` at once; outcomes that the file holds are not repeated.
    Raises ReportedError if they have other settings, or if a training fails.
    """
    budget = _Budget(images, minutes, evaluations)
    plan = {"config": config.model_dump(mode="json"), "forms": forms, **budget._asdict()}
    check_plan(folder, plan)
    path = folder / "learning.json"
    outcomes: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for number, (form, own_settings) in enumerate(forms.items(), start=1):
        if any(outcome["form"] == form for outcome in outcomes):
            continue
        log.info("[%d/%d] %s", number, len(forms), form)
        own = [*overrides, *own_settings, "keep_checkpoints=0"]
        try:
            outcome = _learn(source, processes, own, config.batch_size, budget)
        except TrainingError as failure:
            raise ReportedError(f"{form}: {failure}") from None
        outcomes.append({"form": form, **outcome})
        with writing(path):
            path.write_text(json.dumps(outcomes, indent=1) + "\n")
    return outcomes


def _learn(
    source: Path,
    processes: int,
    settings: list[str],
    batch_size: int,
    budget: _Budget,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        runs, steps = Path(name), max(1, budget.images // batch_size)
        if budget.minutes is not None:
            trial = train(source, processes, [*settings, f"max_steps={TRIAL_STEPS}"], "trial", runs)
            speed = steady_speed(trial, TRIAL_WARMUP)["images_per_second"]
            steps = max(1, round(budget.minutes * 60 * speed / batch_size))
        length = [f"max_steps={steps}", "epochs=100000"]
        length.append(f"evaluate_every={max(1, steps // budget.evaluations)}")
        return _outcome(train(source, processes, [*settings, *length], "run", runs))


def _outcome(run: RunFolder) -> dict[str, Any]:
    """The final state of a training, with ``curve`` and ``training``.

    ``curve`` has the state at each evaluation. ``training`` has the mean training error over each
    of about ``POINTS`` groups of steps.
    """
    lines = read_metrics(run.metrics)
    steps = [line for line in lines if "train/loss" in line]
    images = list(accumulate(line["train/images"] for line in steps))
    spent = (line["train/images"] / line["step/images_per_second"] for line in steps)
    seconds = list(accumulate(spent))

    def place(step: int) -> dict[str, Any]:
        epoch = steps[step - 1]["epoch"]
        return {"images": images[step - 1], "seconds": seconds[step - 1], "epoch": epoch}

    curve = [
        {**place(line["step"]), "test_top1": line["test/top1"]}
        for line in lines
        if "test/top1" in line
    ]
    each = max(1, round(len(steps) / POINTS))
    parts = [steps[first : first + each] for first in range(0, len(steps), each)]
    training = [{**place(part[-1]["step"]), "train_error": _error(part)} for part in parts]
    summary = json.loads(run.summary.read_text())
    return {
        **curve[-1],
        "parameters": summary["parameters"],
        "curve": curve,
        "training": training,
    }


def _error(steps: list[dict[str, Any]]) -> float:
    """The training error in ``steps``: the fraction of wrongly classified images."""
    right = sum(step["train/top1"] * step["train/images"] for step in steps)
    return float(1 - right / sum(step["train/images"] for step in steps))
