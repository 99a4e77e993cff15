"""The memory that a rank needs under a plan, by formula."""

from distributed.plan import Plan
from model.alexnet import CLASSIFIER
from model.placement import Layers
from planning.job import Job
from planning.work import parts_of


def memory_of(job: Job, plan: Plan) -> int:
    """Bytes of tensors on rank 0 in a step: parameters, and the maps that backward reads.

    Each weight has a gradient and the optimiser's moments and, with mixed precision, a short copy.
    Of each layer backward reads the inputs, gathered, and the outputs before and after the
    activation, for the images of a part of the batch, in the classifier those of a turn. Work areas
    of the libraries, and the program itself, come on top.
    """
    parts, shapes = parts_of(job.net, plan, job.part_batch), job.net.shapes
    cast = job.activation_size if job.activation_size < job.weight_size else 0
    held = job.weight_size * (2 + job.moments) + cast
    total = held * sum(part.parameters for part in parts.values())
    for name, part in parts.items():
        shape = shapes[name]
        shards, turns = plan.features.shards, 1
        if name in CLASSIFIER:
            shards, turns = plan.classifier.shards, job.turns(plan)
        seen = len(Layers(job.net.towers, shards).inputs(shape.inputs, shape.reads))
        if name == "fc8":
            seen = shape.inputs // shards
        made = 1 if name == "fc8" else shards
        maps = seen * shape.pixels_read + 2 * shape.outputs // made * shape.pixels_made
        total += -(-part.images // turns) * maps * job.activation_size
    return total
