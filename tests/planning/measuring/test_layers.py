"""The time of each layer is booked to that layer."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from distributed.plan import Grid, Plan
from model.variants import VARIANTS
from planning.formulas import Net
from planning.measuring import layers
from planning.measuring.layers import Rehearsal, StepTimes, layer_rows
from training.batches import make_preprocess
from training.config import Config

NARROW = {name: replace(variant, hidden=64) for name, variant in VARIANTS.items()}
HYBRID = Plan(2, Grid(1, 2), Grid(2, 1))


class _Clock:
    """A clock that stands still but in the slow layer."""

    def __init__(self):
        self.now = 0.0

    def read(self, device):
        return self.now


class _Slow(torch.autograd.Function):
    """The identity, which takes some seconds of a clock in each direction."""

    @staticmethod
    def forward(ctx, x, clock, forward, backward):
        ctx.clock, ctx.delay = clock, backward
        clock.now += forward
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += ctx.delay
        return gradient, None, None, None


def _rehearsal(plan):
    config = Config.model_validate(
        {"data": {"name": "synthetic", "size": 64, "stored_size": 64}, "precision": "bf16"}
    )
    net = Net("paper", 2, channels=3, size=64, classes=10)
    return Rehearsal(config, plan, net, make_preprocess(config, 3), torch.device("cpu"))


@patch.dict(VARIANTS, NARROW)
@pytest.mark.parametrize("layer", ["conv1", "conv3", "conv5", "fc6", "fc7", "fc8"])
def test_the_time_of_a_slow_layer_is_booked_to_it(layer):
    clock, rehearsal = _Clock(), _rehearsal(HYBRID)
    module = getattr(rehearsal.model, layer)
    module.register_forward_hook(lambda module, inputs, out: _Slow.apply(out, clock, 2.0, 3.0))
    with patch.object(layers, "WARMUP", 1), patch.object(layers, "mark_time", clock.read):
        times = rehearsal.times(2, 2, float)
    assert {name: each for name, each in times.forward.items() if each} == {layer: 2.0}
    assert {name: each for name, each in times.backward.items() if each} == {layer: 3.0}
    assert times.input == times.optimizer == 0


def test_the_parts_of_a_median_step_add_up_to_it():
    # Each part pauses in another step, so that no step is without a pause.
    steps = [{"a": 5.0, "b": 1.0}, {"a": 1.0, "b": 5.0}, {"a": 1.0, "b": 3.0}]
    found = layers._of_median_step(steps, [6.0, 8.0, 4.0])
    assert sum(found.values()) == pytest.approx(6.0)
    assert found["b"] / found["a"] == pytest.approx(9 / 7)


@patch.dict(VARIANTS, NARROW)
def test_a_step_takes_as_long_as_on_the_slowest_rank():
    def slowest(own):
        return own and 1000.0

    with patch.object(layers, "WARMUP", 0):
        times = _rehearsal(HYBRID).times(2, 1, slowest)
    parts = [*times.forward.values(), *times.backward.values(), times.input, times.optimizer]
    assert sum(parts) == pytest.approx(1000)


def test_lines_count_the_images_that_a_layer_works_on():
    net = Net("paper", 2, channels=3, size=64, classes=10)
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    steps = [
        StepTimes(images, dict.fromkeys(names, 1.0 + images), dict.fromkeys(names, 2.0), 0, 0, 0)
        for images in (8, 32)
    ]
    rows = {row.layer: row for row in layer_rows(net, HYBRID, steps)}
    assert rows["conv1"].forward.each == pytest.approx(1.0)
    assert rows["fc6"].forward.each == pytest.approx(0.5)
    assert rows["fc6"].forward.fixed == pytest.approx(1.0)
    assert rows["fc6"].backward.fixed == pytest.approx(2.0)
