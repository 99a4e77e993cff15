"""The bytes of a rank's tensors, added up by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from planning.formulas import Net
from planning.job import Job, moments_of
from planning.memory import memory_of
from tests.planning.machines import PAPER
from tests.planning.plans import HYBRID, LOCAL, SPLIT
from training.config import OptimizerConfig
from training.optimization import OPTIMIZERS, make_optimizer


def _maps(shard_inputs, shard_outputs, sides):
    """Numbers that backward reads of an image: of each layer its inputs, and its outputs twice."""
    layers = zip(shard_inputs, shard_outputs, sides, strict=True)
    return sum(seen * read**2 + 2 * made * written**2 for seen, made, (read, written) in layers)


SIDES = [(224, 55), (27, 27), (13, 13), (13, 13), (13, 13), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("plan", "inputs", "outputs"),
    [
        (
            LOCAL,
            [3, 96, 256, 384, 384, 9216, 4096, 4096],
            [96, 256, 384, 384, 256, 4096, 4096, 1000],
        ),
        (
            SPLIT,
            [3, 48, 256, 192, 192, 9216, 4096, 2048],
            [48, 128, 192, 192, 128, 2048, 2048, 1000],
        ),
    ],
)
def test_an_image_more_needs_the_maps_that_backward_reads(plan, inputs, outputs):
    job = Job(PAPER, 1)
    more = memory_of(replace(job, batch=3), plan) - memory_of(job, plan)
    assert more == 2 * 4 * _maps(inputs, outputs, SIDES)


def test_the_maps_are_those_of_a_part_of_the_batch():
    one, four = memory_of(Job(PAPER, 2), SPLIT), memory_of(Job(PAPER, 8, parts=4), SPLIT)
    assert one == four


def test_the_classifiers_maps_are_those_of_a_turn():
    whole, turns = (memory_of(Job(PAPER, 8, scheme=scheme), HYBRID) for scheme in "ac")
    maps = _maps([9216, 4096, 2048], [2048, 2048, 1000], [(1, 1)] * 3)
    assert whole - turns == (8 - 4) * 4 * maps


@pytest.mark.parametrize(
    ("sizes", "each"),
    [
        ({}, 12),
        ({"activation_size": 2}, 14),
        ({"moments": 2}, 16),
        ({"moments": 0}, 8),
        ({"weight_size": 8, "activation_size": 8}, 24),
    ],
)
def test_a_weight_has_its_gradient_and_the_moments_beside_it(sizes, each):
    small, large = (Net("paper", 2, 3, 224, classes) for classes in (10, 11))
    job = Job(small, 1, **sizes)
    weights, image = 4096 + 1, 2 * job.activation_size
    more = memory_of(replace(job, net=large), LOCAL) - memory_of(job, LOCAL)
    assert more == each * weights + image


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_moments_are_those_that_the_optimiser_keeps(name, momentum):
    config = OptimizerConfig(name=name, momentum=momentum, nesterov=False)
    layers = nn.Linear(3, 5), nn.Linear(5, 7)
    optimizer = make_optimizer(*layers, config, may_skip=False)
    layers[1](layers[0](torch.ones(1, 3))).sum().backward()
    optimizer.step()
    for weight in (layers[0].weight, layers[1].weight):
        kept = [each for each in optimizer.state[weight].values() if torch.is_tensor(each)]
        assert sum(each.shape == weight.shape for each in kept) == moments_of(config)
