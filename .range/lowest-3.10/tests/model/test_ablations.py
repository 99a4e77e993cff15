"""Each of the paper's ablations changes its part of the net, and nothing else."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.alexnet import AlexNet
from model.initialization import initialize
from model.layers import ACTIVATIONS, GroupedLinear
from model.normalization import LocalResponseNorm
from model.placement import Placement
from model.pooling import ActivatedPool
from model.variants import VARIANTS

CONV3, FC6, FC7 = 3 * 3 * 256 * 384, 9216 * 4096, 4096 * 4096
WHOLE = 60_965_224
ABLATIONS = [
    {"local_response_norm": False},
    {"activation": "tanh"},
    {"activation": "sigmoid"},
    {"pool": 2},
    {"dropout": (0.0, 0.0, 0.0)},
    {"meet": ()},
    {"meet": ("fc6",)},
]


def build(towers=2, classes=10, channels=1, **changes):
    return AlexNet(replace(VARIANTS["paper"], **changes), classes, channels, Placement(towers))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"meet": ()}, WHOLE - (CONV3 + FC6 + FC7) // 2),
        ({"meet": ("conv3",)}, WHOLE - (FC6 + FC7) // 2),
        ({"meet": ("conv3", "fc7")}, WHOLE - FC6 // 2),
        ({"meet": ("fc6", "fc7")}, WHOLE - CONV3 // 2),
        *((changes, WHOLE) for changes in ABLATIONS[:5]),
    ],
)
def test_only_layers_that_stay_apart_lose_half_their_weights(changes, expected):
    with torch.device("meta"):
        model = build(classes=1000, channels=3, **changes)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_a_single_tower_has_nobody_to_meet():
    with torch.device("meta"):
        shapes = [[p.shape for p in build(1, meet=meet).parameters()] for meet in ((), ("fc6",))]
    assert shapes[0] == shapes[1]


def test_non_overlapping_pooling_keeps_the_paper_s_sizes():
    """55, 27, 13 and 6: an odd side has as many windows of 2 as of 3."""
    x = torch.empty(1, 1, 55, 55, device="meta")
    for side in (2, 3):
        pool = ActivatedPool(side=side)
        assert [m.shape[-1] for m in (pool(x), pool(pool(x)), pool(pool(pool(x))))] == [27, 13, 6]


def logits(changes, images, keys=None):
    model = build(**changes)
    initialize(model, seed=3, scheme="xavier")
    return model.train(keys is not None)(images, keys)


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
def test_every_ablation_computes_something_else_and_every_weight_has_a_gradient(changes):
    images, keys = 3 * torch.randn(2, 1, 64, 64), torch.tensor([1, 2])
    model = build(**changes)
    initialize(model, seed=3, scheme="xavier")
    out = model(images, keys)
    assert not torch.allclose(out, logits({}, images, keys), rtol=1e-3)
    F.cross_entropy(out, torch.tensor([1, 7])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_dropout_off_is_the_net_as_it_is_evaluated():
    images = torch.randn(2, 1, 64, 64)
    off = logits({"dropout": (0.0, 0.0, 0.0)}, images, torch.tensor([1, 2]))
    assert torch.equal(off, logits({}, images))


@pytest.mark.parametrize(("meet", "reached"), [((), 1), (("conv3",), 2), (("fc7",), 2)])
def test_towers_that_never_meet_know_nothing_of_each_other(meet, reached):
    model = build(meet=meet)
    initialize(model, seed=0, scheme="he")
    with torch.no_grad():
        model.fc8.weight[:, 2048:] = 0  # the second tower's logits
    model(torch.randn(2, 1, 64, 64)).square().sum().backward()
    halves = model.conv2.weight.grad.chunk(2)
    assert [bool(half.any()) for half in halves] == [True, reached == 2]


def test_a_grouped_linear_layer_is_a_block_diagonal_one():
    layer = GroupedLinear(6, 4, groups=2)
    whole = nn.Linear(6, 4)
    with torch.no_grad():
        whole.weight.copy_(torch.block_diag(*layer.weight.chunk(2)))
        whole.bias.copy_(layer.bias)
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), whole(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_activation_normalisation_and_pooling_come_in_this_order(activation, side, layout):
    x = (3 * torch.randn(2, 16, 13, 14)).to(memory_format=layout)
    active = getattr(torch, activation)(x)
    for norm in (None, LocalResponseNorm(2)):
        normal = active if norm is None else norm(active)
        expected = F.max_pool2d(normal, side, 2)
        found = ActivatedPool(norm, activation, side)(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
