"""The differentiable collectives where towers meet.

Each says what a rank holds before and after, and what becomes of the gradient. The bytes it books
are those a rank sends in a bandwidth-optimal algorithm, for n ranks and a tensor of S bytes:
all-gather (n - 1) S of the own part, reduce-scatter (n - 1)/n S of the whole, all-reduce twice the
latter.

``torch.distributed.nn.functional`` has such functions too; they are deprecated, and its gather's
gradient has been reported wrong.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.ledger import Ledger

# torch 2.14 renames both; the project's range starts before that.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@torch.compiler.disable
def gather_channels(x: Tensor, group: dist.ProcessGroup, ledger: Ledger) -> Tensor:
    """All ranks' channels, in rank order.

    Before: each rank its own (B, C, …). After: every rank (B, n·C, …), equal on all. The gradient
    is a reduce-scatter: each rank gets the sum over ranks of the gradients of its own channels.
    Channels travel last, so a channels-last map comes out channels-last.
    """
    return _Gather.apply(x, group, ledger)


@torch.compiler.disable
def sum_partial(x: Tensor, group: dist.ProcessGroup, ledger: Ledger) -> Tensor:
    """The sum of all ranks' tensors.

    Before: each rank its own part (B, N). After: every rank the sum (B, N), equal on all. The
    gradient passes through unchanged: each rank computes the same loss from the same sum, so
    every rank already holds the whole gradient and adding them would count the loss n times.
    """
    return _Sum.apply(x, group, ledger)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, ledger: Ledger) -> Tensor:
        ctx.group, ctx.ledger = group, ledger
        with ledger.part("exchange"):
            own = x.movedim(1, -1).contiguous()
            parts = own.new_empty(group.size(), *own.shape)
            ledger.bytes_sent += (group.size() - 1) * own.nbytes
            if own.numel():
                _all_gather(parts.flatten(0, 1), own, group=group)
            return parts.movedim(0, -2).flatten(-2).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        group, ledger = ctx.group, ctx.ledger
        with ledger.part("exchange"):
            by_rank = grad.movedim(1, -1).unflatten(-1, (group.size(), -1))
            parts = by_rank.movedim(-2, 0).contiguous()
            own = torch.empty_like(parts[0])
            ledger.bytes_sent += (group.size() - 1) * own.nbytes
            if own.numel():
                _reduce_scatter(own, parts.flatten(0, 1), group=group)
            return own.movedim(-1, 1), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, ledger: Ledger) -> Tensor:
        with ledger.part("exchange"):
            total = x.clone(memory_format=torch.contiguous_format)
            ledger.bytes_sent += 2 * (group.size() - 1) / group.size() * total.nbytes
            if total.numel():
                dist.all_reduce(total, group=group)
            return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None
