"""What the kernels of conv1 look for: colour or light (Krizhevsky et al. 2012, figure 3)."""

from typing import NamedTuple

import torch
from torch import Tensor

COLOR = 0.5
NOISE = 0.8


class Kinds(NamedTuple):
    """How many kernels of a tower are of each kind."""

    color: int
    grey: int
    noise: int


def color_share(kernels: Tensor) -> Tensor:
    """The share of each kernel's energy that is colour: (K, 3, H, W) to (K,), from 0 to 1.

    A pixel's three weights are its component along the grey axis R = G = B, which a grey image
    can excite, and what is left. Energy is the sum of squares. 0: equal weights for R, G and B;
    1: blind to grey images; 2/3 on average in a kernel of independent random weights, whose
    colour has two of the three dimensions.
    """
    total = kernels.square().sum((1, 2, 3))
    grey = 3 * kernels.mean(1).square().sum((1, 2))
    return 1 - grey / total.clamp_min(torch.finfo(total.dtype).tiny)


def roughness(kernels: Tensor) -> Tensor:
    """How much neighbouring pixels differ: (K, C, H, W) to (K,).

    The mean square of the differences, over twice the mean square of the weights: 1 on average
    for independent random weights, as at the start of training; near 0 for a smooth kernel.
    """
    down, over = (kernels.diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
    power = kernels.square().mean((1, 2, 3))
    return (down + over) / (4 * power.clamp_min(torch.finfo(power.dtype).tiny))


def count_kinds(kernels: Tensor) -> Kinds:
    """Of (K, 3, H, W): kernels with more energy in colour than in grey, with less, and noise.

    Noise is what training has not yet made smooth (``roughness`` above ``NOISE``) or has put out.
    That chromatic and achromatic kernels part in this layer is the paper's finding, and Flachot and
    Gegenfurtner's (2018) in a trained AlexNet; the two thresholds are this project's choice.
    """
    kernels = kernels.double()
    formed = (roughness(kernels) <= NOISE) & (kernels.abs().amax((1, 2, 3)) > 0)
    colour = formed & (color_share(kernels) > COLOR)
    counts = [int(mask.sum()) for mask in (colour, formed & ~colour, ~formed)]
    return Kinds(*counts)
