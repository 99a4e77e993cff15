"""Local response normalisation, Krizhevsky et al. 2012, section 3.3."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

WINDOW = 5
"""Channels that a normalisation sums over."""


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha/5 * sum of a² over 5 neighbouring channels) ** 0.75.

    As in the authors' code (and ``nn.LocalResponseNorm``), alpha is divided by the window. The
    printed formula does not divide. Window and exponent are the paper's; they are fixed because the
    fast forms, here and in native/pooling.cpp, need them so.

    ``towers`` groups of channels are normalised apart: at the border between two towers a channel
    never sees the other's. Input and output (B, C, H, W), of the same layout.
    """

    def __init__(self, towers: int = 1, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.towers, self.alpha, self.k = towers, alpha, k

    @property
    def scale(self) -> float:
        """The factor of the sum of squares."""
        return self.alpha / WINDOW

    def in_shifts(self, x: Tensor) -> Tensor:
        """The same as five shifted sums in float32, or in float64 for such an ``x``.

        For a compiler that fuses them; one by one they are slow.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = (wide * self.scale**0.5).square().unflatten(1, (self.towers, -1))
        width, reach = squares.shape[2], WINDOW // 2
        padded = F.pad(squares, (0, 0, 0, 0, reach, reach))  # (B, towers, width + 4, H, W)
        shifted = [padded[:, :, at : at + width] for at in range(WINDOW)]
        q = functools.reduce(torch.add, shifted) + self.k
        return (wide * _power(q).flatten(1, 2)).to(x.dtype)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda":
            # Its autocast would compute the root, and all that follows, in float32.
            with torch.autocast("cuda", enabled=False):
                return _Normalize.apply(x, self.towers, self.scale, self.k)
        return _Normalize.apply(x, self.towers, self.scale, self.k)

    @override
    def extra_repr(self) -> str:
        return f"towers={self.towers}, alpha={self.alpha}, k={self.k}"


def window_sum(x: Tensor, towers: int, bias: float = 0.0) -> Tensor:
    """``bias`` plus the sum over neighbouring channels of the same tower.

    A 1×1 convolution with a band matrix: one matrix product in place of five passes over memory,
    whatever the layout. (B, C, H, W) to the same shape and dtype.
    """
    width = x.shape[1] // towers
    channel = torch.arange(width, device=x.device)
    band = (channel[:, None] - channel[None, :]).abs() <= WINDOW // 2  # (width, width)
    weight = band.to(x.dtype).repeat(towers, 1)[:, :, None, None]  # (C, width, 1, 1)
    return F.conv2d(x, weight, x.new_full((x.shape[1],), bias), groups=towers)


def _power(q: Tensor) -> Tensor:
    """The power -0.75 of positive numbers: two roots are faster than a power."""
    root = q.rsqrt()
    return root.sqrt() * root


class _Normalize(torch.autograd.Function):
    """b = a q ** -0.75, where q = k + scale * window sum of a².

    Gradient: g q ** -0.75 - 1.5 scale a * window sum of (g a q ** -1.75).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, towers: int, scale: float, k: float) -> Tensor:
        scaled = x * scale**0.5  # before it is squared: x² is beyond float16's range
        q = window_sum(scaled.mul_(scaled), towers, k)
        ctx.save_for_backward(x, q)
        ctx.towers, ctx.scale = towers, scale
        return _power(q).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, q = ctx.saved_tensors
        through = grad * _power(q)
        sums = window_sum((through * x).div_(q), ctx.towers)
        return through.addcmul_(x, sums, value=-1.5 * ctx.scale), None, None, None
