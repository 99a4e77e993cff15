"""The peers are the same nets as ours, and the formulas of the benchmarks are the known ones."""

import pytest
import torch

from benchmarks import link
from benchmarks.peers import NETS
from model.alexnet import AlexNet
from model.placement import Placement
from model.variants import VARIANTS


@pytest.mark.parametrize(
    ("name", "towers", "channels", "classes", "parameters"),
    [("paper", 2, 3, 1000, 60_965_224), ("d2l", 1, 1, 10, 46_764_746)],
)
def test_a_peer_computes_what_ours_does(name, towers, channels, classes, parameters):
    peer = NETS[name](classes).eval()
    assert sum(parameter.numel() for parameter in peer.parameters()) == parameters
    ours = AlexNet(VARIANTS[name], classes, channels, Placement(towers)).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), peer.state_dict().values(), strict=True)))
    images = torch.randn(2, channels, 224, 224)
    with torch.no_grad():
        logits, theirs = ours(images), peer(images)
    # Of two towers nn.LocalResponseNorm lets the channels at their border see each other.
    tolerance = 1e-3 if name == "paper" else 1e-5
    assert (logits - theirs).abs().max() < tolerance * theirs.abs().max()


def _even_batch(first, second, gbit, speed, seconds=0.0):
    extra = {"split": 0.0, "hybrid": 0.0, "DDP": seconds}
    return link.Machine(gbit * 1e9 / 8, speed, extra).even_batch(first, second)


def test_without_bandwidth_the_split_is_even_with_ddp_at_the_published_batch():
    # 1,005 images where maps and gradients have one precision; bf16 maps travel at half the cost.
    assert _even_batch("split", "DDP", 1e-6, 1000.0) == pytest.approx(2 * 1005, abs=5)
    assert _even_batch("split", "DDP", 10, 230.0, 0.1) > 1000, "beyond what hides DDP's traffic"


def test_without_bandwidth_the_hybrid_is_even_where_the_bytes_are():
    activations = 9216 + 4096 + 10
    fc = sum((inputs + 1) * outputs for inputs, outputs in [(9216, 4096), (4096, 4096), (4096, 10)])
    assert _even_batch("hybrid", "DDP", 1e-6, 1000.0) == pytest.approx(
        2 * fc / activations, rel=1e-3
    )
    assert _even_batch("split", "hybrid", 1e-6, 1000.0) == pytest.approx(110, abs=5)


def test_the_placement_that_is_slower_at_every_batch_is_nowhere_even():
    assert _even_batch("DDP", "split", 1, 230.0, 1000.0) is None
