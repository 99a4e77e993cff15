"""Kernels of known kinds are counted as such."""

import math

import pytest
import torch

from model.first_layer import Kinds, color_share, count_kinds, roughness

SIDE = 11
X = torch.arange(SIDE).float() - SIDE // 2
GRATING = torch.sin(2 * math.pi * X / 8).expand(SIDE, SIDE)
BLOB = torch.exp(-(X[:, None].square() + X.square()) / 8)


def kernel(pattern, color):
    return torch.tensor(color)[:, None, None] * pattern


GREY = [kernel(GRATING, [1.0, 1.0, 1.0]), kernel(BLOB, [0.2, 0.2, 0.2])]
COLOR = [kernel(BLOB, [1.0, -1.0, 0.0]), kernel(GRATING, [1.0, 1.0, -2.0])]


def test_the_color_share_is_what_lies_outside_the_grey_axis():
    shares = color_share(torch.stack(GREY + COLOR))
    assert shares.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6)
    one_channel = kernel(BLOB, [1.0, 0.0, 0.0])
    assert color_share(one_channel[None]).item() == pytest.approx(2 / 3)


def test_random_weights_are_rough_and_two_thirds_color():
    noise = torch.randn(2000, 3, SIDE, SIDE)
    assert color_share(noise).mean().item() == pytest.approx(2 / 3, abs=0.01)
    assert roughness(noise).mean().item() == pytest.approx(1, abs=0.01)
    assert roughness(torch.stack(GREY + COLOR)).max() < 0.4


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_known_kernels_are_counted_whatever_their_scale(scale):
    noise = torch.randn(5, 3, SIDE, SIDE)
    dead = torch.zeros(1, 3, SIDE, SIDE)
    known = torch.cat([torch.stack(GREY), torch.stack(COLOR), COLOR[0][None], noise, dead])
    assert count_kinds(scale * known) == Kinds(color=3, grey=2, noise=6)


def test_light_with_a_tint_is_grey_and_color_with_some_light_is_color():
    tinted, lit = kernel(BLOB, [1.0, 0.8, 0.6]), kernel(BLOB, [1.2, -0.8, 0.2])
    assert count_kinds(torch.stack([tinted, lit])) == Kinds(color=1, grey=1, noise=0)


def test_an_untrained_layer_is_noise():
    assert count_kinds(torch.randn(96, 3, SIDE, SIDE)).noise == 96
