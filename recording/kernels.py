"""The first layer's kernels as a picture, tower by tower: figure 3 of the paper."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.files import replacing
from model.first_layer import Kinds, count_kinds

COLUMNS = 16


def kinds_of_towers(conv1: Tensor, towers: int) -> list[Kinds]:
    """The kinds of each tower's share of the kernels (K, C, H, W); none unless they are RGB."""
    return [count_kinds(tower) for tower in conv1.chunk(towers)] if conv1.shape[1] == 3 else []


def in_words(kinds: Kinds) -> str:
    """As one reads it."""
    return f"{kinds.color} colour, {kinds.grey} grey, {kinds.noise} noise"


def summary_of(kinds: list[Kinds]) -> dict[str, Any]:
    """Flat keys, as ``kernels_color_0``: of the first tower."""
    return {
        f"kernels_{kind}_{number}": count
        for number, tower in enumerate(kinds)
        for kind, count in tower._asdict().items()
    }


def draw_kernels(conv1: Tensor, towers: int, picture: Path, title: str) -> None:
    """Draw the kernels (K, C, H, W), a panel for each tower.

    Each kernel has a scale of its own: zero is mid-grey, its largest weight black or white. Those
    of three channels are drawn in colour.
    """
    parts, kinds = conv1.chunk(towers), kinds_of_towers(conv1, towers)
    rows = -(-len(parts[0]) // COLUMNS)
    figure = Figure(figsize=(10, 0.6 + towers * (0.3 + 0.62 * rows)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(towers, squeeze=False)[:, 0]
    for number, (axes, part) in enumerate(zip(panels, parts, strict=True)):
        axes.imshow(_montage(part), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        counted = f": {in_words(kinds[number])}" if kinds else ""
        axes.set_title(f"tower {number}{counted}", fontsize="medium")
        axes.set_axis_off()
    with replacing(picture) as aside:
        figure.savefig(aside, dpi=100, format="png")


def _montage(kernels: Tensor) -> np.ndarray[Any, Any]:
    """Kernels (K, C, H, W) in rows of ``COLUMNS``: (rows·(H + 1), columns·(W + 1), 1 or 3)."""
    kernels = kernels.detach().float().cpu()
    if kernels.shape[1] != 3:
        kernels = kernels.mean(1, keepdim=True)
    largest = kernels.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    tiles = torch.nn.functional.pad(0.5 + kernels / (2 * largest), (0, 1, 0, 1), value=1.0)
    missing = tiles.new_ones(-len(tiles) % COLUMNS, *tiles.shape[1:])
    rows = torch.cat([tiles, missing]).unflatten(0, (-1, COLUMNS))
    grid = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return np.asarray(grid.squeeze(-1))
