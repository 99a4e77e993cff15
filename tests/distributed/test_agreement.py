"""Weights that are equal where they must be: one that differs is found, with its ranks."""

import re
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from common.errors import ReportedError
from distributed import agreement
from distributed.agreement import check_same_weights
from distributed.mesh import Mesh
from distributed.placement import MeshPlacement
from model.variants import VARIANTS
from training.batches import open_sets, open_test_set
from training.config import Config, DataConfig
from training.trainer import build_model

TINY = {"d2l": replace(VARIANTS["d2l"], convolutions=(8, 8, 8, 8, 8), hidden=8)}
HYBRID = {"placement": "hybrid"}
GROUPS = {**HYBRID, "classifier_ranks": 2}


@patch.dict(VARIANTS, TINY)
def _check(settings, ranks, name, altered):
    """What every rank says about a weight that ``altered`` has changed."""
    config = Config.model_validate({"variant": "d2l", **settings})
    mesh = Mesh.over_running_group(config.plan(ranks), torch.device("cpu"))
    model = build_model(config, mesh, 10, 1)
    placement = MeshPlacement(mesh)
    if mesh.rank == altered:
        with torch.no_grad():
            parameter = model.get_parameter(name)
            parameter[(-1,) * parameter.dim()] += 1e-3
    try:
        check_same_weights(mesh, model, placement)
    except ReportedError as error:
        return str(error), error.status
    return None


@pytest.mark.parametrize(
    ("settings", "pool", "name", "altered", "named"),
    [
        ({"placement": "ddp"}, "two_ranks", "fc6.weight", 1, "ranks 0 and 1"),
        ({"placement": "split"}, "four_ranks", "conv2.weight", 3, "ranks 1 and 3"),
        (HYBRID, "two_ranks", "conv1.weight", 1, "ranks 0 and 1"),
        (HYBRID, "three_ranks", "conv5.bias", 2, "ranks 0 and 2"),
        (GROUPS, "four_ranks", "conv3.weight", 2, "ranks 0 and 2"),
        (GROUPS, "four_ranks", "fc6.weight", 3, "ranks 1 and 3"),
        (GROUPS, "four_ranks", "fc8.weight", 2, "ranks 0 and 2"),
        (GROUPS, "four_ranks", "fc8.bias", 2, "ranks 0 and 2"),
        ({"placement": "split+hybrid"}, "four_ranks", "conv4.weight", 3, "ranks 1 and 3"),
    ],
)
def test_an_altered_weight_is_named_with_two_ranks(request, settings, pool, name, altered, named):
    settings = {"net": {"hidden": 12}, **settings}
    ranks = request.getfixturevalue(pool)
    everyone = ranks.run(_check, settings, len(ranks.pipes), name, altered)
    assert everyone == [everyone[0]] * len(ranks.pipes)
    message, status = everyone[0]
    assert named in message
    assert name in message
    assert status == 1, "another attempt may succeed"


@pytest.mark.parametrize("altered", [None, 1])
@pytest.mark.parametrize("name", ["fc6.weight", "fc8.bias"])
def test_equal_weights_pass_and_so_does_what_one_rank_alone_uses(four_ranks, name, altered):
    settings = {"placement": "split+hybrid"}
    assert four_ranks.run(_check, settings, 4, name, altered) == [None] * 4


def _check_on_other_kinds(altered):
    """As ``_check``, where each rank computes on a device of its own kind."""
    kind = f"kind {torch.distributed.get_rank()}"
    with patch.object(agreement, "kind_of", lambda device: kind):
        return _check({"placement": "ddp"}, 2, "fc6.weight", altered)


def test_devices_that_round_differently_are_not_compared(two_ranks):
    assert two_ranks.run(_check_on_other_kinds, 1) == [None, None]


def _open_images(lengths):
    """The lengths of a rank's sets and of its test set, or the errors; each has its own length."""
    mesh = Mesh.over_running_group(Config().plan(2), torch.device("cpu"))
    data = DataConfig(name="synthetic", synthetic_length=lengths[mesh.rank])
    found: list[str | list[int]] = []
    for opened in (lambda: open_sets(data, mesh), lambda: [open_test_set(data, mesh)]):
        try:
            found.append([len(each) for each in opened()])
        except ReportedError as error:
            found.append(str(error))
    return found


def test_ranks_with_different_data_are_told_so(two_ranks):
    assert two_ranks.run(_open_images, (20, 20)) == [[[20, 5], [5]]] * 2
    first, second = two_ranks.run(_open_images, (20, 30))
    assert first == second
    both, test_alone = first
    assert {"20", "30"} <= set(re.findall(r"\d+", both))
    assert {"5", "7"} <= set(re.findall(r"\d+", test_alone))
