"""The outcomes of the forms of the net as text and as plots."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from common.colors import COLORS
from common.files import writing

Outcomes = list[dict[str, Any]]

THRESHOLD = 0.2
"""Training error to compare at; figure 1 of the paper uses 25 % on CIFAR-10, which is harder."""


def as_text(outcomes: Outcomes, style: str = "simple") -> str:
    """The outcomes as a table, and the images and seconds to reach ``THRESHOLD``.

    ``style`` is one of tabulate's.
    """
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
    table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)
    return f"{table}\n\n{_race(outcomes)}"


def reached(outcome: dict[str, Any]) -> dict[str, Any] | None:
    """The first point of a training whose error is at most ``THRESHOLD``."""
    return next((p for p in outcome["training"] if p["train_error"] <= THRESHOLD), None)


def _race(outcomes: Outcomes) -> str:
    """A line per form: images and seconds to the threshold, also relative to the first form."""
    first, lines = reached(outcomes[0]), [f"To a training error of {THRESHOLD:.0%}:"]
    for outcome in outcomes:
        point, ratio = reached(outcome), ""
        if point and first and outcome is not outcomes[0]:
            images, seconds = (point[key] / first[key] for key in ("images", "seconds"))
            ratio = f" (× {images:.1f} and × {seconds:.1f} of {outcomes[0]['form']})"
        said = f"{point['images']:,} images, {point['seconds']:.0f} s" if point else "not reached"
        lines.append(f"  {outcome['form']}: {said}{ratio}")
    return "\n".join(lines)


def draw_learning(outcomes: Outcomes, path: Path, title: str) -> None:
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


def draw_errors(outcomes: Outcomes, path: Path, title: str) -> None:
    """Draw training error (a line) and test error (dots) against epochs: figure 1 of the paper."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots()
    for outcome, color in zip(outcomes, COLORS, strict=False):
        training, tested = outcome["training"], outcome["curve"]
        axes.plot(
            [point["epoch"] for point in training],
            [point["train_error"] for point in training],
            color=color,
            label=f"{outcome['form']}, training",
        )
        axes.plot(
            [point["epoch"] for point in tested],
            [1 - point["test_top1"] for point in tested],
            "o:",
            color=color,
            markersize=4,
            label=f"{outcome['form']}, test",
        )
    axes.axhline(THRESHOLD, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="epochs", ylabel="error rate", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    with writing(path):
        figure.savefig(path, dpi=100)
