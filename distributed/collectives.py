"""The differentiable collectives of a net that lives on several ranks.

Each docstring says what a rank holds before and after, and where the gradient comes from. ``n`` is
the number of ranks in the group. Bytes are counted as a rank sends them in a bandwidth-optimal
algorithm: all-gather and all-to-all send the own part to n - 1 ranks, an all-reduce of S bytes
sends 2 (n - 1)/n S. Time is booked as ``activation_communication`` while a rank waits.

A gather comes in two forms, tested equal: ``gather`` is the plain one, ``gather_and_apply`` hides
the traffic behind the work of the layer that reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distributed.device import Started, start_gather, start_sum
from distributed.timer import StepTimer

# torch 2.14 renames it; older releases have the second name only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True)
class Ranks:
    """Ranks that communicate, this rank's timer, and the boundary to which it counts bytes."""

    group: dist.ProcessGroup
    timer: StepTimer
    boundary: str = ""

    def at(self, boundary: str) -> "Ranks":
        """The same ranks at another boundary."""
        return replace(self, boundary=boundary)

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.group.size()

    @property
    def index(self) -> int:
        """This rank's place among them."""
        return self.group.rank()

    def count(self, sent: float) -> None:
        """Count bytes that this rank sends."""
        self.timer.sent[self.boundary] += sent  # type: ignore[assignment]

    @property
    def others(self) -> list[int]:
        """Every rank of the group but this one."""
        return [rank for rank in range(self.size) if rank != self.index]


# --- Plain ----------------------------------------------------------------------------------------


@torch.compiler.disable
def gather(x: Tensor, ranks: Ranks) -> Tensor:
    """Bring together the channels of all ranks.

    Before: each rank its own channels (B, C, …). After: every rank all of them (B, n·C, …), in rank
    order. Gradient: of the own channels, the sum over ranks of what each computed for them.
    """
    return _Gather.apply(x.to(_compute_dtype(x)), ranks)


@torch.compiler.disable
def all_reduce(x: Tensor, ranks: Ranks) -> Tensor:
    """Add up the tensors of all ranks.

    Before: each rank its own part (B, N). After: every rank the sum (B, N). Gradient: passes
    unchanged. Each rank computes the same loss from the same sum, so every rank already holds the
    whole gradient; adding them would count the loss n times.
    """
    return _AllReduce.apply(x, ranks)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        with ranks.timer.part("activation_communication"):
            own = x.movedim(1, -1).contiguous()  # (B, …, C)
            parts = own.new_empty(ranks.size, *own.shape)  # (n, B, …, C)
            _wait(_send(_all_gather, parts.flatten(0, 1), own, ranks, own.nbytes))
            return parts.movedim(0, -2).flatten(-2).movedim(-1, 1)  # (B, n·C, …)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with ctx.ranks.timer.part("activation_communication"):
            by_rank = grad.movedim(1, -1).unflatten(-1, (ctx.ranks.size, -1))
            to_send = by_rank.movedim(-2, 0).contiguous()  # (n, B, …, C)
            received = torch.empty_like(to_send)
            _wait(_send(dist.all_to_all_single, received, to_send, ctx.ranks, to_send[0].nbytes))
            return received.sum(0).movedim(-1, 1), None  # (B, C, …)


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        with ranks.timer.part("activation_communication"):
            total = x.clone(memory_format=torch.contiguous_format)
            ranks.count(2 * (ranks.size - 1) / ranks.size * total.nbytes)
            if total.numel():
                dist.all_reduce(total, group=ranks.group)
            return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@torch.compiler.disable
def exchange_borders(x: Tensor, width: int, ranks: Ranks) -> Tensor:
    """Put the nearest channels of the neighbouring ranks on either side of the own ones.

    Before: each rank its own channels (B, C, H, W). After: (B, left + C + right, H, W); left is
    ``width``, and 0 on the first rank, right is ``width``, and 0 on the last. Gradient: of the own
    channels, with what the neighbours computed for those that they borrowed.
    """
    return _ExchangeBorders.apply(x.to(_compute_dtype(x)), width, ranks)


