"""What a rank computes in a step under a plan, and the time that it takes."""

import math
from typing import NamedTuple

from distributed.plan import Plan
from model.alexnet import CLASSIFIER, FEATURES
from model.placement import Layers
from planning.formulas import Net, images_of, parameters_per_rank
from planning.job import Job
from planning.machine import LayerWork, Machine


def bytes_moved(moments: int) -> int:
    """Bytes that an update moves for a parameter in fp32.

    It reads the weight, the gradient and the optimiser's moments, and writes all but the gradient.
    """
    return 12 + 8 * moments


BYTES_ADDED = 12
"""Bytes moved to add a parameter's gradient to another: two numbers read, one written, in fp32."""


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
    own, fed = images_of(plan, batch)
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


def pace(machine: Machine, job: Job, plan: Plan) -> Pace:
    """The times of a step on a machine, which include adding up the gradients of parts and turns.

    The machine was measured with the job's optimiser. Where it has no row for a layer as it is
    here, the nearest one is scaled: what it takes for any batch by its parameters, what it takes
    for an image by its multiply-adds. Ranks of a CPU share its cores, so one of twice as many takes
    twice as long.
    """
    here = min(machine.ranks_per_node, plan.world_size)
    work = machine.work_of(here)
    crowd = here / work.ranks if machine.device == "cpu" else 1.0
    adding = crowd * work.optimizer.each * BYTES_ADDED / bytes_moved(job.moments)
    parts, layers = parts_of(job.net, plan, job.batch), {}
    for name, part in parts.items():
        row = nearest(work.layers, name, part)
        fixed, each = part.parameters / row.parameters, part.macs / row.macs
        times = job.parts * (job.turns(plan) if name in CLASSIFIER else 1)
        forward, backward = (
            crowd * line.seconds(part.images, fixed * times, each)
            for line in (row.forward, row.backward)
        )
        added = (times - 1) * part.parameters * adding
        layers[name] = Seconds(forward, backward + added)
    held = sum(part.parameters for part in parts.values())
    return Pace(
        layers,
        crowd * work.input.seconds(parts["conv1"].images, job.parts),
        crowd * work.optimizer.seconds(held),
        work.hidden,
    )


def nearest(rows: list[LayerWork], layer: str, part: Held) -> LayerWork:
    """The measured row of the layer whose size is nearest."""

    def distance(row: LayerWork) -> float:
        ratios = (getattr(row, of) / getattr(part, of) for of in ("macs", "parameters", "pieces"))
        return sum(abs(math.log(ratio)) for ratio in ratios)

    return min((row for row in rows if row.layer == layer), key=distance)
