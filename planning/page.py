"""One self-contained HTML page on which a person moves a plan's batch, links and ranks.

Every number on it is predicted here; the page itself only looks numbers up, and draws them.
"""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from common.colors import COLORS
from common.files import writing
from planning.links import Collective, Link
from planning.machine import Machine
from planning.prediction import links_of, predict_over
from planning.search import Candidate
from planning.sweep import Space, scaled, slowest_links, with_links
from planning.tables import command, machine_in_words

TEMPLATE = Path(__file__).with_suffix(".html")

BATCHES = tuple(2**power for power in range(5, 14))
RANKS = tuple(2**power for power in range(7))
BANDWIDTHS = (1 / 64, 1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
LATENCIES = (1 / 4, 1.0, 4.0, 16.0)
"""Factors of the rates and of the latencies of the machine's slowest links."""

SOURCES = {
    "measured": "from the times of the layers and of the links that check.py measured there",
    "data sheet": "from published rates and nominal links: this machine was not measured, so the "
    "true times may be far from these",
}


def write_page(space: Space, how: Sequence[str], path: Path) -> None:
    """Write the page around ``space``, with ``how``'s arguments for train.py in its commands."""
    text = page(space, how)
    with writing(path):
        path.write_text(text, encoding="utf-8")


def page(space: Space, how: Sequence[str]) -> str:
    """The page's text."""
    net = space.job.net
    towers = f"{net.towers} towers" if net.towers > 1 else "one tower"
    parts = {
        "title": html.escape(f"AlexNet ({net.name}, {towers}) on {space.machine.device}"),
        "source": html.escape(_source(space.machine)),
        "measured": space.machine.source.replace(" ", "-"),
        "machine": html.escape(machine_in_words(space.machine)),
        "data": json.dumps(data(space, how), separators=(",", ":")).replace("<", "\\u003c"),
        "plotly": get_plotlyjs(),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\[\[(\w+)\]\]", lambda match: parts[match[1]], text)


def _source(machine: Machine) -> str:
    """What the predictions are from, as a sentence's end."""
    source = SOURCES[machine.source]
    if machine.between in ({}, machine.within):
        source += "; links between nodes are taken to be like those within a node"
    return source


def data(space: Space, how: Sequence[str]) -> dict[str, Any]:
    """All that the page looks up: the dials, and ``points`` by ranks and batch."""
    space = _joined(space)
    machine, job = space.machine, space.job
    batches = sorted({*BATCHES, job.batch})
    ranks = sorted({each for each in RANKS if machine.connects(each)} | {space.ranks})
    spaces = [space.with_ranks(each) for each in ranks]
    return {
        "batches": batches,
        "ranks": ranks,
        "bandwidths": BANDWIDTHS,
        "latencies": LATENCIES,
        "start": {"batch": job.batch, "ranks": space.ranks, "bandwidth": 1, "latency": 1},
        "memory": round(machine.memory / 2**20),
        "colors": COLORS,
        "links": {name: _links_in_words(machine, name) for name in ("within", "between")},
        "where": [slowest_links(machine, each) for each in ranks],
        "candidates": [[_candidate(each, machine, how) for each in shown(here)] for here in spaces],
        "points": [
            [_point(here.with_batch(batch)) if batch >= here.ranks else None for batch in batches]
            for here in spaces
        ],
    }


def _joined(space: Space) -> Space:
    """The same with links between nodes: those within a node where the machine has none."""
    machine = space.machine
    between = machine.between or machine.within
    return space._replace(machine=machine.model_copy(update={"between": between}))


def shown(space: Space) -> list[Candidate]:
    """The candidates without those that send fp32 gradients where they may be bf16, and faster."""
    found = space.candidates()
    compressed = {(each.plan, each.scheme) for each in found if each.compressed}
    return [each for each in found if each.compressed or (each.plan, each.scheme) not in compressed]


def _candidate(candidate: Candidate, machine: Machine, how: Sequence[str]) -> dict[str, Any]:
    plan = candidate.plan
    return {
        "name": candidate.name,
        "kind": plan.placement,
        "grids": [plan.features.shards, plan.classifier.shards],
        "command": command(candidate, 0, machine, how).removesuffix("0"),
    }


def _point(space: Space) -> dict[str, Any]:
    """Predictions by candidate: µs by part and MiB; for each of the links, where they matter."""
    links = list(map(links_of, machines(space)))
    rows = [
        predict_over(links, each.job(space.job), each.plan, space.machine) for each in shown(space)
    ]
    return {
        "memory": [round(row[0].memory / 2**20) for row in rows],
        "fits": [row[0].memory <= space.machine.memory for row in rows],
        "compute": [_microseconds(row[0].compute) for row in rows],
        "optimizer": [_microseconds(row[0].optimizer) for row in rows],
        "activations": [[_microseconds(each.activations) for each in row] for row in rows],
        "gradients": [[_microseconds(each.gradients) for each in row] for row in rows],
    }


def machines(space: Space) -> list[Machine]:
    """The machine with each of its slowest links: by bandwidth, then by latency."""
    return [
        with_links(space.machine, space.ranks, changed_link(*factors))
        for factors in product(BANDWIDTHS, LATENCIES)
    ]


def changed_link(bandwidth: float, latency: float) -> Callable[[Link], Link]:
    """A change that multiplies a link's rates and its latency."""

    def change(link: Link) -> Link:
        return scaled(bandwidth)(link).model_copy(update={"latency": link.latency * latency})

    return change


def _microseconds(seconds: float) -> int:
    return round(1e6 * seconds)


def _links_in_words(machine: Machine, name: str) -> dict[str, list[str]]:
    """The values of both dials of links, for a person."""
    links: dict[Collective, Link] = getattr(machine, name)
    rates = {key: link.bandwidth / 1e9 for key, link in links.items()}
    latencies = {key: link.latency * 1e6 for key, link in links.items()}
    return {
        "bandwidths": [_in_words(rates, factor, "GB/s") for factor in BANDWIDTHS],
        "latencies": [_in_words(latencies, factor, "µs") for factor in LATENCIES],
    }


def _in_words(values: Mapping[Collective, float], factor: float, unit: str) -> str:
    """One value, or one for each collective."""
    texts = {key: f"{value * factor:.3g}" for key, value in values.items()}
    if len(set(texts.values())) == 1:
        return f"{next(iter(texts.values()))} {unit}"
    named = [f"{key.replace('_', '-')} {text}" for key, text in texts.items()]
    return ", ".join(named) + f" {unit}" if named else "none"