def border_widths(width: int, ranks: Ranks) -> tuple[int, int]:
    """The channels that ``exchange_borders`` puts on the left and on the right."""
    return width * (ranks.index > 0), width * (ranks.index < ranks.size - 1)


@torch.compiler.disable
def gather_images(x: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
    """Bring together the images of all ranks, of which rank r has ``counts[r]``.

    Before: each rank its own rows (B, N). After: every rank all rows (sum of counts, N), in rank
    order. Gradient: of the own rows, the sum over ranks of what each computed for them.
    """
    return _GatherImages.apply(x.to(_compute_dtype(x)), counts, ranks)


@torch.compiler.disable
def sum_to_owners(x: Tensor, shares: Sequence[int], ranks: Ranks, owners: Ranks) -> Tensor:
    """Add up the ranks' parts of each image's row, and send the sum to those who own the image.

    Replica r has ``shares[r]`` images, and equally many neighbouring ranks own them together.
    Before: each rank its part of the rows of all images (sum of shares, N). After: each rank the
    sums of the own ones (B, N). Gradient: of all rows, each from one of its owners, since the
    losses that they compute are one and the same. ``owners`` are a rank of each replica.
    """
    return _SumToOwners.apply(x, shares, ranks, owners)


class _ExchangeBorders(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.width = ranks, width
        channels = x.movedim(1, 0)  # (C, B, H, W)
        left, right = _swap(channels[:width], channels[-width:], ranks)
        return (
            torch.cat([left, channels, right])
            .movedim(0, 1)
            .contiguous(memory_format=torch.channels_last)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        channels, width = grad.movedim(1, 0), ctx.width
        left, right = border_widths(width, ctx.ranks)
        own = channels[left : len(channels) - right].clone()
        first, last = _swap(channels[:left], channels[len(channels) - right :], ctx.ranks)
        own[: len(first)] += first
        own[len(own) - len(last) :] += last
        return own.movedim(0, 1), None, None


def _swap(to_left: Tensor, to_right: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """(from the left neighbour, from the right one): as many channels (W, …) as are sent there."""
    left, right = ranks.index > 0, ranks.index < ranks.size - 1
    to_left, to_right = to_left[: len(to_left) * left], to_right[: len(to_right) * right]
    sizes = [0] * ranks.size
    if left:
        sizes[ranks.index - 1] = len(to_left)
    if right:
        sizes[ranks.index + 1] = len(to_right)
    with ranks.timer.part("activation_communication"):
        to_send = torch.cat([to_left, to_right])
        received = torch.empty_like(to_send)
        ranks.count(to_send.nbytes)
        if to_send.numel():
            dist.all_to_all_single(received, to_send, sizes, sizes, group=ranks.group)
    return received[: len(to_left)], received[len(to_left) :]


class _GatherImages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        with ranks.timer.part("activation_communication"):
            return send_to_all(x, counts, ranks).wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with ctx.ranks.timer.part("activation_communication"):
            return send_home(grad, ctx.counts, ctx.ranks).wait(), None, None


class _SumToOwners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Sequence[int], ranks: Ranks, owners: Ranks) -> Tensor:
        ctx.shares, ctx.owners = shares, owners
        each = ranks.size // len(shares)
        rows = torch.cat([part for part in x.split(list(shares)) for _ in range(each)])
        with ranks.timer.part("activation_communication"):
            return send_home(rows, [share for share in shares for _ in range(each)], ranks).wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with ctx.owners.timer.part("activation_communication"):
            return send_to_all(grad, ctx.shares, ctx.owners).wait(), None, None, None


def send_to_all(own: Tensor, counts: Sequence[int], ranks: Ranks) -> Started:
    """Start to send own rows (B, N) to every rank; its result is those of all ranks."""
    ranks.count(len(ranks.others) * own.nbytes)
    return start_gather(own.contiguous(), counts, ranks.group)


def send_home(parts: Tensor, counts: Sequence[int], ranks: Ranks) -> Started:
    """Start to send each rank its ``counts[r]`` rows; the result is the sum of the own ones."""
    own = counts[ranks.index] * parts[:1].nbytes if len(parts) else 0
    ranks.count(parts.nbytes - own)
    return start_sum(parts.contiguous(), counts, ranks.group)


# --- Overlapped -----------------------------------------------------------------------------------


@torch.compiler.disable
def gather_and_apply(layer: nn.Conv2d | nn.Linear, x: Tensor, ranks: Ranks) -> Tensor:
    """Equal ``layer(gather(x, ranks))``, with the traffic hidden behind the layer's work.

    A layer is linear in its inputs, so its output is a sum over the ranks' channels. Forward: the
    others' channels travel while the layer works on the own ones. Backward: the gradients of the
    others' channels are computed first, and travel while those of the own channels and of the
    weight are computed.
    """
    dtype = _compute_dtype(x)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    operation = _Convolution(layer) if isinstance(layer, nn.Conv2d) else _Product()
    return _GatherAndApply.apply(x.to(dtype), layer.weight.to(dtype), bias, operation, ranks)


class _Product:
    """A linear layer's operation on some of its inputs, and its gradients."""

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad @ weight

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad.T @ x


class _Convolution:
    """A convolution's, without groups or dilation."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.stride, self.padding = layer.stride, layer.padding

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._gradient(grad, x, weight, 0)

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._gradient(grad, x, weight, 1)

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
        wanted = [which == place for place in range(3)]
        gradients = torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, (1, 1), False, (0, 0), 1, wanted
        )
        return gradients[which]


class _GatherAndApply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operation: _Product | _Convolution,
        ranks: Ranks,
    ) -> Tensor:
        timer = ranks.timer
        with timer.part("activation_communication"):
            own = x.movedim(1, -1).contiguous()  # (B, …, C)
            received = own.new_empty(ranks.size, *own.shape)  # (n, B, …, C)
            work = _send(_all_gather, received.flatten(0, 1), own, ranks, own.nbytes)
        weights = weight.chunk(ranks.size, 1)  # n of (outputs, C, …)
        out = operation.apply(x, weights[ranks.index], bias)
        with timer.part("activation_communication"):
            _wait(work)
        parts = received.movedim(-1, 2)  # (n, B, C, …)
        for rank in ranks.others:
            out += operation.apply(parts[rank], weights[rank], None)
        ctx.save_for_backward(parts, weight)
        ctx.operation, ctx.ranks, ctx.has_bias = operation, ranks, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts, weight = ctx.saved_tensors  # (n, B, C, …), (outputs, n·C, …)
        operation, ranks, timer = ctx.operation, ctx.ranks, ctx.ranks.timer
        weights = weight.chunk(ranks.size, 1)

        def gradient_of(rank: int) -> Tensor:
            return operation.input_gradient(grad, parts[rank], weights[rank])  # (B, C, …)

        to_send = torch.zeros_like(parts.movedim(2, -1))  # (n, B, …, C)
        for rank in ranks.others:
            to_send[rank] = gradient_of(rank).movedim(1, -1)
        with timer.part("activation_communication"):
            received = torch.empty_like(to_send)
            work = _send(dist.all_to_all_single, received, to_send, ranks, to_send[0].nbytes)
        grad_x = gradient_of(ranks.index)
        whole = torch.cat(parts.unbind(), 1)  # (B, n·C, …)
        grad_weight = operation.weight_gradient(grad, whole, weight)
        grad_bias = grad.sum((0, *range(2, grad.dim()))) if ctx.has_bias else None
        with timer.part("activation_communication"):
            _wait(work)
        grad_x += received.sum(0).movedim(-1, 1)
        return grad_x, grad_weight, grad_bias, None, None


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The precision in which the next layer computes, and so what travels: autocast's, or x's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _send(collective: Any, to: Tensor, what: Tensor, ranks: Ranks, size: int) -> Any:
    """Start a collective that sends each other rank ``size`` bytes; None if there are none."""
    ranks.count(len(ranks.others) * size)
    return collective(to, what, group=ranks.group, async_op=True) if what.numel() else None


def _wait(work: Any) -> None:
    if work is not None:
        work.wait()
