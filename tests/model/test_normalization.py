"""Local response normalisation against PyTorch's and against the printed formula."""

import pytest
import torch
from torch import nn

from model.normalization import LocalResponseNorm


def reference():
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_pytorch_forward_and_backward(layout):
    x = (100 * torch.randn(2, 24, 7, 7)).to(memory_format=layout)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    grad = torch.randn_like(x)
    torch.testing.assert_close(LocalResponseNorm()(ours), reference()(theirs))
    LocalResponseNorm()(ours).backward(grad)
    reference()(theirs).backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_gradcheck():
    x = 50 * torch.randn(2, 6, 2, 2, dtype=torch.float64)
    norm = LocalResponseNorm(towers=2, size=3, alpha=1e-2)
    assert torch.autograd.gradcheck(norm, x.requires_grad_())


def test_a_border_channel_never_sees_the_other_tower():
    x = 100 * torch.randn(1, 96, 3, 3)
    apart = torch.cat([reference()(half) for half in x.chunk(2, 1)], 1)
    torch.testing.assert_close(LocalResponseNorm(towers=2)(x), apart)
    over_all = reference()(x)
    differs = (over_all - apart).abs().amax((0, 2, 3)) > 1e-3
    assert differs.nonzero().flatten().tolist() == [46, 47, 48, 49]


def test_alpha_is_divided_by_the_window():
    x = torch.full((1, 5, 1, 1), 100.0)
    middle = LocalResponseNorm(alpha=1e-4)(x)[0, 2].item()
    assert middle == pytest.approx(100 * (2 + 1e-4 / 5 * 5 * 100**2) ** -0.75, rel=1e-5)


def test_bf16_stays_within_its_rounding():
    x = (100 * torch.randn(2, 24, 5, 5)).bfloat16()
    error = (LocalResponseNorm()(x).float() - reference()(x.float())).abs().max()
    assert error / reference()(x.float()).abs().max() < 5 * 2**-8
