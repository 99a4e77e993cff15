"""Every collective on real ranks: values, gradients, layout and bytes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distributed.collectives import Ranks, all_reduce, gather, gather_and_apply
from distributed.timer import StepTimer

CPU = torch.device("cpu")


def _ranks():
    return Ranks(dist.group.WORLD, StepTimer(CPU))  # type: ignore[arg-type]


def _gather_then_apply(layer, x, ranks):
    """The plain form."""
    return layer(gather(x, ranks))


FORMS = {"plain": _gather_then_apply, "overlapped": gather_and_apply}
forms = pytest.mark.parametrize("form", FORMS)


def _whole(*shape):
    """A tensor that is equal on every rank."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _layers(kind):
    """Every rank's layer, and its full-width form, whose outputs are all ranks' in rank order."""
    n = dist.get_world_size()
    torch.manual_seed(0)
    full = nn.Conv2d(3 * n, 2 * n, 3, padding=1) if kind == "conv" else nn.Linear(3 * n, 2 * n)
    full = full.double().to(memory_format=torch.channels_last)
    rank = dist.get_rank()
    own = nn.Conv2d(3 * n, 2, 3, padding=1) if kind == "conv" else nn.Linear(3 * n, 2)
    own.load_state_dict({k: v.chunk(n)[rank] for k, v in full.state_dict().items()})
    return full, own.double().to(memory_format=torch.channels_last)


def _input(kind):
    n = dist.get_world_size()
    whole = _whole(2, 3 * n, 4, 5) if kind == "conv" else _whole(2, 3 * n)
    part = whole.chunk(n, 1)[dist.get_rank()].clone()
    if kind == "conv":
        part = part.contiguous(memory_format=torch.channels_last)
    return whole.requires_grad_(), part.requires_grad_()


def _gathering_against_the_full_layer(kind, form):
    """The largest differences of outputs and of the gradients of inputs, weight and bias."""
    n, rank = dist.get_world_size(), dist.get_rank()
    full, own = _layers(kind)
    whole, part = _input(kind)
    expected = full(whole)
    expected.sin().sum().backward()
    found = FORMS[form](own, part, _ranks())
    found.sin().sum().backward()
    pairs = [
        (found, expected.chunk(n, 1)[rank]),
        (part.grad, whole.grad.chunk(n, 1)[rank]),
        (own.weight.grad, full.weight.grad.chunk(n)[rank]),
        (own.bias.grad, full.bias.grad.chunk(n)[rank]),
    ]
    return [float((a - b).detach().abs().max()) for a, b in pairs]


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
@forms
def test_gathering_computes_the_full_layer(request, ranks, kind, form):
    pool = request.getfixturevalue(ranks)
    for differences in pool.run(_gathering_against_the_full_layer, kind, form):
        assert max(differences) < 1e-12


def _strided(form):
    """Output and input gradient of a convolution with stride 2."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, 5, 2, 2).double()
    _, part = _input("conv")
    out = FORMS[form](layer, part, _ranks())
    (out.sin() * (1 + dist.get_rank())).sum().backward()
    return out.detach(), part.grad, layer.weight.grad


def test_both_forms_of_a_gather_are_equal_before_a_strided_convolution(two_ranks):
    for plain, overlapped in zip(*(two_ranks.run(_strided, form) for form in FORMS), strict=True):
        for a, b in zip(plain, overlapped, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def _mixed_precision(kind, form):
    _, own = _layers(kind)
    _, part = _input(kind)
    own, part = own.float(), part.detach().float().requires_grad_()
    ranks = _ranks()
    with torch.autocast("cpu", torch.bfloat16):
        out = FORMS[form](own, part, ranks)
    out.float().sum().backward()
    sent = ranks.timer.bytes_sent / part.numel()
    return out.dtype, part.grad.dtype, own.weight.grad.dtype, sent


@pytest.mark.parametrize("kind", ["conv", "linear"])
@forms
def test_under_autocast_its_precision_travels(two_ranks, kind, form):
    for out, grad, weight_grad, bytes_each in two_ranks.run(_mixed_precision, kind, form):
        assert (out, grad, weight_grad) == (torch.bfloat16, torch.float32, torch.float32)
        assert bytes_each == 2 * torch.bfloat16.itemsize


def _booked(form):
    _, own = _layers("conv")
    _, part = _input("conv")
    ranks = _ranks()
    out = FORMS[form](own, part, ranks)
    forward = ranks.timer.bytes_sent
    out.sum().backward()
    last = [t.is_contiguous(memory_format=torch.channels_last) for t in (out, part.grad)]
    return part.nbytes, forward, ranks.timer.bytes_sent, last


@forms
def test_a_gather_counts_the_bytes_it_sends_each_way_and_keeps_the_layout(four_ranks, form):
    for own, forward, both, last in four_ranks.run(_booked, form):
        assert forward == 3 * own
        assert both == 2 * forward
        assert last == [True, True]


def _empty(form):
    _, own = _layers("conv")
    x = torch.empty(0, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    out = FORMS[form](own, x, _ranks())
    out.sum().backward()
    assert x.grad is not None
    return out.shape, x.grad.shape


@forms
def test_a_replica_without_images_gathers_too(two_ranks, form):
    assert two_ranks.run(_empty, form) == [((0, 2, 2, 2), (0, 3, 2, 2))] * 2


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


def _gradcheck_sum():
    whole = _whole(dist.get_world_size(), 2, 3).requires_grad_()
    return torch.autograd.gradcheck(lambda x: all_reduce(_Own.apply(x), _ranks()).sin(), whole)


@pytest.mark.parametrize("ranks", ["two_ranks", "four_ranks"])
def test_sum_has_the_gradient_of_one_loss_not_of_many(request, ranks):
    assert all(request.getfixturevalue(ranks).run(_gradcheck_sum))
