"""The rows as text: for a terminal, as Markdown, as CSV."""

import csv
from pathlib import Path
from typing import Any

from tabulate import tabulate

from distributed.ledger import PARTS
from training.folder import writing

Rows = list[dict[str, Any]]


def as_text(rows: Rows, style: str = "simple") -> str:
    """Two tables, of speed and of cost, and what must be known to read them; at most 100 columns.

    ``style`` is one of tabulate's: ``simple`` for a terminal, ``github`` for Markdown.
    """
    good = [row for row in rows if "images_per_second" in row]
    speed = tabulate(
        [_speed(row) for row in good], headers="keys", tablefmt=style, disable_numparse=True
    )
    cost = tabulate(
        [_cost(row) for row in good], headers="keys", tablefmt=style, disable_numparse=True
    )
    failed = [
        f"{row['placement']} at batch {row['global_batch']} failed: {row['error']}"
        for row in rows
        if row["error"]
    ]
    return "\n\n".join([speed, cost, *failed, _caution(good)]).strip()


def write_csv(rows: Rows, path: Path) -> None:
    """Every key of every row, a placement a line."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with writing(path), path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def _speed(row: dict[str, Any]) -> dict[str, str]:
    return {
        "batch": str(row["global_batch"]),
        "placement": row["placement"],
        "ranks": str(row["world_size"]),
        "images/s": f"{row['images_per_second']:.1f}",
        "lowest-highest": f"{row['images_per_second_min']:.1f}-{row['images_per_second_max']:.1f}",
        "× single": _ratio(row["speedup"]),
        "× local": _ratio(row["speedup_local"]),
        "efficiency": f"{row['efficiency']:.0%}" if row["efficiency"] else "-",
        "GFLOP/image": f"{row['flops_per_image'] / 1e9:.2f}",
        "GFLOP/s": f"{row['gflops']:.0f}",
        "of peak": f"{row['share_of_peak']:.0%}",
    }


def _cost(row: dict[str, Any]) -> dict[str, str]:
    times = {f"{part[:8]}": f"{1000 * row[f'seconds_{part}']:.0f}" for part in PARTS}
    return {
        "batch": str(row["global_batch"]),
        "ms in a step:": row["placement"],
        **times,
        "MB sent": f"{row['bytes_per_step'] / 1e6:.2f}",
        "formula": f"{row['bytes_per_step_formula'] / 1e6:.2f}",
        "GiB": f"{row['peak_memory_bytes'] / 2**30:.2f}",
        "M param.": f"{row['parameters'] / 1e6:.1f}",
    }


def _ratio(value: float | None) -> str:
    return f"{value:.2f}" if value else "-"


def _caution(rows: Rows) -> str:
    work = {row["placement"]: row["flops_per_image"] for row in rows}
    if not {"single", "local"} <= work.keys():
        return ""
    more = work["single"] / work["local"] - 1
    return (
        f"The dense single stream does {more:.0%} more arithmetic for an image than the towers do: "
        "× single\ncompares two nets, × local two placements of one."
    )
