"""What the checks train, and how they measure an error."""

import math

import pytest
import torch

from checking.steps import STEPS, Trainings, relative_error, small_config, take_steps
from tests.ranks import mesh_of
from training.batches import steps_per_epoch


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 100])
def test_the_hidden_units_and_the_batch_suffice_for_the_ranks(ranks):
    config = small_config(ranks, "fp32")
    assert config.net.hidden is not None
    assert config.net.hidden % (2 * ranks) == 0
    assert config.batch_size >= 2 * ranks
    length = config.data.synthetic_length
    assert steps_per_epoch(config, length) == 2
    assert length % config.batch_size == config.batch_size - 1, "the second batch is short"


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [([1.0, 2.0], [1.0, 2.0], 0.0), ([1.0, 2.5], [1.0, 2.0], 0.25), ([math.nan], [1.0], math.inf)],
)
def test_an_error_is_relative_to_the_largest_value(found, expected, error):
    assert relative_error(torch.tensor(found), torch.tensor(expected)) == error


def _losses():
    config = small_config(2, "fp64")
    trainings = Trainings(mesh_of(small_config(2, "fp32", placement="ddp").plan(2)))
    trainer, alone = trainings.start(config), trainings.start_alone(config)
    assert alone.mesh.plan.world_size == 1
    return [[step.loss for step in take_steps(each, STEPS)] for each in (trainer, alone)]


def test_a_process_alone_has_the_losses_of_all_ranks(two_ranks):
    for together, alone in two_ranks.run(_losses):
        assert together == pytest.approx(alone, rel=1e-12)
        assert len(set(together)) == STEPS
