"""The proof of the placements holds on real ranks, and fails where a collective is wrong."""

from unittest.mock import patch

import pytest

from checking.equality import check_placements, fitting
from checking.steps import Trainings, small_config
from distributed import collectives, overlap, replication
from distributed.device import Started
from tests.ranks import mesh_of

HYBRIDS = {f"hybrid ({scheme})" for scheme in "abc"}
SPLITS = {"split", "split, LRN across ranks", "dense split"}


def trainings(ranks):
    return Trainings(mesh_of(small_config(ranks, "fp32", placement="ddp").plan(ranks)))


def outcomes_of(ranks, wrong=None):
    """(names of the placements that hold, those that fail, those that need other ranks)."""
    with patch.object(*WRONG[wrong]) if wrong else patch.dict({}):
        found = list(check_placements(trainings(ranks)))
    return [{each.name for each in found if each.holds is holds} for holds in (True, False, None)]


def _without_summing(state, bucket):
    return replication.all_done([], bucket.buffer().device, state.copies.group).then(
        lambda _: bucket.buffer()
    )


def _scaled(started):
    return _WAIT(started) * 1.0001


_WAIT = Started.wait
WRONG = {
    "sum of gradients": (replication, "_sum_bucket", _without_summing),
    "sum of logits": (collectives._AllReduce, "forward", staticmethod(lambda ctx, x, ranks: x)),
    "gradient of a gather": (overlap._Convolution, "weight_gradient", lambda *_: _[1] * 0),
    "exchange of images": (Started, "wait", _scaled),
}


def test_one_rank_has_no_placement_to_prove(one_rank):
    [(holds, fails, others)] = one_rank.run(outcomes_of, 1)
    assert not holds | fails
    assert len(others) == 13


def test_every_placement_that_fits_takes_the_steps_of_one_process(two_ranks):
    everyone = two_ranks.run(outcomes_of, 2)
    holds, fails, others = everyone[0]
    assert everyone == [everyone[0]] * 2
    assert holds == {"ddp"} | SPLITS | HYBRIDS
    assert not fails
    assert len(holds | others) == 13


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [("sum of gradients", {"ddp"}), ("exchange of images", HYBRIDS), ("sum of logits", SPLITS)],
)
def test_a_wrong_collective_fails_the_placements_that_use_it(two_ranks, wrong, failing):
    everyone = two_ranks.run(outcomes_of, 2, wrong)
    assert everyone == [everyone[0]] * 2
    assert failing <= everyone[0][1]


@pytest.mark.parametrize(("ranks", "number"), [(1, 0), (2, 7), (3, 5), (4, 13), (8, 13)])
def test_more_ranks_allow_more_placements(ranks, number):
    fit, others = fitting(ranks, "fp32")
    assert (len(fit), len(fit) + len(others)) == (number, 13)
