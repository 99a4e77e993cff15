"""Charts of a comparison."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.colors import COLORS
from common.files import writing
from distributed.timer import PARTS

Rows = list[dict[str, Any]]


def draw_charts(rows: Rows, folder: Path, title: str) -> list[Path]:
    """Draw every chart into ``folder``; returns their paths, none if every placement failed."""
    good = [row for row in rows if "images_per_second" in row]
    charts = []
    for name, draw in CHARTS.items() if good else ():
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        figure.suptitle(title, fontsize="medium")
        draw(figure, good)
        charts.append(folder / f"{name}.png")
        with writing(charts[-1]):
            figure.savefig(charts[-1], dpi=100)
    return charts


def _throughput(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots()
    _bars(axes, rows, "images_per_second", spread=True)
    axes.set(xlabel="images per second")
    axes.legend(fontsize="small")
    axes.set_title("median of the rounds, with minimum and maximum", fontsize="small")


def _step_time(figure: Figure, rows: Rows) -> None:
    names, batches = _distinct(rows, "placement"), _distinct(rows, "global_batch")
    panels = figure.subplots(1, len(batches), squeeze=False, sharey=True)[0]
    for axes, batch in zip(panels, batches, strict=True):
        here = [row for row in rows if row["global_batch"] == batch]
        places, left = [names.index(row["placement"]) for row in here], [0.0] * len(here)
        for part, color in zip(PARTS, COLORS, strict=True):
            widths = [1000 * row[f"seconds_{part}"] for row in here]
            axes.barh(places, widths, left=left, color=color, label=part.replace("_", " "))
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set(xlabel="ms of the median step, on rank 0")
        axes.set_title(f"global batch {batch}", fontsize="small")
    _name_bars(panels[0], names)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS))


def _cost(figure: Figure, rows: Rows) -> None:
    sent, memory = figure.subplots(1, 2)
    _bars(sent, rows, "bytes_sent", unit=1e6)
    sent.set(xlabel="MB sent per rank and step")
    _bars(memory, rows, "peak_memory_bytes", unit=2**30)
    memory.set(xlabel="peak GiB per rank")
    sent.legend(fontsize="small")


CHARTS = {"throughput": _throughput, "step_time": _step_time, "cost": _cost}


def _bars(axes: Axes, rows: Rows, key: str, unit: float = 1, *, spread: bool = False) -> None:
    """Draw a group of bars per placement and a bar per global batch, with its value beside it.

    ``spread`` draws the range from ``key``_min to ``key``_max.
    """
    names, batches = _distinct(rows, "placement"), _distinct(rows, "global_batch")
    width = 0.8 / len(batches)
    for number, batch in enumerate(batches):
        own = [row for row in rows if row["global_batch"] == batch]
        offset = (number - (len(batches) - 1) / 2) * width
        places = [names.index(row["placement"]) + offset for row in own]
        bars = axes.barh(
            places,
            [row[key] / unit for row in own],
            width,
            color=COLORS[number % len(COLORS)],
            label=f"global batch {batch}",
            xerr=_range(own, key) if spread else None,
            capsize=2,
        )
        axes.bar_label(bars, fmt=_three_digits, fontsize="x-small", padding=2)
    _name_bars(axes, names)
    axes.margins(x=0.12)


def _name_bars(axes: Axes, names: list[str]) -> None:
    """Name the horizontal bars at 0, 1, … from the top to the bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _range(rows: Rows, key: str) -> list[list[float]]:
    below = [row[key] - row[f"{key}_min"] for row in rows]
    above = [row[f"{key}_max"] - row[key] for row in rows]
    return [below, above]


def _distinct(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))
