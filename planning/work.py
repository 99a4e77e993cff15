"""What a rank computes in a step under a plan, and the time that it takes."""

import math
from typing import NamedTuple

from distributed.plan import Plan
from model.alexnet import CLASSIFIER, FEATURES
from model.placement import Layers
from planning.formulas import Net, parameters_per_rank
from planning.machine import LayerWork, Machine

ADDING = 12 / 20
"""The time to add a turn's gradient to the others', over that of an update: two numbers are read
and one is written, where an update reads three and writes two."""


class Held(NamedTuple):
    """A rank's part of a layer: multiply-adds for an image, parameters, and images in a step.

    ``pieces`` are those in which its input arrives, each from another rank.
    """

    macs: int
    parameters: int
    images: int
    pieces: int = 1


def parts_of(net: Net, plan: Plan, batch: int) -> dict[str, Held]:
    """The part of each layer that rank 0, whose share is the largest, works on."""
    shapes, parameters = net.shapes, parameters_per_rank(net, plan)
    own = -(-batch // plan.features.replicas)
    fed = min(own * plan.feeds, batch)
    held = {}
    for layers, shards, images in (
        (FEATURES, plan.features.shards, own),
        (CLASSIFIER, plan.classifier.shards, fed),
    ):
        stage = Layers(net.towers, shards)
        for name in layers:
            inputs, outputs, reads, window, _, pixels = shapes[name]
            seen = inputs // stage.groups(reads)
            units = len(stage.units(outputs))
            pieces = stage.spread(reads)
            if name == "fc8":  # sliced along its inputs
                seen, units, pieces = inputs // shards, outputs, 1
            if name == "conv1" or (name == "fc6" and plan.feeds > 1):  # whole before it begins
                pieces = 1
            macs = window * seen * units * pixels
            held[name] = Held(macs, parameters[name], images, pieces)
    return held


class Seconds(NamedTuple):
    """The time of a layer's forward and backward pass."""

    forward: float
    backward: float


class Pace(NamedTuple):
    """The times of a plan's step on a machine, by layer; ``hidden`` is that of its work."""

    layers: dict[str, Seconds]
    input: float
    optimizer: float
    hidden: float


def pace(machine: Machine, net: Net, plan: Plan, batch: int, turns: int) -> Pace:
    """The times of a step on a machine; the classifier works in ``turns``.

    Where the machine has no row for a layer as it is here, the nearest one is scaled: what it takes
    for any batch by its parameters, what it takes for an image by its multiply-adds. Ranks of a CPU
    share its cores, so one of twice as many takes twice as long.
    """
    here = min(machine.ranks_per_node, plan.world_size)
    work = machine.work_of(here)
    crowd = here / work.ranks if machine.device == "cpu" else 1.0
    parts, layers = parts_of(net, plan, batch), {}
    for name, part in parts.items():
        row = nearest(work.layers, name, part)
        fixed, each = part.parameters / row.parameters, part.macs / row.macs
        times = turns if name in CLASSIFIER else 1
        forward, backward = (
            crowd * line.seconds(part.images, fixed * times, each)
            for line in (row.forward, row.backward)
        )
        added = crowd * (times - 1) * part.parameters * ADDING * work.optimizer.each
        layers[name] = Seconds(forward, backward + added)
    held = sum(part.parameters for part in parts.values())
    return Pace(
        layers,
        crowd * work.input.seconds(parts["conv1"].images),
        crowd * work.optimizer.seconds(held),
        work.hidden,
    )


def nearest(rows: list[LayerWork], layer: str, part: Held) -> LayerWork:
    """The measured row of the layer whose size is nearest."""

    def distance(row: LayerWork) -> float:
        ratios = (getattr(row, of) / getattr(part, of) for of in ("macs", "parameters", "pieces"))
        return sum(abs(math.log(ratio)) for ratio in ratios)

    return min((row for row in rows if row.layer == layer), key=distance)
