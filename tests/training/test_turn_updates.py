"""Updates of the classifier after each turn (Krizhevsky 2014, section 4.2).

They are compared with a program in one process, ``_one_process``, which is written out here.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from common.errors import ReportedError
from data.loading import Batch
from distributed.schemes import SCHEMES
from model.alexnet import AlexNet
from model.initialization import initialize
from model.keyed_random import image_keys
from model.placement import Placement
from tests.ranks import mesh_of
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.trainer import Trainer, build_model

POOLS = {2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}
CLASSES = 5
RATES = {"features": 0.02, "classifier": 0.05}
MOMENTUM, DECAY = 0.9, 0.01
ONE_RATE = {
    "learning_rate": RATES["features"],
    "classifier_updates": "turn",
    "momentum": MOMENTUM,
    "weight_decay": DECAY,
}
STEP_SHARES: dict[int, list[tuple[int, ...]]] = {
    2: [(3, 2), (1, 4), (2, 2), (3, 0), (1, 1)],
    3: [(2, 2, 2), (3, 1, 2), (2, 2, 1), (0, 4, 1), (1, 0, 0)],
    4: [(2, 2, 1, 1), (1, 0, 3, 2), (0, 1, 2, 0), (2, 2, 2, 2), (1, 1, 0, 0)],
}
"""Images of each replica, step by step; some turns of scheme c are without any."""


def _config(variant, towers, placement, settings):
    return Config.model_validate(
        {
            "variant": variant,
            "towers": towers,
            "placement": placement,
            "precision": "fp64",
            "net": {"hidden": 24},
            "data": {"size": 64, "resize": 72, "mean": 100.0, "std": 20.0, "mirror": True},
            "optimizer": {**ONE_RATE, "classifier_learning_rate": RATES["classifier"]},
            "schedule": {"name": "one_cycle"},
            **settings,
        }
    )


def _global_batch(step, count):
    draw = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    return Batch(images, labels, torch.arange(count) + 100 * step)


def _trained(config, world_size, all_shares):
    """Losses, full weights on rank 0, and the bytes that the ranks sent in the last step."""
    mesh = mesh_of(config.plan(world_size))
    model = build_model(config, mesh, CLASSES, 1)
    trainer = Trainer(config, mesh, model, make_preprocess(config, 1), len(all_shares))
    losses = []
    for step, shares in enumerate(all_shares):
        batch = _global_batch(step, sum(shares))
        parts = (each.split(shares)[mesh.replica] for each in batch)
        local = LocalBatch(Batch(*parts), batch.indices.split(shares), sum(shares))
        losses.append(trainer.train_step(local).result().loss)
    weights = {
        name: trainer.placement.unshard(name, p.detach().contiguous())
        for name, p in model.named_parameters()
    }
    return losses, weights if mesh.is_main else {}


def _one_cycle(highest, step, steps):
    """The rate of a step: from 1/25 of the highest, along a cosine, and to 1/10⁴ of the first."""

    def along_cosine(start, end, part):
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2

    peak = 0.3 * (steps + 1) - 1
    if step <= peak:
        return along_cosine(highest / 25, highest, step / peak)
    return along_cosine(highest, highest / 25 / 1e4, (step - peak) / (steps - peak))


@torch.no_grad()
def _sgd(parameters, velocities, rate, images=1):
    """Update with the gradient divided by the number of ``images`` over which it was summed."""
    for name, parameter in parameters.items():
        gradient = parameter.grad / images + DECAY * parameter
        velocities[name] = MOMENTUM * velocities.get(name, 0) + gradient
        parameter -= rate * velocities[name]
        parameter.grad = None


def _turns_of(scheme, shares, feeds):
    """The positions, in the global batch, of each turn's images; all copies take a turn at once."""
    positions = torch.arange(sum(shares)).split(shares)
    copies = [SCHEMES[scheme](shares[f : f + feeds]) for f in range(0, len(shares), feeds)]
    for together in zip(*copies, strict=True):
        rows = [each for turn in together for each in turn]
        yield torch.cat([own[each] for own, each in zip(positions, rows, strict=True)])


