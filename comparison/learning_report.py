"""The outcomes of the forms of the net as text and as plots."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from common.colors import COLORS
from common.files import writing
from comparison.forms import FORMS
from comparison.statistics import paired_difference

log = logging.getLogger(__name__)

Outcomes = list[dict[str, Any]]

THRESHOLD = 0.2
"""Training error to compare at; figure 1 of the paper uses 25 % on CIFAR-10, which is harder."""


def by_set(outcomes: Outcomes, names: Iterable[str]) -> dict[str, Outcomes]:
    """The outcomes of the forms in each set of ``FORMS`` that is named."""
    return {name: [each for each in outcomes if each["form"] in FORMS[name]] for name in names}


def by_form(outcomes: Outcomes) -> dict[str, Outcomes]:
    """The outcomes of each form, one for each seed."""
    forms: dict[str, Outcomes] = {}
    for outcome in outcomes:
        forms.setdefault(outcome["form"], []).append(outcome)
    return forms


def rows_of(outcomes: Outcomes) -> list[dict[str, Any]]:
    """A row for each form: means over its seeds, and the difference to the first form."""
    forms = by_form(outcomes)
    first = next(iter(forms.values()))
    return [_row(form, own, first) for form, own in forms.items()]


def _row(form: str, own: Outcomes, first: Outcomes) -> dict[str, Any]:
    accuracy = [each["test_top1"] for each in own]
    apart = paired_difference(accuracy, [each["test_top1"] for each in first])
    return {
        "form": form,
        "parameters": own[0]["parameters"],
        "learning_rate": own[0]["learning_rate"],
        "images": own[0]["images"],
        "images_per_second": mean(each["images"] / each["seconds"] for each in own),
        "train_error": mean(each["train_error"] for each in own),
        "test_top1": mean(accuracy),
        "test_top1_std": stdev(accuracy) if len(accuracy) > 1 else None,
        "seeds": len(own),
        "difference": apart and apart.mean,
        "difference_low": apart and apart.low,
        "difference_high": apart and apart.high,
        "p": apart and apart.p,
    }


def as_text(outcomes: Outcomes, style: str = "simple") -> str:
    """The rows as a table, and the images and seconds to reach ``THRESHOLD``.

    ``style`` is one of tabulate's.
    """
    rows = rows_of(outcomes)
    first = rows[0]["form"]
    cells = [
        {
            "net": row["form"],
            "M param.": f"{row['parameters'] / 1e6:.1f}",
            "rate": f"{row['learning_rate']:.4g}",
            "images/s": f"{row['images_per_second']:.0f}",
            "train error": f"{row['train_error']:.4f}",
            "test accuracy": _spread(row["test_top1"], row["test_top1_std"]),
            "difference": _difference(row),
            "p": "" if row["p"] is None else f"{row['p']:.2g}",
        }
        for row in rows
    ]
    table = tabulate(cells, headers="keys", tablefmt=style, disable_numparse=True)
    seeds, images = rows[0]["seeds"], rows[0]["images"]
    notes = f"{images:,} images, {seeds} seed(s)"
    if seeds > 1:
        notes += (
            "; ±: the seeds' standard deviation; difference: accuracy less that of\n"
            f"{first} with the same seeds, in points, with its 95 % interval, and p of a paired "
            "t-test"
        )
    return f"{table}\n\n{notes}\n\n{_race(outcomes)}"


def _spread(middle: float, std: float | None) -> str:
    return f"{middle:.4f}" + ("" if std is None else f" ± {std:.4f}")


def _difference(row: dict[str, Any]) -> str:
    """In points of accuracy."""
    if row["difference"] is None:
        return ""
    middle, low, high = (
        100 * row[key] for key in ("difference", "difference_low", "difference_high")
    )
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def reached(outcome: dict[str, Any]) -> dict[str, Any] | None:
    """The first point of a training whose error is at most ``THRESHOLD``."""
    return next((p for p in outcome["training"] if p["train_error"] <= THRESHOLD), None)


def _race(outcomes: Outcomes) -> str:
    """A line for each form: images and seconds to the threshold, also relative to the first."""
    lines = [f"To a training error of {THRESHOLD:.0%}:"]
    forms = {form: _start_of(own) for form, own in by_form(outcomes).items()}
    first_form, first = next(iter(forms.items()))
    for form, point in forms.items():
        said = "not reached" if point is None else f"{point[0]:,.0f} images, {point[1]:.0f} s"
        if point and first and form != first_form:
            images, seconds = (own / other for own, other in zip(point, first, strict=True))
            said += f" (× {images:.1f} and × {seconds:.1f} of {first_form})"
        lines.append(f"  {form}: {said}")
    return "\n".join(lines)


def _start_of(own: Outcomes) -> tuple[float, float] | None:
    """Mean images and seconds until the threshold is reached; None if not with every seed."""
    points = [point for point in map(reached, own) if point]
    if len(points) < len(own):
        return None
    return mean(point["images"] for point in points), mean(point["seconds"] for point in points)


def write_learning(folder: Path, title: str, sets: Mapping[str, Outcomes]) -> list[Path]:
    """Write NAME.md and draw two plots for each set of outcomes; returns the plots' paths."""
    charts = []
    for name, outcomes in sets.items():
        with writing(folder / f"{name}.md"):
            text = f"{title}\n\n{as_text(outcomes, 'github')}\n"
            (folder / f"{name}.md").write_text(text, encoding="utf-8")
        log.info("\n%s: %s\n\n%s", name, title, as_text(outcomes))
        charts += [folder / f"{name}-accuracy.png", folder / f"{name}-error.png"]
        draw_learning(outcomes, charts[-2], title)
        draw_errors(outcomes, charts[-1], title)
    return charts


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
