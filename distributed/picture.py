"""A plan, drawn for a person: what each rank works on."""

import textwrap

from tabulate import tabulate

from distributed.plan import Plan
from model.placement import Layers, Reads
from model.variants import Variant

MOST_RANKS = 8


def draw_plan(plan: Plan, variant: Variant, images: int) -> str:
    """Draw which units, and which of a global batch of ``images``, each rank works on.

    A line for each rank, or for the first few of many.
    """
    ranks = range(min(plan.world_size, MOST_RANKS))
    rows = [(f"rank {rank}", *_stages(plan, variant, images, rank)) for rank in ranks]
    table = tabulate(rows, ["", "conv1 to conv5", "fc6 to fc8"], tablefmt="plain")
    more = f"\n… and {plan.world_size - MOST_RANKS} more ranks"
    return textwrap.indent(table + more * (plan.world_size > MOST_RANKS), "  ")


def _stages(plan: Plan, variant: Variant, images: int, rank: int) -> tuple[str, str]:
    """What a rank works on in each stage."""
    replica, shard = plan.features.place(rank)
    copy, fc_shard = plan.classifier.place(rank)
    units = Layers(plan.towers, plan.classifier.shards, fc_shard).units(variant.hidden)
    hidden = _span("unit", units) if plan.classifier.shards > 1 else "all units"
    return (
        f"{_towers(plan, shard)}, {_share(plan, images, replica, 1)}",
        f"{hidden}, {_share(plan, images, copy * plan.feeds, plan.feeds)}",
    )


def _towers(plan: Plan, shard: int) -> str:
    """What a shard of the features holds."""
    layers = Layers(plan.towers, plan.features.shards, shard)
    spread = layers.spread(Reads.OWN)
    part = f"part {shard % spread + 1} of {spread}"
    if plan.towers == 1:
        return "all units" if spread == 1 else part
    towers = _span("tower", layers.inputs(plan.towers, Reads.OWN))  # a unit for each tower
    return towers if spread == 1 else f"{towers}, {part}"


def _share(plan: Plan, images: int, first: int, number: int) -> str:
    """The images of a number of replicas, as ``Tensor.tensor_split`` divides them."""
    each, more = divmod(images, plan.features.replicas)
    ends = (replica * each + min(replica, more) for replica in (first, first + number))
    return _span("image", range(*ends))


def _span(name: str, numbers: range) -> str:
    if len(numbers) > 1:
        return f"{name}s {numbers[0]}-{numbers[-1]}"
    return f"{name} {numbers[0]}" if numbers else f"no {name}s"
