"""The turns in which a hybrid's classifier works on the images.

Each rank computes the features of its own images once. The classifier then works through the images
of all replicas in one turn or in several: forward, loss and backward in each. When it has done the
last one, the features' backward pass follows.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distributed.collectives import send_home, send_to_all
from distributed.device import Started
from distributed.mesh import Mesh
from distributed.placement import MeshPlacement
from distributed.schemes import SCHEMES


class Turn(NamedTuple):
    """One turn of the classifier: ``rows`` are its images of each replica, ``own`` of this one.

    ``images`` counts these and those that other copies of the classifier work on in the same turn.
    """

    rows: list[slice]
    own: slice
    images: int
    is_last: bool

    @property
    def shares(self) -> list[int]:
        """The number of images of each replica."""
        return [each.stop - each.start for each in self.rows]

    def pick(self, images: Sequence[Tensor]) -> Tensor:
        """This turn's rows of a tensor (B, …) for each replica, one replica's after the other's."""
        return torch.cat([each[rows] for each, rows in zip(images, self.rows, strict=True)])


def plan_turns(scheme: str, shares: Sequence[int], mesh: Mesh) -> list[Turn]:
    """The turns of this rank's classifier; ``shares`` are the images of all replicas."""
    feeds = mesh.plan.feeds
    copies = [
        SCHEMES[scheme](shares[first : first + feeds]) for first in range(0, len(shares), feeds)
    ]
    own = copies[mesh.classifier.copies.index]
    return [
        Turn(
            own[number],
            own[number][mesh.feeders.index],
            sum(each.stop - each.start for rows in together for each in rows),
            number == len(own) - 1,
        )
        for number, together in enumerate(zip(*copies, strict=True))
    ]


Turns = Iterator[tuple[Turn, Tensor]]


def take_turns(x: Tensor, turns: list[Turn], placement: MeshPlacement) -> Turns:
    """Each turn with its features (sum of shares, inputs of fc6), from the own ``x`` (B, units).

    The caller runs each turn's backward before it asks for the next.
    """
    overlaps = placement.overlap and len(turns) > 1
    return (overlapped_turns if overlaps else plain_turns)(x, turns, placement)


def plain_turns(x: Tensor, turns: list[Turn], placement: MeshPlacement) -> Turns:
    """One turn after the other.

    The gradients of earlier turns wait in a copy of ``x`` until the last turn's backward goes on
    through ``x`` itself.
    """
    waiting = x.detach().requires_grad_()
    if len(turns) > 1:
        x.register_hook(lambda gradient: gradient + waiting.grad)
    for turn in turns:
        source = x if turn.is_last else waiting
        yield turn, placement.to_classifier(source[turn.own], turn.shares)


def overlapped_turns(x: Tensor, turns: list[Turn], placement: MeshPlacement) -> Turns:
    """Equal ``plain_turns``, with the traffic hidden behind the classifier's work.

    The next turn's features travel while this one is worked on, and so do the gradients of the turn
    before, which are waited for when the last turn's backward goes on through ``x``.
    """
    pipeline = _Pipeline(x.detach(), turns, placement)
    pipeline.send(0)
    for number, turn in enumerate(turns):
        if not turn.is_last:
            pipeline.send(number + 1)
        source = x if turn.is_last else x.detach().requires_grad_()
        yield turn, placement.join(_Arrive.apply(source, pipeline, number), turn.shares)


class _Pipeline:
    """Features ``x`` under way to the classifier, and their gradients under way back."""

    def __init__(self, x: Tensor, turns: list[Turn], placement: MeshPlacement) -> None:
        self.x, self.turns = x, turns
        self.ranks = placement.mesh.classifier.slices.at("fc6")
        self.counts = [placement.rows(turn.shares) for turn in turns]
        self.arriving: dict[int, Started] = {}
        self.returning: list[Started] = []

    def send(self, number: int) -> None:
        """Start to send the own images of a turn to all ranks."""
        with self.ranks.timer.part("activation_communication"):
            own = self.x[self.turns[number].own]
            self.arriving[number] = send_to_all(own, self.counts[number], self.ranks)


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pipeline: _Pipeline, number: int) -> Tensor:
        ctx.pipeline, ctx.number = pipeline, number
        with pipeline.ranks.timer.part("activation_communication"):
            return pipeline.arriving.pop(number).wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        pipeline, number = ctx.pipeline, ctx.number
        with pipeline.ranks.timer.part("activation_communication"):
            pipeline.returning.append(send_home(grad, pipeline.counts[number], pipeline.ranks))
            if not pipeline.turns[number].is_last:
                return None, None, None
            gradient = torch.empty_like(pipeline.x)
            for turn, returned in zip(pipeline.turns, pipeline.returning, strict=True):
                gradient[turn.own] = returned.wait()
            return gradient, None, None
