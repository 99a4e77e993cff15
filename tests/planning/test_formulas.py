"""Arithmetic and traffic by formula, against published figures and torch's own count."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distributed.plan import Grid, Plan
from model import alexnet
from model.alexnet import AlexNet
from model.layers import SpaceToDepthConv2d
from model.placement import Placement
from model.variants import VARIANTS
from planning.formulas import Net, bytes_sent, parameters_per_rank


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


def _elements_for_an_image(net, ranks):
    """Activations that each of two or more ranks, which split the net, sends for an image."""
    plan = Plan(net.towers, Grid(ranks, 1), Grid(ranks, 1))
    return sum(bytes_sent(net, plan, batch=1, activation_size=1, gradient_size=4).values())


def test_two_towers_send_57576_elements_for_an_image():
    assert _elements_for_an_image(Net("paper", 2, 3, 224, 1000), 2) == 57_576


def test_zfnet_s_towers_send_57576_elements_too():
    """Its conv3, fc6 and fc7 read maps of the sizes that the paper's do."""
    assert _elements_for_an_image(Net("zfnet", 2, 3, 224, 1000), 2) == 57_576
    # At 64 px the maps are of 30, 14, 7 and 3 px.
    small = _elements_for_an_image(Net("zfnet", 2, 3, 64, 1000), 2)
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
    assert _elements_for_an_image(Net("paper", 2, 3, 224, 1000, {"meet": meet}), 2) == elements


def test_a_single_stream_on_two_ranks_gathers_at_every_layer():
    """That is what the paper's towers avoid."""
    plan = Plan(1, Grid(2, 1), Grid(2, 1))
    sent = bytes_sent(Net("paper", 1, 3, 224, 1000), plan, 1, 1, 4)
    assert sent["conv2"] == 96 * 27**2
    assert sent["norm1"] == 2 * 2 * 55**2
    assert sent.keys() - {"norm1", "norm2"} == {
        *("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "logits")
    }


PAPER = Net("paper", 1, 3, 224, 1000)


@pytest.mark.parametrize(("ranks", "images"), [(2, 32), (4, 32), (8, 128)])
def test_a_hybrid_s_bytes_have_a_closed_form(ranks, images):
    plan = Plan(1, Grid(1, ranks), Grid(ranks, 1))
    sent = bytes_sent(PAPER, plan, ranks * images, 2, 4)
    held = parameters_per_rank(PAPER, plan)
    convolutions = sum(held[f"conv{number}"] for number in range(1, 6))
    assert sum(sent.values()) == (
        2 * (ranks - 1) / ranks * convolutions * 4
        + 2 * (ranks - 1) * images * (9216 + 4096 + 1000) * 2
    )


@pytest.mark.parametrize(("size", "below"), [(4, 4097), (2, 8193)])
@pytest.mark.parametrize("ranks", [2, 8])
def test_a_hybrid_s_activations_are_fewer_bytes_up_to_a_batch(ranks, size, below):
    hybrid, ddp = Plan(1, Grid(1, ranks), Grid(ranks, 1)), Plan(1, *2 * [Grid(1, ranks)])

    def for_the_classifier(plan, batch):
        sent = bytes_sent(PAPER, plan, batch, size, 4)
        return sum(sent.get(name, 0) for name in ("fc6", "fc7", "logits", "fc gradients"))

    cheap, dear = (below // ranks * ranks, (below // ranks + 1) * ranks)
    assert for_the_classifier(hybrid, cheap) < for_the_classifier(ddp, cheap)
    assert for_the_classifier(hybrid, dear) > for_the_classifier(ddp, dear)


@pytest.mark.parametrize(("replicas", "size"), [(2, 4), (4, 6), (8, 7)])
def test_replicas_send_their_gradients_once(replicas, size):
    plan = Plan(1, Grid(1, replicas), Grid(1, replicas))
    held = sum(parameters_per_rank(PAPER, plan).values())
    assert sum(bytes_sent(PAPER, plan, 8, 2, 4).values()) == size * held


def test_one_process_sends_nothing():
    assert bytes_sent(PAPER, Plan(1, Grid(1, 1), Grid(1, 1)), 8, 4, 4) == {}


@pytest.mark.parametrize(
    ("variant", "towers", "millions"), [("paper", 2, 60.97), ("paper", 1, 62.38)]
)
def test_parameters_are_the_published_ones(variant, towers, millions):
    held = parameters_per_rank(Net(variant, towers, 3, 224, 1000), Plan(towers, *2 * [Grid(1, 1)]))
    assert sum(held.values()) / 1e6 == pytest.approx(millions, abs=0.006)
