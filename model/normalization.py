"""Local response normalisation, Krizhevsky et al. 2012, section 3.3."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha/size * sum of a² over ``size`` neighbouring channels) ** 0.75.

    As in the authors' code (and ``nn.LocalResponseNorm``), alpha is divided by the window. The
    printed formula does not divide. The exponent is the paper's, fixed: x**-0.75 is then two
    square roots instead of a power.

    ``towers`` groups of channels are normalised apart: at the border between two towers a channel
    never sees the other's. Input and output (B, C, H, W).
    """

    def __init__(self, towers: int = 1, size: int = 5, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.towers, self.size, self.alpha, self.k = towers, size, alpha, k

    @override
    def forward(self, x: Tensor) -> Tensor:
        return _LocalResponseNorm.apply(x, self.towers, self.size, self.alpha, self.k)

    @override
    def extra_repr(self) -> str:
        return f"towers={self.towers}, size={self.size}, alpha={self.alpha}, k={self.k}"


def window_sum(x: Tensor, towers: int, size: int) -> Tensor:
    """Sum over ``size`` neighbouring channels of the same tower, zeros beyond its border.

    A 1×1 convolution with a band of ones: one matrix product in place of ``size`` passes over
    memory, whatever the layout. (B, C, H, W) to the same shape and dtype.
    """
    width = x.shape[1] // towers
    channel = torch.arange(width, device=x.device)
    band = (channel[:, None] - channel[None, :]).abs() <= size // 2
    weight = band.to(x.dtype).repeat(towers, 1)[:, :, None, None]
    return F.conv2d(x, weight, groups=towers)


def _power(q: Tensor) -> Tensor:
    """The power -0.75 of positive numbers."""
    root = q.rsqrt()
    return root * root.sqrt()


class _LocalResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, towers: int, size: int, alpha: float, k: float) -> Tensor:
        q = window_sum(x * x, towers, size).mul_(alpha / size).add_(k)
        ctx.save_for_backward(x, q)
        ctx.towers, ctx.size, ctx.scale = towers, size, alpha / size
        return x * _power(q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, q = ctx.saved_tensors
        towers, size, scale = ctx.towers, ctx.size, ctx.scale
        power = _power(q)
        through = window_sum(grad * x * power / q, towers, size)
        return torch.addcmul(grad * power, x, through, value=-1.5 * scale), None, None, None, None
