"""The outcomes of forms of the net as plots."""

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from common.colors import COLORS
from common.files import writing
from comparison.outcomes import THRESHOLD, Outcomes, by_form, points_to_first
from comparison.statistics import paired_difference

SHOWN = 0.15
"""The chart of learning rates reaches so far below the best trial, in accuracy."""


def draw_learning(outcomes: Outcomes, path: Path, title: str) -> None:
    """Draw accuracy against images and against time; bands are a standard deviation wide."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key in zip(panels, ("images", "seconds"), strict=True):
        for form, own, color in _colored(outcomes):
            _draw(axes, own, "curve", key, "test_top1", "o-", color=color, label=form)
        axes.set(xlabel=f"{key} of training", xlim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="test accuracy, top 1")
    panels[0].legend(loc="lower right")
    _save(figure, path)


def draw_errors(outcomes: Outcomes, path: Path, title: str) -> None:
    """Draw training error (a line) and test error (dots) against epochs: figure 1 of the paper."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots()
    for form, own, color in _colored(outcomes):
        label = f"{form}, training"
        _draw(axes, own, "training", "epoch", "train_error", "-", color=color, label=label)
        label = f"{form}, test"
        _draw(axes, own, "curve", "epoch", "test_top1", "o:", _error, color=color, label=label)
    axes.axhline(THRESHOLD, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="epochs", ylabel="error rate", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_differences(sets: Mapping[str, Outcomes], path: Path, title: str) -> None:
    """Draw how far each form's test accuracy is from that of its set's first form.

    A dot is a seed; a line is the 95 % interval of the seeds' mean, where there are several.
    """
    rows = [
        (f"{form} − {outcomes[0]['form']}", points, color)
        for color, outcomes in zip(cycle(COLORS), sets.values(), strict=False)
        for form, points in points_to_first(outcomes).items()
    ]
    figure = Figure(figsize=(8, 1.3 + 0.35 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=0.8)
    for place, (_, points, color) in enumerate(rows):
        axes.plot(points, [place] * len(points), "o", color=color, markersize=4, alpha=0.5)
        apart = paired_difference(points, [0.0] * len(points))
        if apart:
            beyond = [[apart.mean - apart.low], [apart.high - apart.mean]]
            axes.errorbar(apart.mean, place, xerr=beyond, fmt="D", color=color, capsize=4)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set(xlabel="difference in test accuracy, points", ylim=(len(rows) - 0.5, -0.5))
    axes.grid(alpha=0.3, axis="x")
    _save(figure, path)


def draw_rates(trials: Outcomes, path: Path, title: str) -> None:
    """Draw the accuracy that trials reached against their learning rates, a line for each form.

    Dotted lines are trials shorter than the form's longest. A cross on the axis is a rate at which
    a net failed, or stayed more than ``SHOWN`` behind the best.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots()
    lowest = max(each["test_top1"] or 0.0 for each in trials) - SHOWN
    for form, own, color in _colored(trials):
        longest = max(each["steps"] for each in own)
        for steps in sorted({each["steps"] for each in own}):
            points = sorted(
                (each["learning_rate"], each["test_top1"] or 0.0)
                for each in own
                if each["steps"] == steps
            )
            style, label = "o-" if steps == longest else "o:", f"{form}, {steps:,} steps"
            seen = [point for point in points if point[1] >= lowest]
            rates, accuracies = [rate for rate, _ in seen], [accuracy for _, accuracy in seen]
            axes.plot(rates, accuracies, style, color=color, markersize=4, label=label)
            behind = [rate for rate, accuracy in points if accuracy < lowest]
            axes.plot(behind, [lowest] * len(behind), "x", color=color, clip_on=False)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="learning rate", ylabel="accuracy on held-out images", ylim=(lowest, None))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def _error(accuracy: float) -> float:
    return 1 - accuracy


def _colored(outcomes: Outcomes) -> Iterator[tuple[str, Outcomes, str]]:
    for (form, own), color in zip(by_form(outcomes).items(), COLORS, strict=False):
        yield form, own, color


def _draw(
    axes: Axes,
    own: Outcomes,
    curve: str,
    x: str,
    y: str,
    style: str,
    change: Callable[[float], float] = float,
    **look: Any,
) -> None:
    """Draw the seeds' mean of ``y`` over that of ``x``, with a band of a standard deviation."""
    points = list(zip(*(each[curve] for each in own), strict=True))
    xs = [mean(seed[x] for seed in point) for point in points]
    values = [[change(seed[y]) for seed in point] for point in points]
    middle = [mean(value) for value in values]
    axes.plot(xs, middle, style, markersize=4, **look)
    if len(own) > 1:
        widths = [stdev(value) for value in values]
        low = [m - w for m, w in zip(middle, widths, strict=True)]
        high = [m + w for m, w in zip(middle, widths, strict=True)]
        axes.fill_between(xs, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _save(figure: Figure, path: Path) -> None:
    with writing(path):
        figure.savefig(path, dpi=100)
