"""The bytes by formula are those that real ranks count, at each boundary."""

from typing import Any

import pytest
import torch

from data.loading import Batch
from distributed.mesh import Mesh
from planning.formulas import Net, bytes_sent, parameters_per_rank
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.precision import PRECISIONS
from training.trainer import Trainer, build_model

CLASSES, SIZE = 10, 64


def take_step(config, world_size):
    """(bytes by boundary, parameters by layer) of this rank, after one step."""
    mesh = Mesh.over_running_group(config.plan(world_size), torch.device("cpu"))
    model = build_model(config, mesh, CLASSES, 1)
    trainer = Trainer(config, mesh, model, make_preprocess(config, 1), 1)
    count, replicas = config.batch_size, mesh.plan.features.replicas
    whole = Batch(
        torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8),
        torch.randint(0, CLASSES, (count,)),
        torch.arange(count),
    )
    own = Batch(*(each.tensor_split(replicas)[mesh.replica] for each in whole))
    local = LocalBatch(own, whole.indices.tensor_split(replicas), count)
    held: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        layer = name.split(".")[0]
        held[layer] = held.get(layer, 0) + parameter.numel()
    return trainer.train_step(local).result().cost.bytes_at, held


def _config(variant, towers, placement, **settings):
    fixed: dict[str, Any] = {
        "variant": variant,
        "towers": towers,
        "placement": placement,
        "batch_size": 12,
        "data": {"size": SIZE, "mean": 100.0, "std": 20.0},
        "net": {"hidden": 48, "meet": settings.pop("meet", None)},
        "optimizer": {"learning_rate": 1e-4},
    }
    return Config.model_validate({**fixed, **settings})


HALVES = {"classifier_ranks": 2}


@pytest.mark.parametrize(
    ("variant", "towers", "placement", "ranks", "settings"),
    [
        ("paper", 2, "ddp", 2, {}),
        ("paper", 1, "ddp", 3, {"precision": "bf16"}),
        ("paper", 2, "ddp", 2, {"compress_gradients": True}),
        ("paper", 2, "split", 2, {}),
        ("paper", 2, "split", 2, {"precision": "bf16"}),
        ("paper", 2, "split", 2, {"precision": "fp64", "meet": []}),
        ("caffe", 2, "split", 2, {}),
        ("caffenet", 2, "split", 2, {}),
        ("zfnet", 2, "split", 2, {}),
        ("paper", 2, "split", 4, {}),
        ("paper", 2, "split", 4, {"compress_gradients": True}),
        ("paper", 4, "split", 2, {}),
        ("paper", 4, "split", 2, {"meet": ["fc7"]}),
        ("paper", 2, "split", 4, {"shards": 4}),
        ("paper", 2, "split", 4, {"shards": 4, "meet": ["fc7"]}),
        ("paper", 1, "split", 2, {}),
        ("caffenet", 1, "split", 4, {"precision": "bf16"}),
        ("torchvision", 1, "split", 4, {}),
        ("d2l", 1, "split", 4, {"shards": 2}),
        ("paper", 2, "hybrid", 2, {"classifier_scheme": "a"}),
        ("paper", 2, "hybrid", 2, {"classifier_scheme": "b", "precision": "bf16"}),
        ("paper", 2, "hybrid", 2, {"classifier_scheme": "c", "meet": ["fc6"]}),
        ("torchvision", 1, "hybrid", 4, {"classifier_scheme": "a", "precision": "bf16"}),
        ("torchvision", 1, "hybrid", 4, {"classifier_scheme": "b"}),
        ("torchvision", 1, "hybrid", 4, {"classifier_scheme": "c"}),
        ("d2l", 2, "hybrid", 3, {"meet": ["conv3", "fc6", "fc7"]}),
        ("d2l", 2, "hybrid", 4, HALVES),
        ("d2l", 1, "hybrid", 4, {**HALVES, "classifier_scheme": "c", "compress_gradients": True}),
        ("d2l", 2, "split+hybrid", 4, {"classifier_scheme": "a"}),
        ("paper", 2, "split+hybrid", 4, {"classifier_scheme": "c"}),
        ("d2l", 2, "ddp", 3, {"batch_size": 13}),
        ("d2l", 2, "hybrid", 3, {"batch_size": 13, "classifier_scheme": "c"}),
        ("d2l", 1, "hybrid", 4, {"batch_size": 3, "classifier_scheme": "b"}),
        ("d2l", 2, "split+hybrid", 4, {"batch_size": 5}),
    ],
)
def test_a_rank_sends_what_the_formula_says(request, variant, towers, placement, ranks, settings):
    pool = request.getfixturevalue({2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}[ranks])
    config = _config(variant, towers, placement, **settings)
    counted, held = pool.run(take_step, config, ranks)[0]
    net, plan = Net(variant, towers, 1, SIZE, CLASSES, config.net.changes), config.plan(ranks)
    precision = PRECISIONS[config.precision]
    gradient = torch.bfloat16 if config.compress_gradients else precision.weights
    sizes = precision.dtype.itemsize, gradient.itemsize
    assert bytes_sent(net, plan, config.batch_size, *sizes) == counted
    assert parameters_per_rank(net, plan) == held