def _one_process(config, feeds, all_shares):
    """Losses and weights: features once, then a forward, backward and update for each turn."""
    model = AlexNet(config.form, CLASSES, 1, Placement(config.towers))
    initialize(model, config.seed)
    model = model.double().train()
    parameters = dict(model.named_parameters())
    features = {name: p for name, p in parameters.items() if name.startswith("conv")}
    classifier = {name: p for name, p in parameters.items() if name.startswith("fc")}
    preprocess = make_preprocess(config, 1)
    rate = config.optimizer.learning_rate
    highest = {"features": rate, "classifier": config.optimizer.classifier_learning_rate or rate}
    velocities: dict[str, torch.Tensor] = {}
    losses = []
    for step, shares in enumerate(all_shares):
        batch, count = _global_batch(step, sum(shares)), sum(shares)
        rates = {stage: _one_cycle(rate, step, len(all_shares)) for stage, rate in highest.items()}
        keys = image_keys(config.seed, 0, batch.indices)
        x = model.features(preprocess(batch.images, keys), keys)
        gradient, loss_sum = torch.zeros_like(x), 0.0
        for turn in _turns_of(config.classifier_scheme, shares, feeds):
            if len(turn) == 0:
                continue
            read = x.detach()[turn].requires_grad_()
            logits = model.classify(read, keys[turn])
            loss = F.cross_entropy(logits, batch.labels[turn], reduction="sum")
            loss.backward()
            loss_sum += loss.item()
            gradient[turn] = read.grad / count
            _sgd(classifier, velocities, rates["classifier"], len(turn))
        x.backward(gradient)
        _sgd(features, velocities, rates["features"])
        losses.append(loss_sum / count)
    return losses, {name: p.detach() for name, p in parameters.items()}


def _relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def _equals_one_process(pool, config, feeds):
    ranks = len(pool.pipes)
    all_shares = [shares[: config.plan(ranks).features.replicas] for shares in STEP_SHARES[ranks]]
    results = pool.run(_trained, config, ranks, all_shares)
    losses, weights = _one_process(config, feeds, all_shares)
    for found, _ in results:
        assert found == pytest.approx(losses, rel=1e-13)
    found = results[0][1]
    assert found.keys() == weights.keys()
    assert max(_relative_error(found[name], weights[name]) for name in weights) <= 1e-13


TURN_RUNS = [
    *(("torchvision", 1, ranks, scheme, {}) for ranks in (2, 3, 4) for scheme in "bc"),
    *(("torchvision", 1, 4, scheme, {"classifier_ranks": 2}) for scheme in "bc"),
    *(("torchvision", 1, 2, scheme, {"optimizer": ONE_RATE}) for scheme in "bc"),
    ("paper", 2, 2, "c", {}),
    ("paper", 2, 3, "b", {"overlap_communication": False}),
]


@pytest.mark.parametrize(("variant", "towers", "ranks", "scheme", "settings"), TURN_RUNS)
def test_updates_after_each_turn_are_those_of_one_process(
    request, variant, towers, ranks, scheme, settings
):
    settings = {"classifier_scheme": scheme, **settings}
    config = _config(variant, towers, "hybrid", settings)
    feeds = settings.get("classifier_ranks", ranks)
    _equals_one_process(request.getfixturevalue(POOLS[ranks]), config, feeds)


@pytest.mark.parametrize("scheme", "bc")
def test_updates_after_each_turn_of_split_features_are_those_of_one_process(four_ranks, scheme):
    config = _config("paper", 2, "split+hybrid", {"classifier_scheme": scheme})
    _equals_one_process(four_ranks, config, 2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("classifier_scheme", "a"),
        ("precision", "fp16"),
        ("optimizer", {"classifier_updates": "turn", "gradient_accumulation": 2}),
    ],
)
def test_updates_after_each_turn_refuse_what_they_cannot_do(setting, value):
    with pytest.raises(ValidationError) as caught:
        _config("torchvision", 1, "hybrid", {"classifier_scheme": "b", setting: value})
    assert "classifier_updates=turn" in str(caught.value)


@pytest.mark.parametrize("placement", ["auto", "ddp", "split"])
def test_updates_after_each_turn_need_a_hybrid(placement):
    config = _config("torchvision", 2, placement, {"classifier_scheme": "b"})
    with pytest.raises(ReportedError, match=placement):
        config.plan(2)
