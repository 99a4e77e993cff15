"""What would change the answer: the batch, the link and the number of ranks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from planning.job import Job
from planning.links import Link
from planning.machine import Machine
from planning.search import Candidate, Ranked, candidates, rank

LARGEST_BATCH = 2**16
RANKS = tuple(2**power for power in range(1, 11))
LINK_FACTORS = tuple(2.0**power for power in range(-10, 11))
CLOSE = 1.01
"""A change is found to within one part in a hundred."""


class Space(NamedTuple):
    """The candidates on ``ranks`` for a job on a machine; with ``compress`` also bf16 gradients."""

    job: Job
    machine: Machine
    ranks: int
    compress: bool = False

    def candidates(self) -> list[Candidate]:
        """All plans of the job's net."""
        net = self.job.net
        compress = self.compress and self.job.gradient_size > 2
        return candidates(self.ranks, net.towers, net.variant, compress=compress)

    def ranked(self) -> list[Ranked]:
        """The candidates in the order of their speed, those that fit first."""
        return rank(self.candidates(), self.job, self.machine)

    @property
    def best(self) -> Ranked:
        """The fastest candidate that fits, or the fastest of all where none does."""
        return self.ranked()[0]

    def with_batch(self, batch: int) -> "Space":
        """The same with another global batch."""
        return self._replace(job=replace(self.job, batch=batch))

    def with_ranks(self, ranks: int) -> "Space":
        """The same on another number of ranks."""
        return self._replace(ranks=ranks)

    def with_links(self, change: Callable[[Link], Link]) -> "Space":
        """The same with the slowest links changed: between the nodes, or within a single node."""
        return self._replace(machine=with_links(self.machine, self.ranks, change))


def slowest_links(machine: Machine, ranks: int) -> str:
    """The machine's field of links that decide on ``ranks``: between or within."""
    return "between" if ranks > machine.ranks_per_node and machine.between else "within"


def with_links(machine: Machine, ranks: int, change: Callable[[Link], Link]) -> Machine:
    """The machine with its slowest links changed."""
    name = slowest_links(machine, ranks)
    links = {collective: change(link) for collective, link in getattr(machine, name).items()}
    return machine.model_copy(update={name: links})


def scaled(factor: float) -> Callable[[Link], Link]:
    """A change that multiplies a link's rates."""

    def change(link: Link) -> Link:
        shared = link.shared * factor if link.shared else None
        return link.model_copy(update={"bandwidth": link.bandwidth * factor, "shared": shared})

    return change


class Change(NamedTuple):
    """The value from which on another placement is the best."""

    at: float
    before: str
    after: str


def changes(best: Callable[[float], str], values: Iterable[float]) -> Iterator[Change]:
    """Where ``best`` changes between neighbouring ``values``, which rise, found by halving."""
    named = [(value, best(value)) for value in values]
    for (low, before), (end, last) in pairwise(named):
        while before != last:
            high, after = end, last
            while high / low > CLOSE:
                middle = (low * high) ** 0.5
                if (name := best(middle)) == before:
                    low = middle
                else:
                    high, after = middle, name
            yield Change(high, before, after)
            low, before = high, after


def batch_changes(space: Space) -> list[Change]:
    """The global batches at which the best placement changes."""
    smallest = max(2, space.ranks)
    largest = max(LARGEST_BATCH, 16 * smallest)
    batches = [smallest * 2**power for power in range(20) if smallest * 2**power <= largest]
    return list(
        changes(lambda batch: _name(space.with_batch(round(batch))), [float(n) for n in batches])
    )


def link_changes(space: Space) -> list[Change]:
    """The factors of the slowest links' rates at which the best placement changes."""
    return list(changes(lambda factor: _name(space.with_links(scaled(factor))), LINK_FACTORS))


def _name(space: Space) -> str:
    return space.best.candidate.plan.placement


class Scale(NamedTuple):
    """The best on a number of ranks; ``efficiency`` is the speed-up over one rank, per rank."""

    ranks: int
    batch: int
    best: Ranked
    images_per_second: float
    efficiency: float


def scaling(space: Space, batch_of: Callable[[int], int]) -> list[Scale]:
    """The best on 1, 2, … ``RANKS``, with the global batch that ``batch_of`` gives for each.

    Numbers of ranks that exceed the batch, that fill no nodes, and on which nothing fits, are left
    out.
    """
    alone = space.with_ranks(1).with_batch(batch_of(1))
    one = alone.job.batch / alone.best.prediction.seconds
    rows = []
    for ranks in (1, *RANKS):
        here = space.with_ranks(ranks).with_batch(batch_of(ranks))
        if here.job.batch < ranks or not here.machine.connects(ranks):
            continue
        if not (best := here.best).fits:
            continue
        speed = here.job.batch / best.prediction.seconds
        rows.append(Scale(ranks, here.job.batch, best, speed, speed / one / ranks))
    return rows
