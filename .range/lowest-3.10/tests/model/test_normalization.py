"""Local response normalisation against PyTorch's and against the printed formula."""

import pytest
import torch
from torch import nn

from model.normalization import LocalResponseNorm

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def reference():
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)


def outputs(norm, x, grad):
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(grad)
    return y.detach(), x.grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 24, 7, 7), (3, 96, 13, 11), (1, 4, 1, 1), (2, 130, 5, 40)])
def test_equals_pytorch_forward_and_backward(shape, layout):
    x = (100 * torch.randn(shape)).to(memory_format=layout)
    grad = torch.randn(shape)
    norm, peer = LocalResponseNorm(), reference()
    for ours, theirs in zip(outputs(norm, x, grad), outputs(peer, x, grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_stays(layout):
    x = torch.randn(2, 6, 5, 5).to(memory_format=layout)
    for result in outputs(LocalResponseNorm(), x, torch.randn(2, 6, 5, 5)):
        assert result.is_contiguous(memory_format=layout)


def test_a_view_and_an_empty_batch():
    x = 100 * torch.randn(4, 24, 9, 9)
    torch.testing.assert_close(LocalResponseNorm()(x[::2, 4:20]), reference()(x[::2, 4:20]))
    assert LocalResponseNorm()(x[:0]).shape == (0, 24, 9, 9)


def test_gradcheck():
    x = 50 * torch.randn(2, 6, 2, 2, dtype=torch.float64)
    norm = LocalResponseNorm(towers=2, alpha=1e-2)
    assert torch.autograd.gradcheck(norm, x.requires_grad_())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_border_channel_never_sees_the_other_tower(layout):
    x = (100 * torch.randn(1, 96, 3, 3)).to(memory_format=layout)
    apart = torch.cat([reference()(half) for half in x.chunk(2, 1)], 1)
    torch.testing.assert_close(LocalResponseNorm(towers=2)(x), apart)
    over_all = reference()(x)
    differs = (over_all - apart).abs().amax((0, 2, 3)) > 1e-3
    assert differs.nonzero().flatten().tolist() == [46, 47, 48, 49]


def test_alpha_is_divided_by_the_window():
    x = torch.full((1, 5, 1, 1), 100.0)
    middle = LocalResponseNorm(alpha=1e-4)(x)[0, 2].item()
    assert middle == pytest.approx(100 * (2 + 1e-4 / 5 * 5 * 100**2) ** -0.75, rel=1e-5)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e4, 1e15])
def test_small_and_large_numbers(size):
    x = size * torch.randn(2, 24, 5, 5)
    torch.testing.assert_close(
        LocalResponseNorm()(x), reference()(x.double()).float(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_stays_within_its_rounding(layout, dtype):
    x = (100 * torch.randn(2, 24, 5, 5)).to(dtype, memory_format=layout)
    grad = torch.randn(2, 24, 5, 5).to(dtype)
    exact = outputs(reference(), x.double(), grad.double())
    for ours, theirs in zip(outputs(LocalResponseNorm(), x, grad), exact, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error < 5 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_nan(dtype):
    x = torch.ones(1, 24, 4, 4, dtype=dtype)
    x[0, 10, 1, 2] = float("nan")
    y = LocalResponseNorm()(x)
    assert y[0, 8:13, 1, 2].isnan().all()
