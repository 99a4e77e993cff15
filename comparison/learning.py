"""What the forms of the net learn from the same budget, beside what they cost."""

import json
import logging
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from comparison.measure import TrainingError, steady_speed, train
from comparison.session import check_plan
from model.errors import InputError
from training.config import Config
from training.folder import RunFolder, read_metrics, writing
from training.plots import COLORS

log = logging.getLogger(__name__)

EVALUATIONS = 8
TRIAL_STEPS, TRIAL_WARMUP = 12, 4

FORMS = {
    "two towers": ["variant=paper", "towers=2"],
    "single stream": ["variant=paper", "towers=1"],
    "half the kernels": ["variant=half", "towers=1"],
}
"""Section 3.2 of the paper: the net, its dense form, and the control with half of conv1-conv4."""


def compare_learning(
    config: Config,
    source: Path,
    overrides: list[str],
    processes: int,
    folder: Path,
    *,
    images: int,
    minutes: float | None,
) -> list[dict[str, Any]]:
    """Train each of ``FORMS`` on the same number of ``images`` or, if given, for ``minutes``.

    ``overrides`` are those that made ``config`` from the file ``source``. The outcomes are written
    to ``folder/learning.json`` as they come, and those that it holds are not made again. Raises
    InputError when those are of other settings, and when a training fails.
    """
    plan = {"config": config.model_dump(mode="json"), "images": images, "minutes": minutes}
    check_plan(folder, plan)
    path = folder / "learning.json"
    outcomes: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for number, (form, own_settings) in enumerate(FORMS.items(), start=1):
        if any(outcome["form"] == form for outcome in outcomes):
            continue
        log.info("[%d/%d] %s", number, len(FORMS), form)
        own = [*overrides, *own_settings, "keep_checkpoints=0"]
        try:
            outcome = _learn(source, processes, own, config.batch_size, images, minutes)
        except TrainingError as failure:
            raise InputError(f"{form}: {failure}") from None
        outcomes.append({"form": form, **outcome})
        with writing(path):
            path.write_text(json.dumps(outcomes, indent=1) + "\n")
    return outcomes


def _learn(
    source: Path,
    processes: int,
    settings: list[str],
    batch_size: int,
    images: int,
    minutes: float | None,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        runs, steps = Path(name), max(1, images // batch_size)
        if minutes is not None:
            trial = train(source, processes, [*settings, f"max_steps={TRIAL_STEPS}"], "trial", runs)
            speed = steady_speed(trial, TRIAL_WARMUP)["images_per_second"]
            steps = max(1, round(minutes * 60 * speed / batch_size))
        budget = [f"max_steps={steps}", "epochs=100000"]
        budget.append(f"evaluate_every={max(1, steps // EVALUATIONS)}")
        return _outcome(train(source, processes, [*settings, *budget], "run", runs))


def as_text(outcomes: list[dict[str, Any]], style: str = "simple") -> str:
    """The outcomes as a table; ``style`` is one of tabulate's."""
    rows = [
        {
            "net": outcome["form"],
            "M parameters": f"{outcome['parameters'] / 1e6:.1f}",
            "images": f"{outcome['images']:,}",
            "seconds": f"{outcome['seconds']:.0f}",
            "images/s": f"{outcome['images'] / outcome['seconds']:.0f}",
            "test accuracy": f"{outcome['test_top1']:.4f}",
        }
        for outcome in outcomes
    ]
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)


def draw_learning(outcomes: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw accuracy against images and against time."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key in zip(panels, ("images", "seconds"), strict=True):
        for outcome, color in zip(outcomes, COLORS, strict=False):
            points = [point[key] for point in outcome["curve"]]
            accuracy = [point["test_top1"] for point in outcome["curve"]]
            axes.plot(points, accuracy, "o-", color=color, label=outcome["form"], markersize=4)
        axes.set(xlabel=f"{key} of training", xlim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy, top 1")
    panels[0].legend(loc="lower right")
    with writing(path):
        figure.savefig(path, dpi=100)


def _outcome(run: RunFolder) -> dict[str, Any]:
    """The end of a training, and ``curve``: its state at each evaluation."""
    lines = read_metrics(run.metrics)
    steps = [line for line in lines if "train/loss" in line]
    images = list(accumulate(line["train/images"] for line in steps))
    spent = (line["train/images"] / line["train/images_per_second"] for line in steps)
    seconds = list(accumulate(spent))
    curve = [
        {
            "images": images[line["step"] - 1],
            "seconds": seconds[line["step"] - 1],
            "test_top1": line["test/top1"],
        }
        for line in lines
        if "test/top1" in line
    ]
    summary = json.loads(run.summary.read_text())
    return {**curve[-1], "parameters": summary["parameters"], "curve": curve}
