"""The differentiable collectives where towers meet, and the count of what they move.

Each says what a rank holds before and after, and what becomes of the gradient. Bytes are those a
rank sends in a bandwidth-optimal algorithm, for n ranks and a tensor of S bytes:
all-gather (n - 1) S of the own part, reduce-scatter (n - 1)/n S of the whole, all-reduce twice that.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx


# torch 2.14 renames both; the project's range starts before that.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass
class Ledger:
    """What the collectives of one process cost: bytes sent, and seconds the host waited."""

    bytes: int = 0
    seconds: float = 0.0

    @contextmanager
    def entry(self, sent: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.bytes += sent


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx, x: Tensor, group: dist.ProcessGroup, ledger: Ledger
    ) -> Tensor:
        ctx.group, ctx.ledger = group, ledger  # type: ignore[attr-defined]
        n, own = group.size(), x.movedim(1, -1).contiguous()
        parts = own.new_empty(n, *own.shape)
        with ledger.entry((n - 1) * _size(own)):
            if own.numel():
                _all_gather(parts.flatten(0, 1), own, group=group)
        return parts.movedim(0, -2).flatten(-2).movedim(-1, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        group: dist.ProcessGroup = ctx.group  # type: ignore[attr-defined]
        ledger: Ledger = ctx.ledger  # type: ignore[attr-defined]
        n = group.size()
        parts = grad.movedim(1, -1).unflatten(-1, (n, -1)).movedim(-2, 0).contiguous()
        own = torch.empty_like(parts[0])
        with ledger.entry((n - 1) * _size(own)):
            if own.numel():
                _reduce_scatter(own, parts.flatten(0, 1), group=group)
        return own.movedim(-1, 1), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx, x: Tensor, group: dist.ProcessGroup, ledger: Ledger
    ) -> Tensor:
        n, total = group.size(), x.clone(memory_format=torch.contiguous_format)
        with ledger.entry(2 * (n - 1) * _size(total) // n):
            if total.numel():
                dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad, None, None


def gather_channels(x: Tensor, group: dist.ProcessGroup, ledger: Ledger) -> Tensor:
    """All ranks' channels, in rank order.

    Before: each rank its own (B, C, …). After: every rank (B, n·C, …), equal on all. The gradient
    is a reduce-scatter: each rank gets the sum over ranks of the gradients of its own channels.
    Channels travel last, so a channels-last map comes out channels-last.
    """
    return _Gather.apply(x, group, ledger)


def sum_partial(x: Tensor, group: dist.ProcessGroup, ledger: Ledger) -> Tensor:
    """The sum of all ranks' tensors.

    Before: each rank its own part (B, N). After: every rank the sum (B, N), equal on all. The
    gradient passes through unchanged: each rank computes the same loss from the same sum, so
    every rank already holds the whole gradient and adding them would count the loss n times.
    """
    return _Sum.apply(x, group, ledger)
