"""Draws a run's curves."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.colors import COLORS
from common.files import replacing
from distributed.timer import LABELS, StepCost
from recording.metrics import read_metrics

SMOOTHED_POINTS = 60


def draw_curves(metrics: Path, picture: Path, title: str) -> None:
    """Draw loss, accuracy, throughput and the parts of a step's time from a metrics file."""
    lines = read_metrics(metrics)
    train = [line for line in lines if "train/loss" in line]
    steps = [line for line in train if "step/bytes_sent" in line]
    test = [line for line in lines if "test/loss" in line]
    figure = Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(title)
    (loss, accuracy), (speed, parts) = figure.subplots(2, 2)
    if train:
        _draw_metric(loss, train, test, "loss")
        _draw_metric(accuracy, train, test, "top1")
    if steps:
        _draw_speed(speed, steps)
        _draw_parts(parts, steps)
    for axes in (loss, accuracy, speed):
        axes.set(xlabel="epoch", xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    loss.set(ylabel="loss (nats)")
    accuracy.set(ylabel="top-1 accuracy", ylim=(0, 1))
    speed.set(ylabel="images per second")
    parts.set(xlabel="milliseconds of a median step, on rank 0")
    with replacing(picture) as aside:
        figure.savefig(aside, dpi=100, format="png")


def _draw_metric(axes: Axes, train: list[Any], test: list[Any], name: str) -> None:
    epochs = [line["epoch"] for line in train]
    values = [line[f"train/{name}"] for line in train]
    axes.plot(epochs, values, color=COLORS[0], alpha=0.2, linewidth=0.8)
    label = "training (with dropout)"
    axes.plot(epochs, _smooth(values), _line(train), color=COLORS[0], label=label)
    tested = [line["epoch"] for line in test], [line[f"test/{name}"] for line in test]
    axes.plot(*tested, "o-", color=COLORS[5], label="test")
    axes.legend()


def _draw_speed(axes: Axes, steps: list[Any]) -> None:
    speeds = [line["step/images_per_second"] for line in steps]
    epochs = [line["epoch"] for line in steps]
    axes.plot(epochs, speeds, _line(steps), color=COLORS[2], linewidth=0.8)


def _draw_parts(axes: Axes, steps: list[Any]) -> None:
    cost = StepCost.median([StepCost.read(line, "step/") for line in steps])
    names = [LABELS[part] for part in cost.parts]
    bars = axes.barh(names, [1000 * seconds for seconds in cost.parts.values()], color=COLORS)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _line(points: list[Any]) -> str:
    """The line style: with dots if a line of so few points might be invisible."""
    return ".-" if len(points) < 10 else "-"


def _smooth(values: list[float]) -> np.ndarray[Any, Any]:
    """Mean over a sliding window, which is narrower near the ends."""
    width = max(1, len(values) // SMOOTHED_POINTS)
    window = np.ones(2 * width + 1)
    counts = np.convolve(np.ones(len(values)), window)[width:-width]
    return np.convolve(values, window)[width:-width] / counts
