"""Figure 3 of the paper: towers that part colour from grey, against kernels dealt at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import combine_pvalues, fisher_exact, hypergeom

from common.colors import COLORS
from common.files import writing

Table = Sequence[tuple[int, int]]
"""The colour kernels and the grey kernels of each of two towers."""


def chance_of(table: Table) -> float | None:
    """The probability that dealing a net's kernels at random makes a table as uneven.

    By Fisher's exact test: both towers keep their number of kernels. None unless there are two
    towers with kernels.
    """
    if len(table) != 2 or not any(map(any, table)):
        return None
    return float(fisher_exact(table)[1])


def chance_of_all(chances: Sequence[float]) -> float:
    """The probability of several nets' chances together, by Fisher's method.

    It is a little too high, since the counts of kernels are few.
    """
    return float(combine_pvalues(chances).pvalue)


def dealt(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of colour kernels that tower 0 can have, and their probabilities."""
    first, colour = sum(table[0]), table[0][0] + table[1][0]
    counts = np.arange(min(first, colour) + 1)
    return counts, hypergeom(sum(map(sum, table)), colour, first).pmf(counts)


def draw_dealing(tables: Mapping[str, Table], picture: Path) -> None:
    """Draw, for each net, the chance of each number of colour kernels, and the number it has.

    Raises ReportedError if the picture cannot be written.
    """
    figure = Figure(figsize=(8, 1 + 1.4 * len(tables)), layout="constrained")
    rows = figure.subplots(len(tables), squeeze=False, sharex=True)[:, 0]
    for axes, (name, table) in zip(rows, tables.items(), strict=True):
        axes.bar(*dealt(table), color=COLORS[4], label="dealt at random")
        found, chance = table[0][0], chance_of(table)
        words = f"learnt: {found}, p = {chance:.2g}"
        axes.axvline(found, color=COLORS[5], linewidth=2, label=words)
        axes.set_title(name, fontsize="medium", parse_math=False)
        axes.set_ylabel("probability")
        axes.legend()
    rows[-1].set_xlabel("colour kernels in tower 0")
    with writing(picture):
        figure.savefig(picture, dpi=100)
