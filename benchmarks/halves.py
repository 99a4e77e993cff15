"""A hybrid's step on devices below two switches, with the classifier in turns (scheme b).

In each of K turns all ranks run the classifier on the images of one, so one rank at a time sends
its activations to the others, and receives their gradients. The sending for the next turn hides
behind this one's arithmetic.
"""

from dataclasses import dataclass

from distributed.plan import Wish, plan_alone, plan_mesh
from model.alexnet import CLASSIFIER
from planning.formulas import Net, bytes_sent, parameters_per_rank

SIZE = 4
"""Bytes of an activation, a gradient or a weight in fp32."""
ACCESSES = 5
"""Momentum reads a weight, its gradient and its momentum, and writes two of them."""


@dataclass(frozen=True)
class Halves:
    """Bytes/s of a device ``within`` its half, of ``size`` devices, and ``across`` to the other."""

    size: int
    within: float
    across: float

    def exchange(self, sent: float, ranks: int) -> float:
        """Seconds in which a rank sends each of the others an equal part of ``sent``."""
        near = min(ranks, self.size) - 1
        far = ranks - 1 - near
        return sent / (ranks - 1) * (near / self.within + far / self.across)

    def ring(self, sent: float, ranks: int) -> float:
        """Seconds in which each rank sends its neighbour that much: the slowest link's time."""
        return sent / (self.within if ranks <= self.size else self.across)


@dataclass(frozen=True)
class Device:
    """A device: seconds of a step on ``batch`` images, and bytes/s of its memory."""

    step: float
    batch: int
    memory: float


def hybrid_step(
    net: Net, device: Device, halves: Halves, ranks: int, updates_each_turn: bool = False
) -> float:
    """Seconds of a step of ``ranks`` ranks, with the device's batch on each."""
    plan = plan_mesh(Wish(ranks, net.towers), "hybrid", net.variant)
    sent = bytes_sent(net, plan, ranks * device.batch, SIZE, SIZE)
    turns = ranks * halves.exchange(sent["fc6"], ranks)
    others = (ranks - 1) / ranks
    hidden = others * min(turns / 2, _classifier_share(net) * device.step)
    together = halves.exchange(sent["fc7"] + sent["logits"], ranks)
    summed = halves.ring(sent["conv gradients"], ranks)
    # A rank updates its part of the classifier once a step, or in each turn.
    saved = 0.0 if updates_each_turn else others * _update(net, device)
    return device.step - saved + turns - hidden + together + summed


def _classifier_share(net: Net) -> float:
    macs = net.macs()
    return sum(macs[name] for name in CLASSIFIER) / sum(macs.values())


def _update(net: Net, device: Device) -> float:
    """Seconds in which one device updates the whole classifier."""
    held = parameters_per_rank(net, plan_alone(net.towers))
    return sum(held[name] for name in CLASSIFIER) * SIZE * ACCESSES / device.memory
