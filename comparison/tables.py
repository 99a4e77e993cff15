"""The rows as text: for a terminal, as Markdown or as CSV."""

import csv
from pathlib import Path
from typing import Any

import tabulate

from common.files import writing
from distributed.timer import StepCost

Rows = list[dict[str, Any]]

tabulate.MIN_PADDING = 0  # the default widens every heading by two columns


def as_text(rows: Rows, style: str = "simple") -> str:
    """Two tables, of speed and of cost, with notes on their columns; at most 100 columns wide.

    ``style`` is one of tabulate's: ``simple`` for a terminal, ``github`` for Markdown.
    """
    good = [row for row in rows if "images_per_second" in row]
    speed, cost = (_table([each(row) for row in good], style) for each in (_speed, _cost))
    failed = [
        f"{row['placement']} at batch {row['global_batch']} failed: {row['error']}"
        for row in rows
        if row["error"]
    ]
    return "\n\n".join([speed, cost, *failed, _caution(good)]).strip()


def write_csv(rows: Rows, path: Path) -> None:
    """Write every key of every row, one line per row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with writing(path), path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, str]], style: str) -> str:
    align = ["right" if key not in ("placement", "ms of") else "left" for key in (rows or [{}])[0]]
    return tabulate.tabulate(
        rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=align or None
    )


def _speed(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["images_per_second_min"], row["images_per_second_max"]
    return {
        "batch": str(row["global_batch"]),
        "placement": row["placement"],
        "ranks": str(row["world_size"]),
        "images/s": f"{row['images_per_second']:.1f}",
        "range": f"{low:.1f}-{high:.1f}",
        "× single": _ratio(row["speedup"]),
        "× local": _ratio(row["speedup_local"]),
        "effic.": f"{row['efficiency']:.0%}" if row["efficiency"] else "-",
        "GFLOP": f"{row['flops_per_image'] / 1e9:.2f}",
        "GFLOP/s": f"{row['gflops']:.0f}",
        "MFU": f"{row['mfu']:.0%}",
    }


def _cost(row: dict[str, Any]) -> dict[str, str]:
    cost = StepCost.read(row)
    return {
        "batch": str(row["global_batch"]),
        "ms of": row["placement"],
        **{_SHORT.get(part, part): f"{1000 * s:.1f}" for part, s in cost.parts.items()},
        "MB sent": f"{cost.bytes_sent / 1e6:.2f}",
        "formula": f"{row['bytes_sent_formula'] / 1e6:.2f}",
        "GiB": f"{row['peak_memory_bytes'] / 2**30:.2f}",
        "M params": f"{row['parameters_per_rank'] / 1e6:.1f}",
    }


_SHORT = {
    "activation_communication": "act.",
    "gradient_communication": "grad.",
    "optimizer": "optim.",
}


def _ratio(value: float | None) -> str:
    return f"{value:.2f}" if value else "-"


def _caution(rows: Rows) -> str:
    work = {row["placement"]: row["flops_per_image"] for row in rows}
    known = (
        "act. and grad. are what a rank waits for activations and gradients of others.\n"
        "GFLOP is the arithmetic of training on one image, without normalisation."
    )
    if not {"single", "local"} <= work.keys():
        return known
    more = work["single"] / work["local"] - 1
    return (
        f"{known} The dense\nsingle stream does {more:.0%} more of it than the towers do: "
        "× single compares two nets,\n× local two placements of one."
    )
