"""ReLU, normalisation and pooling, plain and in one pass, against PyTorch's layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import pooling
from model.normalization import LocalResponseNorm
from model.pooling import ActivatedPool
from native.compiler import load_kernels
from native.pooling import KERNELS

LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(2, 96, 13, 13), (3, 8, 55, 26), (1, 260, 3, 4), (2, 4, 17, 40), (1, 4, 2, 9)]


@pytest.fixture(params=["kernel", "plain", "fusible"])
def form(request, monkeypatch):
    """All forms: the compiled kernel, plain PyTorch, and what torch.compile fuses on a GPU."""
    if request.param != "kernel":
        monkeypatch.setattr(pooling, "can_fuse", lambda x, activation, side: False)
        monkeypatch.setattr(pooling, "fuses", lambda device: request.param == "fusible")
        monkeypatch.setattr(pooling, "compiled", lambda function: function)
    elif load_kernels(KERNELS) is None:
        pytest.skip("no C++ compiler here")


def reference(x, *, towers):
    """PyTorch's layers, tower by tower; 0 towers: without a norm."""
    x = x.relu()
    if towers:
        norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
        x = torch.cat([norm(tower) for tower in x.chunk(towers, 1)], 1)
    return F.max_pool2d(x, min(3, *x.shape[2:]), 2)


def ours(x, *, towers):
    return ActivatedPool(LocalResponseNorm(towers) if towers else None)(x)


def outputs(function, x, grad, towers):
    x = x.detach().requires_grad_()
    y = function(x, towers=towers)
    y.backward(grad)
    return y.detach(), x.grad


def grad_for(x):
    return torch.randn_like(reference(x.float(), towers=0))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("towers", [0, 1, 2, 4])
def test_equals_pytorch_forward_and_backward(shape, towers, layout):
    x = (100 * torch.randn(shape)).to(memory_format=layout)
    grad = grad_for(x)
    results = outputs(ours, x, grad, towers), outputs(reference, x, grad, towers)
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("towers", [0, 2])
def test_of_equal_maxima_the_first_has_the_gradient(towers):
    x = torch.randint(3, (2, 8, 21, 22)).float().to(memory_format=torch.channels_last)
    grad = grad_for(x)
    results = (outputs(function, x, grad, towers) for function in (ours, reference))
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine.sign(), theirs.sign())


@pytest.mark.parametrize("towers", [0, 1, 2])
def test_half_precision_stays_within_its_rounding(towers):
    x = torch.rand(2, 24, 9, 9)
    x[:, :, 1::2, 1::2] += 100 * torch.rand(2, 24, 4, 4) + 10  # rounding changes no maximum
    x = x.to(torch.bfloat16, memory_format=torch.channels_last)
    grad = grad_for(x).bfloat16()
    exact = outputs(reference, x.double(), grad.double(), towers)
    for mine, theirs in zip(outputs(ours, x, grad, towers), exact, strict=True):
        error = (mine.double() - theirs).abs().max() / theirs.abs().max()
        assert error < 2 * torch.finfo(torch.bfloat16).eps


@pytest.mark.usefixtures("form")
def test_the_kernel_is_used_on_channels_last_maps_and_their_layout_stays():
    x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    for result in outputs(ours, x, grad_for(x), 2):
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("form")
def test_an_empty_batch_and_a_gradient_of_another_layout():
    x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    assert ours(x[:0], towers=2).shape == (0, 8, 4, 4)
    (summed,) = torch.autograd.grad(ours(x.requires_grad_(), towers=0).sum(), x)  # expanded
    (expected,) = torch.autograd.grad(reference(x, towers=0).sum(), x)
    assert torch.equal(summed, expected)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("towers", [0, 1])
@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 4)])
def test_nan_stays_nan(place, towers, dtype):
    x = torch.ones(1, 24, 5, 5, dtype=dtype).to(memory_format=torch.channels_last)
    x[0, 10, place[0], place[1]] = float("nan")
    y = ours(x, towers=towers)
    expected = reference(x.float(), towers=towers).isnan()
    assert y.isnan()[expected].all()  # the plain norm's products spread it to all channels
    assert y[0, 10].isnan().any()
