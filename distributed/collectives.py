"""The differentiable collectives of a net that lives on several ranks.

Each docstring says what a rank holds before and after, and where the gradient comes from. ``n`` is
the number of ranks in the group. Bytes are counted as a rank sends them in a bandwidth-optimal
algorithm: all-gather and all-to-all send the own part to n - 1 ranks, an all-reduce of S bytes
sends 2 (n - 1)/n S. Time is booked as ``activation_communication`` while a rank waits.

These are the plain forms: a rank waits for what it needs. Tested equal to them, and with their
traffic hidden behind work, are ``gather_and_apply`` (distributed/overlap.py) for channels and
``overlapped_turns`` (distributed/turns.py) for images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from distributed.device import Started, start_gather, start_sum
from distributed.timer import StepTimer

# torch 2.14 renames it; older releases have the second name only.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


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

    @property
    def others(self) -> list[int]:
        """Every rank of the group but this one."""
        return [rank for rank in range(self.size) if rank != self.index]

    def count(self, sent: float) -> None:
        """Count bytes that this rank sends."""
        self.timer.sent[self.boundary] += sent  # type: ignore[assignment]

    # Every message of a net passes through one of these.

    def start(self, collective: Any, to: Tensor, what: Tensor) -> Started:
        """Start ``collective`` of the ranks' ``what``; it fills ``to``, an equal part from each."""
        self.count(len(self.others) * to.nbytes // self.size)
        work = collective(to, what, group=self.group, async_op=True) if what.numel() else None
        return Started(to[None], work)

    def swap(self, to: Tensor, what: Tensor, counts: list[int]) -> None:
        """Send rank r ``counts[r]`` rows of ``what``, and fill ``to`` with as many from it."""
        if what.numel():
            dist.all_to_all_single(to, what, counts, counts, group=self.group)

    def add_up(self, x: Tensor) -> None:
        """Sum ``x`` over the ranks, in place."""
        if x.numel():
            dist.all_reduce(x, group=self.group)

    def start_gather(self, own: Tensor, counts: Sequence[int]) -> Started:
        """Start to bring together the rows of all ranks, of which rank r has ``counts[r]``."""
        return start_gather(own, counts, self.group)

    def start_sum(self, parts: Tensor, counts: Sequence[int]) -> Started:
        """Start to send rank r its ``counts[r]`` rows of ``parts``, to be summed there."""
        return start_sum(parts, counts, self.group)


# --- Channels -------------------------------------------------------------------------------------


@torch.compiler.disable
def gather(x: Tensor, ranks: Ranks) -> Tensor:
    """Bring together the channels of all ranks.

    Before: each rank its own channels (B, C, …). After: every rank all of them (B, n·C, …), in rank
    order. Gradient: of the own channels, the sum over ranks of what each computed for them.
    """
    return _Gather.apply(x.to(compute_dtype(x)), ranks)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        with ranks.timer.part("activation_communication"):
            own = x.movedim(1, -1).contiguous()  # (B, …, C)
            parts = own.new_empty(ranks.size, *own.shape)  # (n, B, …, C)
            ranks.start(all_gather_single, parts.flatten(0, 1), own).wait()
            return parts.movedim(0, -2).flatten(-2).movedim(-1, 1)  # (B, n·C, …)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with ctx.ranks.timer.part("activation_communication"):
            by_rank = grad.movedim(1, -1).unflatten(-1, (ctx.ranks.size, -1))
            to_send = by_rank.movedim(-2, 0).contiguous()  # (n, B, …, C)
            received = torch.empty_like(to_send)
            ctx.ranks.start(dist.all_to_all_single, received, to_send).wait()
            return received.sum(0).movedim(-1, 1), None  # (B, C, …)


@torch.compiler.disable
def all_reduce(x: Tensor, ranks: Ranks) -> Tensor:
    """Add up the tensors of all ranks.

    Before: each rank its own part (B, N). After: every rank the sum (B, N). Gradient: passes
    unchanged. Each rank computes the same loss from the same sum, so every rank already holds the
    whole gradient; adding them would count the loss n times.
    """
    return _AllReduce.apply(x, ranks)


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        with ranks.timer.part("activation_communication"):
            total = x.clone(memory_format=torch.contiguous_format)
            ranks.count(2 * (ranks.size - 1) / ranks.size * total.nbytes)
            ranks.add_up(total)
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
    return _ExchangeBorders.apply(x.to(compute_dtype(x)), width, ranks)


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


def border_widths(width: int, ranks: Ranks) -> tuple[int, int]:
    """The channels that ``exchange_borders`` puts on the left and on the right."""
    return width * (ranks.index > 0), width * (ranks.index < ranks.size - 1)


def _swap(to_left: Tensor, to_right: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """(from the left neighbour, from the right one): as many channels (W, …) as are sent there.

    Empty where there is no neighbour.
    """
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
        ranks.swap(received, to_send, sizes)
    return received[: len(to_left)], received[len(to_left) :]


# --- Images ---------------------------------------------------------------------------------------


@torch.compiler.disable
def gather_images(x: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
    """Bring together the images of all ranks, of which rank r has ``counts[r]``.

    Before: each rank its own rows (B, N). After: every rank all rows (sum of counts, N), in rank
    order. Gradient: of the own rows, the sum over ranks of what each computed for them.
    """
    return _GatherImages.apply(x.to(compute_dtype(x)), counts, ranks)


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


@torch.compiler.disable
def sum_to_owners(x: Tensor, shares: Sequence[int], ranks: Ranks, owners: Ranks) -> Tensor:
    """Add up the ranks' parts of each image's row, and send the sum to those who own the image.

    Replica r has ``shares[r]`` images, which all of its shards own: ``n / len(shares)`` neighbours.
    Before: each rank its part of the rows of all images (sum of shares, N). After: each rank the
    sums of the own ones (B, N). Gradient: of all rows, each from one of its owners, since the
    losses that they compute are one and the same. ``owners`` are a rank of each replica.
    """
    return _SumToOwners.apply(x, shares, ranks, owners)


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
    return ranks.start_gather(own.contiguous(), counts)


def send_home(parts: Tensor, counts: Sequence[int], ranks: Ranks) -> Started:
    """Start to send each rank its ``counts[r]`` rows; the result is the sum of the own ones."""
    own = counts[ranks.index] * parts[:1].nbytes if len(parts) else 0
    ranks.count(parts.nbytes - own)
    return ranks.start_sum(parts.contiguous(), counts)


# --- What all of them do --------------------------------------------------------------------------


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision in which the next layer computes, and so what travels: autocast's, or x's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
