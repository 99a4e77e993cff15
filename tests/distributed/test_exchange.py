"""Every collective on real ranks: values, gradients, layout and bytes."""

import pytest
import torch
import torch.distributed as dist

from distributed.exchange import gather_channels, sum_partial
from distributed.ledger import Ledger

CPU = torch.device("cpu")


class _Own(torch.autograd.Function):
    """This rank's slice of a tensor that every rank holds; its gradient is made whole again."""

    @staticmethod
    def forward(ctx, x):
        return x[dist.get_rank()].clone()

    @staticmethod
    def backward(ctx, grad):
        parts = [torch.empty_like(grad.contiguous()) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, grad.contiguous())
        return torch.stack(parts)


class _Every(torch.autograd.Function):
    """Every rank's output, stacked; each rank's gradient is its own part."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x.contiguous()) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, grad):
        return grad[dist.get_rank()]


def _whole(shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(dist.get_world_size(), *shape, dtype=torch.float64, generator=generator)


def _gradcheck_gather(shape):
    whole = _whole(shape).requires_grad_()
    # Each rank does something else with what it gathered, as layers do.
    weight = 1.0 + dist.get_rank()

    def function(x):
        gathered = gather_channels(_Own.apply(x), dist.group.WORLD, Ledger(CPU))
        return _Every.apply((gathered * weight).sin())

    return torch.autograd.gradcheck(function, whole)


def _gradcheck_sum():
    whole = _whole((2, 3)).requires_grad_()
    return torch.autograd.gradcheck(
        lambda x: sum_partial(_Own.apply(x), dist.group.WORLD, Ledger(CPU)).sin(), whole
    )


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3, 2)])
@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_gather_has_the_gradient_of_a_sum_over_towers(request, ranks, shape):
    assert all(request.getfixturevalue(ranks).run(_gradcheck_gather, shape))


@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_sum_has_the_gradient_of_one_loss_not_of_many(request, ranks):
    assert all(request.getfixturevalue(ranks).run(_gradcheck_sum))


def _gathered():
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5) + 1000 * dist.get_rank()
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    ledger = Ledger(CPU)
    out = gather_channels(x, dist.group.WORLD, ledger)
    forward = ledger.bytes_sent
    out.sum().backward()
    is_last = out.is_contiguous(memory_format=torch.channels_last)
    return out.detach(), is_last, x.grad, forward, ledger.bytes_sent


def test_gather_keeps_channels_last_and_rank_order(two_ranks):
    for out, channels_last, *_ in two_ranks.run(_gathered):
        assert channels_last
        first = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
        assert torch.equal(out, torch.cat([first, first + 1000], 1))


def test_gather_counts_the_bytes_it_sends_each_way(four_ranks):
    for _, _, grad, forward, both in four_ranks.run(_gathered):
        assert torch.equal(grad, torch.full_like(grad, 4.0))
        assert forward == 3 * 2 * 3 * 4 * 5 * 4
        assert both == 2 * forward


def _empty():
    x = torch.empty(0, 3, 2, 2, requires_grad=True)
    out = gather_channels(x, dist.group.WORLD, Ledger(CPU))
    out.sum().backward()
    assert x.grad is not None
    return out.shape, x.grad.shape


def test_an_empty_share_can_be_gathered(two_ranks):
    assert two_ranks.run(_empty) == [((0, 6, 2, 2), (0, 3, 2, 2))] * 2
