"""Arithmetic and traffic by formula, against published figures and torch's own count."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from comparison.formulas import Net, gradient_bytes
from model import alexnet
from model.alexnet import AlexNet
from model.layers import SpaceToDepthConv2d
from model.placement import Placement
from model.variants import VARIANTS


@pytest.mark.parametrize(
    ("variant", "towers", "channels", "classes", "millions"),
    [("paper", 2, 3, 1000, 724.4), ("paper", 1, 3, 1000, 1135), ("torchvision", 1, 3, 1000, 714)],
)
def test_multiply_adds_are_the_published_ones(variant, towers, channels, classes, millions):
    macs = Net(variant, towers, channels, 224, classes).macs()
    assert sum(macs.values()) / 1e6 == pytest.approx(millions, abs=0.6)


@pytest.mark.parametrize("size", [64, 96, 224])
@pytest.mark.parametrize(
    ("variant", "towers"),
    [("d2l", 1), ("d2l", 2), ("torchvision", 1), ("zfnet", 1), ("zfnet", 2)],
)
def test_multiply_adds_are_those_that_torch_counts(variant, towers, size, monkeypatch):
    # These forms do more arithmetic than the formula counts, in less time.
    monkeypatch.setattr(SpaceToDepthConv2d, "forward", nn.Conv2d.forward)
    monkeypatch.setattr(alexnet, "resize", F.adaptive_avg_pool2d)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        # Normalisation is not counted; its window sum is a convolution.
        form = replace(VARIANTS[variant], local_response_norm=False)
        AlexNet(form, 10, 1, Placement(towers))(torch.empty(1, 1, size, size))
    assert 2 * sum(Net(variant, towers, 1, size, 10).macs().values()) == counter.get_total_flops()


@pytest.mark.parametrize("size", [64, 112, 224])
@pytest.mark.parametrize("changes", [{"meet": ()}, {"meet": ("fc7",)}, {"pool": 2}], ids=str)
def test_multiply_adds_of_an_ablation_are_those_that_torch_counts(changes, size, monkeypatch):
    monkeypatch.setattr(SpaceToDepthConv2d, "forward", nn.Conv2d.forward)
    monkeypatch.setattr(alexnet, "resize", F.adaptive_avg_pool2d)
    net = Net("d2l", 2, 1, size, 10, changes)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        AlexNet(net.variant, 10, 1, Placement(2))(torch.empty(1, 1, size, size))
    assert 2 * sum(net.macs().values()) == counter.get_total_flops()


def test_training_takes_three_passes_but_no_gradient_of_the_images():
    assert Net("paper", 2, 3, 224, 1000).flops() / 1e9 == pytest.approx(4.136, abs=1e-3)


def test_two_towers_send_57576_elements_for_an_image():
    assert Net("paper", 2, 3, 224, 1000).activation_bytes(images=1, element_size=1) == 57_576


def test_zfnet_s_towers_send_57576_elements_too():
    """Its conv3, fc6 and fc7 read maps of the sizes that the paper's do."""
    assert Net("zfnet", 2, 3, 224, 1000).activation_bytes(images=1, element_size=1) == 57_576
    # At 64 px the maps are of 30, 14, 7 and 3 px.
    small = Net("zfnet", 2, 3, 64, 1000).activation_bytes(images=1, element_size=1)
    assert small == 2 * (256 * 3**2 + 9216 + 4096) // 2 + 1000


@pytest.mark.parametrize(
    ("meet", "elements"),
    [
        ((), 1000),
        (("conv3",), 2 * 21_632 + 1000),
        (("fc6",), 2 * 4_608 + 1000),
        (("fc7",), 2 * 2_048 + 1000),
    ],
)
def test_a_layer_that_does_not_meet_sends_nothing(meet, elements):
    net = Net("paper", 2, 3, 224, 1000, {"meet": meet})
    assert net.activation_bytes(images=1, element_size=1) == elements


def test_two_replicas_send_their_gradients_once():
    assert gradient_bytes(2, 1000, 4) == 4000
    assert gradient_bytes(4, 1000, 4) == 6000
    assert gradient_bytes(1, 1000, 4) == 0
