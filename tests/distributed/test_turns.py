"""A hybrid's turns: which images each has, and what travels when."""

import itertools
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from distributed import collectives
from distributed.placement import MeshPlacement
from distributed.plan import Grid, Plan
from distributed.schemes import SCHEMES
from distributed.turns import overlapped_turns, plain_turns, plan_turns, take_turns
from model.placement import Reads
from tests.ranks import mesh_of

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
