"""Draws and counts the first layer's kernels, tower by tower: figure 3 of the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.files import replacing
from model.first_layer import Kinds, count_kinds

COLUMNS = 16
Panel = tuple[str, Tensor]
"""Words, and the kernels (K, C, H, W) below them."""


def kinds_of_towers(conv1: Tensor, towers: int) -> list[Kinds]:
    """Count the kinds of kernels (K, C, H, W) in each tower; an empty list unless C is 3."""
    return [count_kinds(tower) for tower in conv1.chunk(towers)] if conv1.shape[1] == 3 else []


def in_words(kinds: list[Kinds]) -> list[str]:
    """The counts of each tower in words."""
    return [
        f"tower {number}: {tower.color} colour, {tower.grey} grey, {tower.noise} noise"
        for number, tower in enumerate(kinds)
    ]


def summary_of(kinds: list[Kinds]) -> dict[str, Any]:
    """The counts under flat keys: ``kernels_color_0`` is tower 0's."""
    return {
        f"kernels_{kind}_{number}": count
        for number, tower in enumerate(kinds)
        for kind, count in tower._asdict().items()
    }


def panels_of(conv1: Tensor, towers: int, initial: Tensor | None = None) -> list[Panel]:
    """The kernels (K, C, H, W) of each tower, with the counts of their kinds if C is 3.

    With their ``initial`` values, what training has changed follows each.
    """
    titles = in_words(kinds_of_towers(conv1, towers)) or [f"tower {n}" for n in range(towers)]
    panels = list(zip(titles, conv1.chunk(towers), strict=True))
    if initial is None:
        return panels
    changes = [("what training changed", change) for change in (conv1 - initial).chunk(towers)]
    return [panel for pair in zip(panels, changes, strict=True) for panel in pair]


def draw_kernels(panels: Sequence[Panel], picture: Path, title: str) -> None:
    """Draw each panel's kernels (K, C, H, W) below its words; in colour if C is 3.

    Each kernel, and each change, is scaled by itself: zero is mid-grey, the largest number black or
    white. Raises ReportedError if the picture cannot be written.
    """
    heights = [0.3 + 0.62 * -(-len(kernels) // COLUMNS) for _, kernels in panels]
    figure = Figure(figsize=(10, 0.6 + sum(heights)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    rows = figure.subplots(len(panels), squeeze=False, height_ratios=heights)
    for axes, (words, part) in zip(rows[:, 0], panels, strict=True):
        axes.imshow(_montage(part), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(words, fontsize="medium")
        axes.set_axis_off()
    with replacing(picture) as aside:
        figure.savefig(aside, dpi=100, format="png")


def _montage(kernels: Tensor) -> np.ndarray[Any, Any]:
    """Tile kernels (K, C, H, W) in rows of ``COLUMNS``: (rows·(H + 1), columns·(W + 1)[, 3])."""
    kernels = kernels.detach().float().cpu()
    if kernels.shape[1] != 3:
        kernels = kernels.mean(1, keepdim=True)
    largest = kernels.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)  # (K, 1, 1, 1)
    scaled = 0.5 + kernels / (2 * largest)
    tiles = torch.nn.functional.pad(scaled, (0, 1, 0, 1), value=1.0)  # (K, C, H + 1, W + 1)
    missing = tiles.new_ones(-len(tiles) % COLUMNS, *tiles.shape[1:])
    rows = torch.cat([tiles, missing]).unflatten(0, (-1, COLUMNS))  # (rows, columns, C, …)
    grid = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows·…, columns·…, C)
    return np.asarray(grid.squeeze(-1))
