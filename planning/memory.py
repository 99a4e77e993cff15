"""The memory that a rank needs under a plan, by formula."""

from distributed.plan import Plan
from model.alexnet import FEATURES
from planning.job import Job
from planning.work import parts_of

STATE = 12
"""Bytes of a parameter: the weight, its gradient and its momentum, in fp32."""
WEIGHT = 4


def memory_of(job: Job, plan: Plan) -> int:
    """Bytes of tensors on rank 0 in a step: parameters, and the maps that backward reads.

    Mixed precision keeps a short copy of each weight. Of each layer backward reads the inputs,
    gathered, and the outputs before and after the activation. Work areas of the libraries, and
    the program itself, come on top.
    """
    parts, shapes = parts_of(job.net, plan, job.batch), job.net.shapes()
    cast = job.activation_size if job.activation_size < WEIGHT else 0
    total = (STATE + cast) * sum(part.parameters for part in parts.values())
    for name, part in parts.items():
        shape = shapes[name]
        shards = plan.features.shards if name in FEATURES else plan.classifier.shards
        seen = part.macs // (max(1, shape.outputs // shards) * shape.window * shape.pixels_made)
        if name == "fc8":
            seen = shape.inputs // shards
        made = 1 if name == "fc8" else shards
        maps = seen * shape.pixels_read + 2 * shape.outputs // made * shape.pixels_made
        total += part.images * maps * job.activation_size
    return total
