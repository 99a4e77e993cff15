"""What a rank sends in a step under a plan: which collectives, over which ranks, how many bytes."""

from collections.abc import Mapping
from typing import NamedTuple

from distributed.plan import Grid, Plan
from model.alexnet import CLASSIFIER, FEATURES
from model.placement import Layers
from planning.formulas import Net, bytes_sent, parameters_per_rank
from planning.links import Collective, Link, messages_of, ring_bytes


class Group(NamedTuple):
    """Ranks that communicate: ``size`` of them, each ``stride`` after the one before."""

    size: int
    stride: int = 1

    def nodes(self, ranks_per_node: int) -> int:
        """The number of nodes on which they lie."""
        here = max(1, ranks_per_node // self.stride)
        return max(1, -(-self.size // here))


class Transfer(NamedTuple):
    """A collective of ``group``, in which a rank sends ``sent`` bytes in ``calls`` calls.

    All ``ranks`` of a plan make it at the same time, in groups like this one; or one after the
    other of ``in_turn`` ranks, as those that feed a classifier do in scheme b.
    """

    collective: Collective
    group: Group
    sent: float
    ranks: int
    calls: int = 1
    in_turn: int = 1


class Links(NamedTuple):
    """The links of a machine, by collective, and the ranks of a node."""

    within: Mapping[Collective, Link]
    between: Mapping[Collective, Link]
    ranks_per_node: int

    def seconds(self, transfer: Transfer) -> float:
        """The time of a transfer, and of those that are made in turn with it, nothing else sent.

        A ring over several nodes sends as many bytes from each node as from a rank, and the rings
        of a node share its link to the others. In an exchange, what other nodes' ranks get leaves
        the node, from each rank of it at once.
        """
        collective, group, sent, ranks, calls, in_turn = transfer
        here = max(1, min(self.ranks_per_node, ranks) // in_turn)
        sent *= in_turn
        messages = calls * messages_of(collective, group.size)
        nodes = group.nodes(self.ranks_per_node)
        if nodes == 1:
            return self.within[collective].seconds(sent, messages, here)
        out = self.between[collective]
        if collective == "all_reduce":
            rings = min(group.stride, self.ranks_per_node)
            inside = self.within[collective].seconds(sent, 0, here) if here > rings else 0.0
            return max(out.seconds(sent, messages, rings), inside)
        apart = (group.size - group.size // nodes) / (group.size - 1)
        inside = self.within[collective].seconds(sent * (1 - apart), 0, here) if apart < 1 else 0.0
        return max(out.seconds(sent * apart, messages, here), inside)


def activations(net: Net, plan: Plan, batch: int, size: int) -> dict[str, Transfer]:
    """The transfer at each boundary in a step, forward and backward together; ``size`` in bytes.

    A sum of logits is a single call: its gradient is on every rank already.
    """
    sent = bytes_sent(net, plan, batch, size, gradient_size=0)
    transfers = {}
    for name, count in sent.items():
        grid = plan.classifier if name in ("fc6", "fc7", "logits") else plan.features
        every = _all_slices_meet(net, plan, name)
        group = Group(grid.shards if every else plan.shards_of_tower(grid))
        transfers[name] = Transfer("exchange", group, count, plan.world_size, calls=2)
        if name == "logits" and plan.feeds == 1:
            transfers[name] = Transfer("all_reduce", group, count, plan.world_size)
    return transfers


def _all_slices_meet(net: Net, plan: Plan, boundary: str) -> bool:
    """True where all slices of a copy communicate, not each tower's among themselves."""
    if boundary == "logits" or (boundary == "fc6" and plan.feeds > 1):
        return True
    reads = net.norm_reads if boundary.startswith("norm") else net.shapes[boundary].reads
    return Layers(net.towers).groups(reads) == 1


def gradients(net: Net, plan: Plan, size: int) -> dict[str, Transfer]:
    """The sums of each layer's gradients over its copies; ``size`` of a gradient in bytes.

    Weights and biases are summed by themselves: two calls.
    """
    held, transfers = parameters_per_rank(net, plan), {}
    for layers, grid in ((FEATURES, plan.features), (CLASSIFIER, plan.classifier)):
        for layer in layers if grid.replicas > 1 else ():
            sent = ring_bytes(held[layer] * size, grid.replicas)
            transfers[layer] = Transfer("all_reduce", copies(grid), sent, plan.world_size, calls=2)
    return transfers


def copies(grid: Grid) -> Group:
    """The ranks that hold the same slice of a stage."""
    return Group(grid.replicas, grid.shards)
