"""The differentiable collectives where towers meet.

Each says what a rank holds before and after, and what becomes of the gradient. The bytes it books
are those a rank sends in a bandwidth-optimal algorithm, for n ranks and a tensor of S bytes:
all-gather and all-to-all (n - 1) S of the own part, all-reduce 2 (n - 1)/n S. The time it books as
``exchange`` is that spent waiting: what computation does not hide.

``torch.distributed.nn.functional`` has such functions too; they are deprecated, and its gather's
gradient has been reported wrong.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distributed.timer import StepTimer

# torch 2.14 renames it; the project's range starts before that.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _Ranks(NamedTuple):
    """Those that meet, and the timer of what that costs this one."""

    group: dist.ProcessGroup
    timer: StepTimer

    @property
    def others(self) -> list[int]:
        """Every rank of the group but this one."""
        return [rank for rank in range(self.group.size()) if rank != self.group.rank()]


@torch.compiler.disable
def meet(
    layer: nn.Conv2d | nn.Linear, x: Tensor, group: dist.ProcessGroup, timer: StepTimer
) -> Tensor:
    """What ``layer`` makes of all ranks' channels.

    Before: each rank its own channels (B, C, …), and a layer that reads (B, n·C, …), all ranks' in
    rank order. After: each rank its own layer's output. The gradient of a rank's channels is the
    sum over ranks of what their layers give back.

    The parts travel while the layer works on the own one. In backward what the others' parts get
    is computed first, and travels while the own part and the weight get theirs.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    operation = _Convolution(layer.padding) if isinstance(layer, nn.Conv2d) else _Product()
    ranks = _Ranks(group, timer)
    return _Meeting.apply(x.to(dtype), layer.weight.to(dtype), bias, operation, ranks)


@torch.compiler.disable
def sum_partial(x: Tensor, group: dist.ProcessGroup, timer: StepTimer) -> Tensor:
    """The sum of all ranks' tensors.

    Before: each rank its own part (B, N). After: every rank the sum (B, N), equal on all. The
    gradient passes through unchanged: each rank computes the same loss from the same sum, so
    every rank already holds the whole gradient and adding them would count the loss n times.
    """
    return _Sum.apply(x, group, timer)


class _Product:
    """A linear layer's operation on a part of its inputs, and its gradients."""

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad @ weight

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad.T @ x


class _Convolution(NamedTuple):
    """A convolution's, with stride 1."""

    padding: Any

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=self.padding)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._gradient(grad, x, weight, 0)

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._gradient(grad, x, weight, 1)

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
        wanted = [which == place for place in range(3)]
        gradients = torch.ops.aten.convolution_backward(
            grad, x, weight, None, (1, 1), self.padding, (1, 1), False, (0, 0), 1, wanted
        )
        return gradients[which]


class _Meeting(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operation: _Product | _Convolution,
        ranks: _Ranks,
    ) -> Tensor:
        group, timer = ranks
        with timer.part("exchange"):
            own = x.movedim(1, -1).contiguous()
            received = own.new_empty(group.size(), *own.shape)
            work = _send(_all_gather, received.flatten(0, 1), own, ranks, own.nbytes)
        weights = weight.chunk(group.size(), 1)
        out = operation.apply(x, weights[group.rank()], bias)
        with timer.part("exchange"):
            _wait(work)
        parts = received.movedim(-1, 2)
        for rank in ranks.others:
            out += operation.apply(parts[rank], weights[rank], None)
        ctx.save_for_backward(parts, weight)
        ctx.operation, ctx.ranks, ctx.has_bias = operation, ranks, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts, weight = ctx.saved_tensors
        operation, (group, timer) = ctx.operation, ctx.ranks
        weights = weight.chunk(group.size(), 1)

        def gradient_of(rank: int) -> Tensor:
            return operation.input_gradient(grad, parts[rank], weights[rank])

        to_send = torch.zeros_like(parts.movedim(2, -1))
        for rank in ctx.ranks.others:
            to_send[rank] = gradient_of(rank).movedim(1, -1)
        with timer.part("exchange"):
            received = torch.empty_like(to_send)
            work = _send(dist.all_to_all_single, received, to_send, ctx.ranks, to_send[0].nbytes)
        grad_x = gradient_of(group.rank())
        whole = torch.cat(parts.unbind(), 1)
        grad_weight = operation.weight_gradient(grad, whole, weight)
        grad_bias = grad.sum((0, *range(2, grad.dim()))) if ctx.has_bias else None
        with timer.part("exchange"):
            _wait(work)
        grad_x += received.sum(0).movedim(-1, 1)
        return grad_x, grad_weight, grad_bias, None, None


def _send(collective: Any, to: Tensor, what: Tensor, ranks: _Ranks, size: int) -> Any:
    """Start a collective in which each other rank is sent ``size`` bytes."""
    ranks.timer.bytes_sent += len(ranks.others) * size
    return collective(to, what, group=ranks.group, async_op=True) if what.numel() else None


def _wait(work: Any) -> None:
    if work is not None:
        work.wait()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, timer: StepTimer) -> Tensor:
        with timer.part("exchange"):
            total = x.clone(memory_format=torch.contiguous_format)
            timer.bytes_sent += 2 * (group.size() - 1) / group.size() * total.nbytes
            if total.numel():
                dist.all_reduce(total, group=group)
            return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None
