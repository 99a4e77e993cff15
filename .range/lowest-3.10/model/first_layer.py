"""Kernels of conv1 counted by what they respond to: color or light (Krizhevsky 2012, figure 3)."""

from typing import NamedTuple

import torch
from torch import Tensor

COLOR = 0.5
NOISE = 0.8


class Kinds(NamedTuple):
    """Numbers of kernels of each kind in a tower."""

    color: int
    grey: int
    noise: int


def color_share(kernels: Tensor) -> Tensor:
    """The part of each kernel's energy that is color: (K, 3, H, W) to (K,), from 0 to 1.

    Energy is the sum of squares. A pixel's three weights have a component along the grey axis
    R = G = B, to which grey images respond; the rest is color. 0: equal weights for R, G and B.
    1: no response to grey images. 2/3 on average for independent random weights: color has two of
    the three dimensions.
    """
    total = kernels.square().sum((1, 2, 3))
    grey = 3 * kernels.mean(1).square().sum((1, 2))
    return 1 - grey / total.clamp_min(torch.finfo(total.dtype).tiny)


def roughness(kernels: Tensor) -> Tensor:
    """Relative difference of neighbouring weights in each kernel: (K, C, H, W) to (K,).

    The mean square of the differences, over twice the mean square of the weights: 1 on average
    for independent random weights, as at the start of training; near 0 for a smooth kernel.
    """
    down, over = (kernels.diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
    power = kernels.square().mean((1, 2, 3))
    return (down + over) / (4 * power.clamp_min(torch.finfo(power.dtype).tiny))


def count_kinds(kernels: Tensor) -> Kinds:
    """Count the kernels (K, 3, H, W) with more energy in color than in grey, with less, and noise.

    Noise are the kernels that training has not yet made smooth (``roughness`` above ``NOISE``), or
    has set to zero. The paper reports that kernels of color and of light separate in this layer;
    so do Flachot and Gegenfurtner (2018). The two thresholds are this project's choice.
    """
    kernels = kernels.double()
    formed = (roughness(kernels) <= NOISE) & (kernels.abs().amax((1, 2, 3)) > 0)
    color = formed & (color_share(kernels) > COLOR)
    counts = [int(mask.sum()) for mask in (color, formed & ~color, ~formed)]
    return Kinds(*counts)
