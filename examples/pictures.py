"""The pictures that the programs in this folder draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from common.colors import COLORS
from common.files import writing
from examples.spans import Span, Step
from planning.charts import KINDS

DOES = {"forward": COLORS[0], "backward": COLORS[4], "optimizer": "#7d868f"}
HIDDEN, EXPOSED = COLORS[2], COLORS[5]
PLACEMENTS = {name: color for name, (_, color) in KINDS.items()}
ROUNDING = 1e-12


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.subplots()


def save(figure: Figure, path: Path) -> None:
    """Write a picture; raises ReportedError if that is not possible."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def draw_layers(columns: Mapping[str, Mapping[str, int]]) -> Figure:
    """A stacked bar for each column, of the layers' shares."""
    figure, axes = _figure(9, 2.6)
    layers = list(next(iter(columns.values())))
    shades = [COLORS[0], COLORS[4], "#9ccfee", "#c7e3f5", "#e3f1fa"]
    colors = dict(zip(layers, [*shades, COLORS[5], COLORS[1], "#f5d08a"], strict=True))
    for place, column in enumerate(columns.values()):
        left, total = 0.0, sum(column.values())
        for layer, count in column.items():
            share = 100 * count / total
            axes.barh(place, share, left=left, color=colors[layer], edgecolor="white")
            if share > 4:
                dark = layer in ("conv1", "fc6")
                axes.text(
                    left + share / 2,
                    place,
                    f"{layer}\n{share:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
            left += share
    axes.set_yticks(range(len(columns)), list(columns))
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of all layers, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def draw_steps(steps: Mapping[str, Step]) -> Figure:
    """A pair of bars for each step: what the rank does, and what it has under way."""
    figure, axes = _figure(9, 0.8 * len(steps) + 1)
    for place, step in enumerate(steps.values()):
        for name, color in DOES.items():
            _bars(axes, place - 0.19, [each for each in step.parts if each.name == name], color)
        _bars(axes, place + 0.19, step.messages, HIDDEN)
        _bars(axes, place + 0.19, step.exposed, EXPOSED)
    axes.set_yticks(range(len(steps)), list(steps))
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    colors = {**DOES, "under way, hidden": HIDDEN, "under way, waited for": EXPOSED}
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _bars(axes: Axes, place: float, spans: Sequence[Span], color: str) -> None:
    widths = [(span.start, span.end - span.start) for span in spans]
    axes.broken_barh(widths, (place - 0.17, 0.34), color=color, linewidth=0)


def draw_bytes(rows: Sequence[Sequence[float]], threshold: float) -> Figure:
    """Megabytes over the batch: rows of (batch, as gradients, as activations)."""
    figure, axes = _figure(6, 3.2)
    batches = [row[0] for row in rows]
    for column, color, name in ((1, COLORS[5], "gradients"), (2, COLORS[2], "activations")):
        axes.plot(batches, [row[column] for row in rows], "o-", color=color, label=name)
    axes.axvline(threshold, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="images in the global batch", ylabel="MB that a rank sends in a step")
    axes.set_xticks(batches, [f"{batch:.0f}" for batch in batches])
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def draw_map(
    names: Sequence[Sequence[str]], rates: Sequence[float], batches: Sequence[int]
) -> Figure:
    """The best placement's color for each rate in GB/s (a row) and global batch (a column).

    A number is that of the ranks that share a classifier, if not all do.
    """
    figure, axes = _figure(7, 3.6)
    for y, row in enumerate(names):
        for x, name in enumerate(row):
            placement, _, group = name.partition("/")
            color = PLACEMENTS.get(placement, "white")
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white"))
            axes.text(x + 0.5, y + 0.5, group, ha="center", va="center", color="white")
    axes.set(xlim=(0, len(batches)), ylim=(0, len(rates)))
    axes.set_xticks(
        [place + 0.5 for place in range(len(batches))], [f"{b:,}" for b in batches], rotation=45
    )
    axes.set_yticks([place + 0.5 for place in range(len(rates))], [f"{r:g}" for r in rates])
    axes.set(xlabel="global batch", ylabel="link, GB/s")
    shown = {name.partition("/")[0] for row in names for name in row}
    handles = [Patch(color=color, label=n) for n, color in PLACEMENTS.items() if n in shown]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def draw_errors(errors: Mapping[str, Mapping[str, float]]) -> Figure:
    """A cell for each mistake and quantity, darker for a larger error; rounding is left white."""
    figure, axes = _figure(8, 0.42 * len(errors) + 0.9)
    values = [list(row.values()) for row in errors.values()]
    shown = [[value if value > ROUNDING else float("nan") for value in row] for row in values]
    axes.imshow(shown, norm=LogNorm(1e-6, 1), cmap="Oranges", aspect="auto")
    for place, row in enumerate(values):
        for column, value in enumerate(row):
            said = f"{value:.0e}" if value > ROUNDING else "equal"
            axes.text(
                column,
                place,
                said,
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value > 0.01 else "black",
            )
    axes.set_yticks(range(len(errors)), list(errors))
    axes.set_xticks(range(len(values[0])), list(next(iter(errors.values()))))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
