"""Links between ranks, and the time that collectives take on them."""

from typing import Annotated, Literal

from pydantic import Field

from training.fields import Section

Seconds = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(gt=0, le=1e18)]

Collective = Literal["exchange", "all_reduce"]
"""``exchange``: each rank sends every other rank a part of its own (all-gather, all-to-all).
``all_reduce``: the sum, on every rank."""


class Link(Section):
    """What joins the ranks of a node, or the nodes, to one collective.

    ``latency`` is the time of a message of no length. A rank that sends alone sends ``bandwidth``
    bytes/s; all ranks of a node together send at most ``shared`` through what they share (a PCIe
    root, a network card, memory). null: they share nothing.
    """

    latency: Seconds
    bandwidth: Rate
    shared: Rate | None = None

    def rate(self, senders: int) -> float:
        """Bytes/s of each of the ``senders`` of a node that send at the same time."""
        return min(self.bandwidth, self.shared / senders) if self.shared else self.bandwidth

    def seconds(self, sent: float, messages: int, senders: int = 1) -> float:
        """Time in which each of ``senders`` sends that many bytes in as many messages."""
        return messages * self.latency + sent / self.rate(senders)


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that each of the ranks sends to sum ``size`` bytes (a bandwidth-optimal all-reduce)."""
    return 2 * (ranks - 1) / ranks * size


def messages_of(collective: Collective, ranks: int) -> int:
    """Messages that a rank sends one after the other: a ring's, or one to each of the others."""
    return (2 if collective == "all_reduce" else 1) * (ranks - 1)
