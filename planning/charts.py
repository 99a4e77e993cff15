"""Charts of a plan."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from common.colors import COLORS
from common.files import writing
from planning.search import Ranked
from planning.sweep import RANKS, Space
from planning.tables import SHOWN, distinct

PARTS = {
    "compute": ("compute", COLORS[0]),
    "activations": ("waiting for activations", COLORS[1]),
    "gradients": ("waiting for gradients", COLORS[3]),
    "optimizer": ("optimizer", "#7d868f"),
}
UNFIT = "#c9ced3"
KINDS = {
    "ddp": ("s-", COLORS[4]),
    "split": ("D-", COLORS[5]),
    "hybrid": ("o-", COLORS[2]),
    "split+hybrid": ("^-", "black"),
}


def draw_charts(space: Space, batches: Sequence[int], folder: Path) -> list[Path]:
    """Draw the steps at each batch, and the speed over ranks; returns the pictures' paths."""
    ranked = {batch: space.with_batch(batch).ranked() for batch in batches}
    batch, each = space.job.batch, max(1, space.job.batch // space.ranks)
    curves = {
        f"global batch {batch}": speeds(space, lambda ranks: batch),
        f"{each} images on each rank": speeds(space, lambda ranks: each * ranks),
    }
    charts = {"step_time": draw_steps(ranked, space.ranks)}
    if any(curves.values()):
        charts["scaling"] = draw_speeds(curves)
    net, machine = space.job.net, space.machine
    source = "measurements" if machine.source == "measured" else "a data sheet"
    title = f"{net.name} on {machine.device}, {machine.precision}: predicted from {source}"
    paths = []
    for name, figure in charts.items():
        figure.suptitle(title, fontsize="medium")
        paths.append(folder / f"{name}.png")
        with writing(paths[-1]):
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(paths[-1], dpi=100)
    return paths


def draw_steps(ranked: Mapping[int, Sequence[Ranked]], ranks: int) -> Figure:
    """Bars of the fastest placements' steps by part, with a panel for each global batch."""
    shown = {batch: distinct(rows)[:SHOWN] for batch, rows in ranked.items()}
    heights = [len(rows) + 3 for rows in shown.values()]
    figure = Figure(figsize=(10, 1.2 + 0.24 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (batch, rows) in zip(panels, shown.items(), strict=True):
        axes.set_title(f"global batch {batch} on {ranks} ranks", fontsize="small")
        _draw_bars(axes, batch, rows)
    panels[-1].set(xlabel="ms of a step")
    keys = [Patch(color=color, label=label) for label, color in PARTS.values()]
    if not all(row.fits for rows in shown.values() for row in rows):
        keys.append(Patch(color=UNFIT, label="does not fit in memory"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize="small")
    return figure


def _draw_bars(axes: Axes, batch: int, rows: Sequence[Ranked]) -> None:
    left = [0.0] * len(rows)
    for part, (_, color) in PARTS.items():
        widths = [1e3 * row.prediction.parts[part] for row in rows]
        colors = [color if row.fits else UNFIT for row in rows]
        bars = axes.barh(range(len(rows)), widths, left=left, color=colors)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    labels = [f"{batch / row.prediction.seconds:,.0f} images/s" for row in rows]
    axes.bar_label(bars, labels, padding=3, fontsize="x-small")
    axes.set_yticks(range(len(rows)), [row.candidate.name for row in rows], fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.15)


class Speed(NamedTuple):
    """The fastest placement of a kind on a number of ranks."""

    kind: str
    ranks: int
    images_per_second: float


def speeds(space: Space, batch_of: Callable[[int], int]) -> list[Speed]:
    """The fastest of each kind that fits, on ``RANKS`` with the global batch of each."""
    found = []
    for ranks in RANKS:
        here = space.with_ranks(ranks).with_batch(batch_of(ranks))
        if here.job.batch < ranks or not here.machine.connects(ranks):
            continue
        fitting = [each for each in here.ranked() if each.fits]
        best = {each.candidate.plan.placement: each for each in reversed(fitting)}
        for kind, each in best.items():
            found.append(Speed(kind, ranks, here.job.batch / each.prediction.seconds))
    return found


def draw_speeds(curves: Mapping[str, Sequence[Speed]]) -> Figure:
    """Lines of images/s over ranks by kind, with a panel for each of the curves."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axes, (title, points) in zip(panels, curves.items(), strict=True):
        for kind, (style, color) in KINDS.items():
            own = [point for point in points if point.kind == kind]
            places, values = [p.ranks for p in own], [p.images_per_second for p in own]
            axes.plot(places, values, style, color=color, label=kind, markersize=5)
        axes.set_title(title, fontsize="small")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({point.ranks for point in points})
        axes.set_xticks(ticks, [str(ranks) for ranks in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="ranks")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="images per second, of the fastest of its kind")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(KINDS)
    )
    return figure
