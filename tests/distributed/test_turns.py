"""A hybrid's turns: which images each has, what travels when, and updates after each turn.

Updates are compared with a program in one process, ``_one_process``, which is written out here.
"""

import itertools
import json
import math
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from common.errors import ReportedError
from data.loading import Batch
from distributed import collectives
from distributed.placement import MeshPlacement
from distributed.plan import Grid, Plan
from distributed.schemes import SCHEMES
from distributed.turns import overlapped_turns, plain_turns, plan_turns, take_turns
from model.alexnet import AlexNet
from model.initialization import initialize
from model.keyed_random import image_keys
from model.placement import Placement, Reads
from tests.ranks import mesh_of
from training.batches import LocalBatch, make_preprocess
from training.config import Config, OptimizerConfig, ScheduleConfig
from training.optimization import SCHEDULES, Schedule, make_optimizer
from training.trainer import Trainer, build_model

POOLS = {2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}
FORMS = {"plain": plain_turns, "overlapped": overlapped_turns}

# --- The images of each turn ----------------------------------------------------------------------

MANY_SHARES = [
    shares for replicas in range(1, 5) for shares in itertools.product(range(7), repeat=replicas)
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_schemes_turns_take_every_image_once_and_in_order(scheme):
    for shares in MANY_SHARES:
        turns = SCHEMES[scheme](shares)
        for replica, share in enumerate(shares):
            taken = [image for rows in turns for image in range(share)[rows[replica]]]
            assert taken == list(range(share))


def _sizes(scheme, shares):
    """The number of images of each replica in each turn."""
    return [[rows.stop - rows.start for rows in turn] for turn in SCHEMES[scheme](shares)]


def test_each_schemes_turns_are_those_of_the_paper():
    for shares in MANY_SHARES:
        replicas = len(shares)
        assert _sizes("a", shares) == [list(shares)]
        assert _sizes("b", shares) == [
            [share * (turn == replica) for replica, share in enumerate(shares)]
            for turn in range(replicas)
        ]
        parts = torch.tensor(_sizes("c", shares))  # (turns, replicas)
        assert len(parts) == replicas
        assert (parts.amax(0) - parts.amin(0) <= 1).all()


def _planned(plan, scheme, shares):
    return plan_turns(scheme, shares, mesh_of(plan))


GROUPS = Plan(1, Grid(1, 4), Grid(2, 2))


@pytest.mark.parametrize(
    ("scheme", "images", "shares"),
    [
        ("a", [10], [[[3, 1]], [[2, 4]]]),
        ("b", [5, 5], [[[3, 0], [0, 1]], [[2, 0], [0, 4]]]),
        ("c", [6, 4], [[[2, 1], [1, 0]], [[1, 2], [1, 2]]]),
    ],
)
def test_a_turn_counts_the_images_of_all_copies_of_the_classifier(
    four_ranks, scheme, images, shares
):
    for rank, turns in enumerate(four_ranks.run(_planned, GROUPS, scheme, [3, 1, 2, 4])):
        assert [turn.images for turn in turns] == images
        assert [turn.shares for turn in turns] == shares[rank // 2]
        assert [turn.own for turn in turns] == [turn.rows[rank % 2] for turn in turns]
        assert [turn.is_last for turn in turns] == [False] * (len(turns) - 1) + [True]


def test_a_turn_picks_its_images_one_replica_after_the_other(two_ranks):
    plan = Plan(1, Grid(1, 2), Grid(2, 1))
    turns = two_ranks.run(_planned, plan, "c", [3, 2])[0]
    images = [torch.tensor([10, 11, 12]), torch.tensor([20, 21])]
    assert [turn.pick(images).tolist() for turn in turns] == [[10, 11, 20], [12, 21]]


# --- Features and their gradients -----------------------------------------------------------------

UNITS = 4
PLANS = {
    "2 ranks": Plan(1, Grid(1, 2), Grid(2, 1)),
    "3 ranks": Plan(1, Grid(1, 3), Grid(3, 1)),
    "4 ranks": Plan(1, Grid(1, 4), Grid(4, 1)),
    "2 groups of 2 ranks": GROUPS,
    "2 towers on 2 ranks": Plan(2, Grid(1, 2), Grid(2, 1)),
    "2 replicas of 2 shards": Plan(1, Grid(2, 2), Grid(4, 1)),
    "2 replicas of 2 towers": Plan(2, Grid(2, 2), Grid(4, 1)),
}
TURN_SHARES = {
    "equal": [2, 2, 2, 2],
    "unequal": [3, 1, 2, 4],
    "without images": [2, 0, 1, 0],
    "first without images": [0, 3, 1, 2],
}


def _all_features(shares, units):
    """The features of every replica's images, (B, units) each."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(n, units, dtype=torch.float64, generator=draw) for n in shares]


def _work(plan, form, scheme, shares):
    """The turns' features, the gradient of the own ones, and the bytes sent.

    fc6 reads its own tower; the loss of each rank and turn has a weight of its own.
    """
    mesh = mesh_of(plan)
    placement = MeshPlacement(mesh)
    placement.first_linear(UNITS, 12, Reads.OWN)
    columns = placement.features.units(UNITS)
    own = _all_features(shares, UNITS)[mesh.replica][:, columns.start : columns.stop]
    own.requires_grad_()
    found = []
    for _, features in FORMS[form](own * 1, plan_turns(scheme, shares, mesh), placement):
        found.append(features.detach().clone())
        weight = (1 + mesh.rank) * (1 + len(found))
        (features.sin() * weight).sum().backward()
    return found, own.grad, dict(mesh.timer.sent), placement.fc6_inputs


def _expected(plan, scheme, shares, inputs):
    """What ``_work`` should find on each rank; ``inputs`` are the columns of each rank's fc6."""
    whole = _all_features(shares, UNITS)
    each = UNITS // plan.features.shards
    features, gradients = [], []
    for rank in range(plan.world_size):
        copy = rank // plan.classifier.shards
        fed = slice(copy * plan.feeds, (copy + 1) * plan.feeds)
        turns = SCHEMES[scheme](shares[fed])
        columns = slice(inputs[rank].start, inputs[rank].stop)
        rows = [zip(whole[fed], turn, strict=True) for turn in turns]
        features.append([torch.cat([x[own] for x, own in turn])[:, columns] for turn in rows])
        replica, shard = divmod(rank, plan.features.shards)
        gradient = torch.zeros_like(whole[replica])
        for number, turn in enumerate(turns):
            own = turn[replica - fed.start]
            for reader in range(copy * plan.classifier.shards, (copy + 1) * plan.classifier.shards):
                read = slice(inputs[reader].start, inputs[reader].stop)
                gradient[own, read] += (1 + reader) * (2 + number) * whole[replica][own, read].cos()
        gradients.append(gradient[:, shard * each : (shard + 1) * each])
    return features, gradients


@pytest.mark.parametrize("shares", TURN_SHARES.values(), ids=list(TURN_SHARES))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_both_forms_hand_out_each_turns_features_and_return_every_gradient(
    request, plan, scheme, shares
):
    pool = request.getfixturevalue(POOLS[plan.world_size])
    shares = shares[: plan.features.replicas]
    plain, overlapped = (pool.run(_work, plan, form, scheme, shares) for form in FORMS)
    features, gradients = _expected(plan, scheme, shares, [result[3] for result in plain])
    for rank in range(plan.world_size):
        for found in (plain[rank], overlapped[rank]):
            assert len(found[0]) == len(features[rank])
            assert all(map(torch.equal, found[0], features[rank]))
            torch.testing.assert_close(found[1], gradients[rank], rtol=1e-13, atol=1e-13)
        assert torch.equal(plain[rank][1], overlapped[rank][1])
        assert plain[rank][2] == overlapped[rank][2]


class _Recorded:
    """A collective under way; whoever waits for it is written into ``events``."""

    def __init__(self, started, events, name):
        self.started, self.events, self.name = started, events, name

    def wait(self):
        self.events.append(f"{self.name} awaited")
        return self.started.wait()


def _recording(events, name, start):
    numbers = itertools.count()

    def started(*arguments):
        what = f"{name} {next(numbers)}"
        events.append(f"{what} leaves")
        return _Recorded(start(*arguments), events, what)

    return started


def _events(scheme, shares, overlap):
    """What happens on this rank, in order: features 0 leave, are awaited, are worked on, …"""
    n = dist.get_world_size()
    mesh = mesh_of(Plan(1, Grid(1, n), Grid(n, 1)))
    placement = MeshPlacement(mesh, overlap=overlap)
    placement.first_linear(UNITS, 12, Reads.ALL)
    own = _all_features(shares, UNITS)[mesh.replica].requires_grad_()
    events: list[str] = []
    with (
        patch.object(
            collectives, "start_gather", _recording(events, "features", collectives.start_gather)
        ),
        patch.object(
            collectives, "start_sum", _recording(events, "gradients", collectives.start_sum)
        ),
    ):
        turns = plan_turns(scheme, shares, mesh)
        for number, (_, features) in enumerate(take_turns(own * 1, turns, placement)):
            events.append(f"turn {number}")
            features.sin().sum().backward()
    return events


@pytest.mark.parametrize("shares", [[2, 2, 2], [3, 0, 1]])
@pytest.mark.parametrize("scheme", ["b", "c"])
def test_features_travel_a_turn_ahead_and_gradients_are_awaited_after_the_last_turn(
    three_ranks, scheme, shares
):
    for events in three_ranks.run(_events, scheme, shares, True):
        assert events == [
            *("features 0 leaves", "features 1 leaves"),
            *("features 0 awaited", "turn 0", "gradients 0 leaves", "features 2 leaves"),
            *("features 1 awaited", "turn 1", "gradients 1 leaves"),
            *("features 2 awaited", "turn 2", "gradients 2 leaves"),
            *("gradients 0 awaited", "gradients 1 awaited", "gradients 2 awaited"),
        ]


@pytest.mark.parametrize(("scheme", "overlap", "turns"), [("b", False, 2), ("a", True, 1)])
def test_without_overlap_or_a_second_turn_everything_is_awaited_at_once(
    two_ranks, scheme, overlap, turns
):
    for events in two_ranks.run(_events, scheme, [2, 1], overlap):
        expected = [
            f"{what} {n}{verb}"
            for n in range(turns)
            for what, verb in (
                *(("features", " leaves"), ("features", " awaited"), ("turn", "")),
                *(("gradients", " leaves"), ("gradients", " awaited")),
            )
        ]
        assert events == expected


# --- Updates after each turn ----------------------------------------------------------------------

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


def _after_a_nan(config):
    """The number of the classifier's weights that a step with NaN in all activations changes."""
    mesh = mesh_of(config.plan(2))
    model = build_model(config, mesh, CLASSES, 1)
    trainer = Trainer(config, mesh, model, make_preprocess(config, 1), 2)
    assert model.conv1.bias is not None
    nn.init.constant_(model.conv1.bias, math.nan)
    before = [p.detach().clone() for p in model.stages()[1].parameters()]
    batch = _global_batch(0, 6)
    parts = (each.split(3)[mesh.replica] for each in batch)
    trainer.train_step(LocalBatch(Batch(*parts), batch.indices.split(3), 6))
    after = model.stages()[1].parameters()
    return sum(int((old != new).sum()) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("updates", ["step", "turn"])
def test_a_loss_that_is_no_number_changes_no_weight(two_ranks, updates):
    settings = {"classifier_scheme": "b", "optimizer": {"classifier_updates": updates}}
    config = _config("torchvision", 1, "hybrid", settings)
    assert two_ranks.run(_after_a_nan, config) == [0, 0]


def _tested_with_a_nan(config):
    """The status and the words with which an evaluation of weights with NaN ends."""
    mesh = mesh_of(config.plan(2))
    model = build_model(config, mesh, CLASSES, 1)
    trainer = Trainer(config, mesh, model, make_preprocess(config, 1), 2)
    assert model.conv1.bias is not None
    nn.init.constant_(model.conv1.bias, math.nan)
    batch = _global_batch(0, 6)
    parts = (each.split(3)[mesh.replica] for each in batch)
    with pytest.raises(ReportedError) as caught:
        trainer.evaluate([LocalBatch(Batch(*parts), batch.indices.split(3), 6)])
    return caught.value.status, str(caught.value)


def test_a_test_loss_that_is_no_number_is_not_of_a_step(two_ranks):
    config = _config("torchvision", 1, "hybrid", {"classifier_scheme": "b"})
    for status, message in two_ranks.run(_tested_with_a_nan, config):
        assert status == 2
        assert "test loss is nan after step 0" in message


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


# --- The settings ---------------------------------------------------------------------------------


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


def _two_rates(name):
    config = OptimizerConfig(
        learning_rate=RATES["features"], classifier_learning_rate=RATES["classifier"]
    )
    optimizer = make_optimizer(nn.Linear(2, 2), nn.Linear(2, 2), config, may_skip=False)
    return Schedule(optimizer, ScheduleConfig(name=name, patience=0), 12)


def _course(schedule, steps):
    """Both stages' rates in each step."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.after_step()
        schedule.after_evaluation(0.5)
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_stages_rates_move_together_and_go_on_from_a_checkpoint(name):
    whole = _course(_two_rates(name), 10)
    ratio = RATES["classifier"] / RATES["features"]
    assert [high / low for low, high in whole] == pytest.approx([ratio] * 10)
    stopped, resumed = _two_rates(name), _two_rates(name)
    _course(stopped, 4)
    resumed.load_state(json.loads(json.dumps(stopped.state())))
    assert _course(resumed, 6) == whole[4:]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_state_with_the_older_key_of_one_rate_goes_on(name):
    def schedule():
        config = OptimizerConfig(learning_rate=RATES["features"])
        optimizer = make_optimizer(nn.Linear(2, 2), nn.Linear(2, 2), config, may_skip=False)
        return Schedule(optimizer, ScheduleConfig(name=name, patience=0), 12)

    whole = _course(schedule(), 10)
    stopped, resumed = schedule(), schedule()
    _course(stopped, 4)
    state = json.loads(json.dumps(stopped.state()))
    [state["learning_rate"]] = state.pop("learning_rates")
    resumed.load_state(state)
    assert _course(resumed, 6) == whole[4:]
