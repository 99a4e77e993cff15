"""The step of data-parallel training on many devices of a system, from its steps on one and two.

A ring sums the gradients: of N devices, each sends 2 (N - 1)/N of the payload. A step takes

    computing + max(0, ring - hidden)

``computing`` is the step on one device. ``hidden`` is the part of the communication that the
backward pass covers; it does not grow with N, because each device keeps its batch. The ring's rate
is that of two devices until what the devices of a host share is too little for N of them.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from planning.links import Link, ring_bytes

SHARED = 40e9
"""Bytes/s that devices on PCIe 3 send together through what they share of a host."""
GROUP = 4
"""Devices that share it; the next ones bring as much of their own."""

GENERATIONS = {"PCIe 2": 0.5, "PCIe 3": 1.0, "PCIe 4": 2.0, "PCIe 5": 4.0}
"""Rates beside PCIe 3: the standard doubles them each time."""
NVSWITCH = Link(latency=0, bandwidth=150e9)
"""Nothing is shared. The rate is NVLink 2's, of a V100's data sheet."""

BUSES = {
    r"SXM[3-9]|NVSwitch": "NVSwitch",
    r"H100|H200|RTX.?50\d\d": "PCIe 5",
    r"A10|A30|A40|A[456]000|L40|RTX.?[34]0\d\d": "PCIe 4",
    r"K20|GTX.?580": "PCIe 2",
}
"""What joins devices, by a pattern of their name. Others, V100, P100 and K80 too, have PCIe 3."""


class Steps(NamedTuple):
    """Seconds of a step on one device and on two, each with the same batch; None: not known.

    ``payload`` is the gradients' bytes.
    """

    one: float
    two: float | None
    payload: float

    @property
    def exposed(self) -> float:
        """Seconds by which the step on two devices is longer. Noise may make it shorter: then 0."""
        return max(0.0, self.two - self.one) if self.two else 0.0


@dataclass(frozen=True)
class Scaling:
    """The parameters of a system: seconds, bytes, and the link with ``group`` senders at most."""

    computing: float
    payload: float
    link: Link
    hidden: float
    group: int


def bus_of(device: str) -> str:
    """What joins devices of this name to each other: a key of GENERATIONS, or NVSwitch."""
    return next((bus for name, bus in BUSES.items() if re.search(name, device)), "PCIe 3")


def limit_of(bus: str, shared: float = SHARED) -> Link:
    """The fastest link that a bus allows a device; two devices can use all that they share."""
    if bus == "NVSwitch":
        return NVSWITCH
    rate = GENERATIONS[bus] * shared
    return Link(latency=0, bandwidth=rate / 2, shared=rate)


def hidden_between(one: Steps, other: Steps) -> float:
    """The hidden seconds that two payloads of a system show.

    The exposed time of two devices is a line over the payload. Where it is below 0 for no payload,
    so much of the communication is hidden.
    """
    if one.payload == other.payload or one.two is None or other.two is None:
        return 0.0
    slope = (one.exposed - other.exposed) / (one.payload - other.payload)
    return max(0.0, slope * one.payload - one.exposed)


def fit(steps: Steps, limit: Link, hidden: float = 0, group: int = GROUP) -> Scaling:
    """Fit the link's rate and the hidden part to two devices; without them, take the limit.

    ``hidden`` is what is known to be hidden. More is, where the link would be above the limit.
    """
    if steps.two is None:
        return Scaling(steps.one, steps.payload, limit, 0.0, group)
    moving = max(steps.exposed + hidden, steps.payload / limit.rate(2))
    link = limit.model_copy(update={"bandwidth": steps.payload / moving})
    return Scaling(steps.one, steps.payload, link, moving - steps.exposed, group)


def predict(scaling: Scaling, devices: int) -> float:
    """Seconds of a step on that many devices, with the same batch on each."""
    senders = min(devices, scaling.group)
    ring = scaling.link.seconds(ring_bytes(scaling.payload, devices), 0, senders)
    return scaling.computing + max(0.0, ring - scaling.hidden)


def plain_ring(steps: Steps, devices: int) -> float:
    """The same with nothing shared and nothing hidden, and no time for what two do not show."""
    return steps.one + ring_bytes(steps.exposed, devices)
