"""Predictions as text, at most 100 columns wide."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from textwrap import fill
from typing import Any

import tabulate

from planning.machine import Machine
from planning.search import Candidate, Ranked
from planning.sweep import Change, Scale, Space, slowest_links

PLACES = {"within": "within a node", "between": "between nodes"}
_SHORT = {"compute": "comp.", "activations": "act.", "gradients": "grad.", "optimizer": "optim."}
WIDTH = 100
"""Columns of a terminal."""
SHOWN = 12
"""Rows of a table of placements; the others are slower."""


def machine_in_words(machine: Machine) -> str:
    """The machine in a line or two."""
    lines = [
        f"{machine.device}, {machine.precision}, {_ranks(machine.ranks_per_node)} a node, "
        f"{machine.memory / 2**30:.0f} GiB each; {machine.source}"
    ]
    for name in ("within", "between"):
        for collective, link in getattr(machine, name).items():
            shared = f", {_rate(link.shared)} for a node" if link.shared else ""
            lines.append(
                f"{PLACES[name]}, {collective.replace('_', '-')}: {_rate(link.bandwidth)} a rank"
                f"{shared}, {1e6 * link.latency:.0f} µs a message"
            )
    return "\n".join(lines)


def placements_table(ranked: Sequence[Ranked], batch: int, ranks: int) -> str:
    """The placements in the order of their speed."""
    rows = [
        {
            "placement": each.candidate.name,
            "images/s": f"{batch / each.prediction.seconds:.0f}",
            "ms": _ms(each.prediction.seconds),
            **{_SHORT[part]: _ms(s) for part, s in each.prediction.parts.items()},
            "MB": f"{sum(each.prediction.bytes_at.values()) / 1e6:.1f}",
            "GiB": f"{each.prediction.memory / 2**30:.2f}" + ("" if each.fits else " too much"),
        }
        for each in distinct(ranked)[:SHOWN]
    ]
    return f"global batch {batch} on {_ranks(ranks)}\n{_table(rows)}"


def distinct(ranked: Sequence[Ranked]) -> list[Ranked]:
    """The best scheme of each grid; the others follow it closely and say little more."""
    seen: dict[Any, Ranked] = {}
    for each in ranked:
        seen.setdefault((each.candidate.plan, each.candidate.compressed), each)
    return list(seen.values())


def command(candidate: Candidate, batch: int, machine: Machine, source: Sequence[str]) -> str:
    """The command that runs it, with ``source``'s arguments for train.py."""
    ranks, here = candidate.plan.world_size, machine.ranks_per_node
    if ranks <= here:
        start = ["--nproc", str(ranks)]
    else:
        start = ["--nnodes", str(ranks // here), "--nproc", str(here)]
        start += ["--rdzv-endpoint", "FIRST_NODE:29500"]
    settings = [*source, *candidate.overrides, f"batch_size={batch}"]
    return shlex.join(["./launch.sh", *start, "train.py", *settings])


def changes_in_words(space: Space, batches: Iterable[Change], links: Iterable[Change]) -> str:
    """The best placement over global batches, and over rates of the slowest links."""
    name, best = slowest_links(space.machine, space.ranks), space.best.candidate.plan.placement
    here = getattr(space.machine, name)["exchange"].bandwidth
    lines = (
        f"global batch: {_over(batches, best, lambda at: str(round(at)))}",
        f"links {PLACES[name]}: {_over(links, best, lambda at: _rate(at * here))}",
    )
    return "\n".join(fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def _over(changes: Iterable[Change], best: str, in_words: Callable[[float], str]) -> str:
    """What is best from which value on; ``best`` for all, if nothing changes."""
    found = list(changes)
    names = [found[0].before if found else best]
    return ", ".join(names + [f"from {in_words(at)} on {after}" for at, _, after in found])


def scaling_table(rows: Sequence[Scale]) -> str:
    """The best on each number of ranks."""
    return _table(
        [
            {
                "ranks": str(row.ranks),
                "batch": str(row.batch),
                "best": row.best.candidate.name,
                "images/s": f"{row.images_per_second:.0f}",
                "effic.": f"{row.efficiency:.0%}",
                "bottleneck": row.best.prediction.bottleneck,
            }
            for row in rows
        ]
    )


def _table(rows: list[dict[str, str]]) -> str:
    keys = list(rows[0]) if rows else []
    words = {"placement", "best", "bottleneck"}
    align = ["left" if key in words else "right" for key in keys]
    return tabulate.tabulate(rows, headers="keys", disable_numparse=True, colalign=align or None)


def _ranks(number: int) -> str:
    return f"{number} rank{'s' * (number > 1)}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{1 if seconds < 1 else 0}f}"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.3g} GB/s"
