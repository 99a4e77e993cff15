"""The latency and the rate of the links between ranks, and how much work hides their traffic."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.collectives import all_gather_single
from distributed.mesh import Mesh
from planning.links import Collective, Link, messages_of, ring_bytes
from planning.measuring.lines import fit

SIZES = (4 << 10, 256 << 10, 4 << 20, 32 << 20)
"""Bytes that a rank puts into a collective."""
FEWEST, MOST, SECONDS = 3, 20, 0.4
"""Repetitions of one size, and about how long they take."""
SIDE = {"cpu": 768, "cuda": 4096}
"""Side of the matrices that are multiplied beside a sum; smaller ones would not fill a GPU."""
TRIES = 9
"""Comparisons of a sum beside work with both alone."""

Group = dist.ProcessGroup | None
"""Ranks that communicate; None on the others, which wait."""


def _all_reduce(own: Tensor, group: dist.ProcessGroup) -> None:
    dist.all_reduce(own, group=group)


def _exchange(own: Tensor, group: dist.ProcessGroup) -> None:
    """A gather and what its gradient needs, for half of the ranks' bytes each."""
    parts = own.view(2, group.size(), -1)
    everyone = torch.empty_like(parts[0])
    all_gather_single(everyone.flatten(), parts[0, group.rank()], group=group)
    dist.all_to_all_single(everyone, parts[1], group=group)


CALLS: Mapping[Collective, Callable[[Tensor, dist.ProcessGroup], None]] = {
    "exchange": _exchange,
    "all_reduce": _all_reduce,
}


def measure_links(mesh: Mesh, some: Group, everyone: Group, senders: int) -> dict[Collective, Link]:
    """The links between the ranks of ``everyone``, by collective; every rank must call it.

    ``some`` of these ranks send alone first, then all do, ``senders`` on each node: that tells what
    they share.
    """
    return {collective: _link(mesh, collective, some, everyone, senders) for collective in CALLS}


def _link(mesh: Mesh, collective: Collective, some: Group, everyone: Group, senders: int) -> Link:
    alone, together = (_line(mesh, collective, group) for group in (some, everyone))
    shares = together.bandwidth < alone.bandwidth
    return alone.model_copy(update={"shared": senders * together.bandwidth if shares else None})


def _line(mesh: Mesh, collective: Collective, group: Group) -> Link:
    """The link while the ranks of ``group`` use it; the others are told."""
    ranks = int(mesh.largest(group.size() if group else 0))
    sent = {
        size: ring_bytes(size, ranks) if collective == "all_reduce" else size * (ranks - 1) / ranks
        for size in SIZES
    }
    line = fit((sent[size], _seconds(mesh, CALLS[collective], size, group)) for size in SIZES)
    calls = {"exchange": 2, "all_reduce": 1}[collective]
    latency = line.fixed / (calls * messages_of(collective, ranks))
    return Link(latency=latency, bandwidth=1 / max(line.each, 1e-15))


def _seconds(
    mesh: Mesh, call: Callable[[Tensor, dist.ProcessGroup], None], size: int, group: Group
) -> float:
    """The median time of a call with ``size`` bytes of each rank, on the slowest rank."""
    own = torch.ones(_whole(size, group), device=mesh.device) if group else None

    def timed() -> float:
        start = time.perf_counter()
        if own is not None and group is not None:
            call(own, group)
        _finish(mesh.device)
        return time.perf_counter() - start

    timed()
    first = mesh.largest(timed())
    count = max(FEWEST, min(MOST, int(SECONDS / max(first, 1e-9))))
    return mesh.largest(median(timed() for _ in range(count)))


def _whole(size: int, group: Group) -> int:
    """Numbers of four bytes, as many for each half of an exchange and for each rank."""
    parts = 2 * group.size() if group else 1
    return -(-size // 4 // parts) * parts


def measure_hidden(mesh: Mesh, size: int = 32 << 20, side: int | None = None) -> float:
    """The part of a sum's time in which ranks compute as fast as without it, from 0 to 1.

    All ranks multiply matrices for about as long as an all-reduce of ``size`` bytes takes, alone
    and beside it.
    """
    side = side or SIDE[mesh.device.type]
    own = torch.ones(size // 4, device=mesh.device)
    a, b = torch.randn(2, side, side, device=mesh.device)

    def compute(products: int) -> None:
        for _ in range(products):
            torch.mm(a, b)

    def timed(sums: bool, products: int) -> float:
        start = time.perf_counter()
        work = dist.all_reduce(own, async_op=True) if sums else None
        compute(products)
        if work is not None:
            work.wait()
        _finish(mesh.device)
        return time.perf_counter() - start

    def once(sums: bool, products: int) -> float:
        return mesh.largest(timed(sums, products))

    once(True, 3)
    products = max(1, round(once(True, 0) / max(once(False, 10) / 10, 1e-9)))
    hidden = []
    for _ in range(TRIES):
        sent, computed, both = once(True, 0), once(False, products), once(True, products)
        hidden.append((sent + computed - both) / min(sent, computed))
    return min(1.0, max(0.0, median(hidden)))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
