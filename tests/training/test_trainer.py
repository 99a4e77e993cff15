"""Weights, losses and test losses that are no numbers."""

import math

import pytest
import torch
from torch import nn

from common.errors import ReportedError
from data.loading import Batch
from tests.ranks import mesh_of
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.trainer import Trainer, build_model

CLASSES, SHARE = 5, 3


def _config(updates="step"):
    return Config.model_validate(
        {
            "variant": "torchvision",
            "towers": 1,
            "placement": "hybrid",
            "classifier_scheme": "b",
            "precision": "fp64",
            "net": {"hidden": 24},
            "data": {"size": 64},
            "optimizer": {"classifier_updates": updates},
        }
    )


def _trainer_with_a_nan(config):
    """A trainer on two ranks, whose activations are all NaN, and a local batch for it."""
    mesh = mesh_of(config.plan(2))
    model = build_model(config, mesh, CLASSES, 1)
    assert model.conv1.bias is not None
    nn.init.constant_(model.conv1.bias, math.nan)
    draw = torch.Generator().manual_seed(mesh.rank)
    images = torch.randint(0, 256, (SHARE, 1, 28, 28), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (SHARE,), generator=draw)
    indices = torch.arange(2 * SHARE).split(SHARE)
    local = LocalBatch(Batch(images, labels, indices[mesh.replica]), indices, 2 * SHARE)
    return Trainer(config, mesh, model, make_preprocess(config, 1), 2), local


def _changed_weights(config):
    """The number of the classifier's weights that a step changes."""
    trainer, local = _trainer_with_a_nan(config)
    classifier = trainer.model.stages()[1]
    before = [p.detach().clone() for p in classifier.parameters()]
    trainer.train_step(local)
    after = classifier.parameters()
    return sum(int((old != new).sum()) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("updates", ["step", "turn"])
def test_a_loss_that_is_no_number_changes_no_weight(two_ranks, updates):
    assert two_ranks.run(_changed_weights, _config(updates)) == [0, 0]


def _error_of_a_test(config):
    """The exit status and the words with which an evaluation ends."""
    trainer, local = _trainer_with_a_nan(config)
    with pytest.raises(ReportedError) as caught:
        trainer.evaluate([local])
    return caught.value.status, str(caught.value)


def test_a_test_loss_that_is_no_number_is_not_of_a_step(two_ranks):
    for status, message in two_ranks.run(_error_of_a_test, _config()):
        assert status == 2
        assert "test loss is nan after step 0" in message
