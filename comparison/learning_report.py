"""The outcomes of the forms of the net: a table and plots for each set of them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from tabulate import tabulate

from common.files import writing
from comparison.learning_charts import draw_differences, draw_errors, draw_learning, draw_rates
from comparison.outcomes import THRESHOLD, Outcomes, by_form, reached, rows_of

log = logging.getLogger(__name__)


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


def write_learning(
    folder: Path, title: str, sets: Mapping[str, Outcomes], trials: Mapping[str, Outcomes]
) -> list[Path]:
    """Write NAME.md and draw plots for each set of outcomes and its trials (if there are any).

    Returns the paths of the plots; the last one is of the differences in all sets.
    """
    charts = []
    for name, outcomes in sets.items():
        with writing(folder / f"{name}.md"):
            text = f"{title}\n\n{as_text(outcomes, 'github')}\n"
            (folder / f"{name}.md").write_text(text, encoding="utf-8")
        log.info("\n%s: %s\n\n%s", name, title, as_text(outcomes))
        charts += [folder / f"{name}-accuracy.png", folder / f"{name}-error.png"]
        draw_learning(outcomes, charts[-2], title)
        draw_errors(outcomes, charts[-1], title)
        if trials[name]:
            charts.append(folder / f"{name}-rates.png")
            draw_rates(trials[name], charts[-1], title)
    charts.append(folder / "differences.png")
    draw_differences(sets, charts[-1], title)
    return charts
