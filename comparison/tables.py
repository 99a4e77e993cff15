"""The rows as text: for a terminal, as Markdown or as CSV."""

import csv
from pathlib import Path
from typing import Any

import tabulate

from common.files import writing
from comparison.predicted import PARTS
from distributed.timer import StepCost
from planning.formulas import BOUNDARIES
from training.settings import flatten

Rows = list[dict[str, Any]]

tabulate.MIN_PADDING = 0  # the default widens every heading by two columns


def as_text(rows: Rows, style: str = "simple") -> str:
    """Tables of speed, of cost and of what is sent where, with notes; at most 100 columns wide.

    ``style`` is one of tabulate's: ``simple`` for a terminal, ``github`` for Markdown.
    """
    good = [row for row in rows if "images_per_second" in row]
    speed, cost = (_table([each(row) for row in good], style) for each in (_speed, _cost))
    sent = _table(_sent([row for row in good if row["bytes_sent"]]), style)
    predicted = _table([_predicted(row) for row in good if "prediction_error" in row], style)
    failed = [
        f"{row['placement']} at batch {row['global_batch']} failed: {row['error']}"
        for row in rows
        if row["error"]
    ]
    return "\n\n".join(filter(None, [speed, cost, sent, predicted, *failed, _caution(good)]))


def write_csv(rows: Rows, path: Path) -> None:
    """Write every key of every row, one line per row; bytes at conv3 are ``bytes_at/conv3``."""
    rows = [dict(flatten(row, separator="/")) for row in rows]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: list[dict[str, str]], style: str) -> str:
    align = [
        "right" if key not in ("placement", "ms of", "MB of", "predicted/ms of") else "left"
        for key in (rows or [{}])[0]
    ]
    return tabulate.tabulate(
        rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=align or None
    )


def _speed(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["images_per_second_min"], row["images_per_second_max"]
    places = int(high < 1000)
    return {
        "batch": str(row["global_batch"]),
        "placement": row["placement"],
        "ranks": str(row["world_size"]),
        "images/s": f"{row['images_per_second']:.1f}",
        "range": f"{low:.{places}f}-{high:.{places}f}",
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
        "GiB": f"{row['peak_memory_bytes'] / 2**30:.2f}",
        "M params": f"{row['parameters_per_rank'] / 1e6:.1f}",
    }


def _predicted(row: dict[str, Any]) -> dict[str, str]:
    """Predicted / measured ms of the step and of its parts."""
    cost = StepCost.read(row)
    found = {name: 1e3 * sum(cost.parts[part] for part in parts) for name, parts in PARTS.items()}
    wanted = {name: 1e3 * row[f"predicted_seconds_{name}"] for name in PARTS}
    step = 1e3 * row["global_batch"] / row["images_per_second"]
    pairs = {"step": (sum(wanted.values()), step)}
    pairs |= {name: (wanted[name], found[name]) for name in PARTS}
    return {
        "batch": str(row["global_batch"]),
        "predicted/ms of": row["placement"],
        **{_SHORT.get(name, name): f"{p:.0f}/{m:.0f}" for name, (p, m) in pairs.items()},
        "error": f"{row['prediction_error']:+.0%}",
    }


def _sent(rows: Rows) -> list[dict[str, str]]:
    """What a rank sends at each boundary that occurs in any of the rows."""
    occurring = [name for name in BOUNDARIES if any(name in row["bytes_at"] for row in rows)]
    return [
        {
            "batch": str(row["global_batch"]),
            "MB of": row["placement"],
            **{_SHORT.get(name, name): _megabytes(row["bytes_at"].get(name)) for name in occurring},
        }
        for row in rows
    ]


def _megabytes(size: int | None) -> str:
    """Three digits, two of them after the point at most; nothing where nothing is sent."""
    if size is None:
        return ""
    return f"{size / 1e6:.{2 if size < 1e7 else 1 if size < 1e8 else 0}f}"


_SHORT = {
    "activation_communication": "act.",
    "gradient_communication": "grad.",
    "activations": "act.",
    "gradients": "grad.",
    "optimizer": "optim.",
    "conv gradients": "∇conv",
    "fc gradients": "∇fc",
}


def _ratio(value: float | None) -> str:
    return f"{value:.2f}" if value else "-"


def _caution(rows: Rows) -> str:
    work = {row["placement"]: row["flops_per_image"] for row in rows}
    known = (
        "act. and grad. are what a rank waits for activations and gradients of others.\n"
        "GFLOP is the arithmetic of training on one image, without normalisation."
    )
    if any(row["bytes_sent"] for row in rows):
        known += f"\n∇ are gradients, summed over replicas. {_against_formula(rows)}"
    if any("prediction_error" in row for row in rows):
        known += "\nPredicted and measured in ms; error is the first over the second, less 1."
    if not {"single", "local"} <= work.keys():
        return known
    more = work["single"] / work["local"] - 1
    return (
        f"{known}\nThe dense single stream does {more:.0%} more arithmetic than the towers do: "
        "× single compares two\nnets, × local two placements of one."
    )


def _against_formula(rows: Rows) -> str:
    wrong = [row for row in rows if row["bytes_at"] != row["bytes_at_formula"]]
    if not wrong:
        return "All bytes counted equal the formula."
    named = (f"{row['placement']} at batch {row['global_batch']}" for row in wrong)
    return "Bytes counted differ from the formula:\n" + "\n".join(named)
