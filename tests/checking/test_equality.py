"""The proof of the placements holds on real ranks, and fails where a collective is wrong."""

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch

from checking import equality
from checking.equality import cases, check_placements, fitting
from checking.steps import Trainings, small_config
from distributed import collectives, replication
from distributed.device import Started
from tests.ranks import mesh_of

FIT_TWO = {
    *("ddp", "split", "split, LRN across ranks", "dense split"),
    *("hybrid (a)", "hybrid (b)", "hybrid (c)"),
}
_WAIT = Started.wait


def trainings(ranks):
    return Trainings(mesh_of(small_config(ranks, "fp32", placement="ddp").plan(ranks)))


def outcomes_of(ranks, wrong=None, names=None):
    """Names of the placements that hold, those that fail, and those that need other ranks."""
    chosen = [case for case in cases(ranks) if names is None or case.name in names]
    with (
        patch.object(equality, "cases", lambda ranks: chosen),
        patch.object(*WRONG[wrong]) if wrong else nullcontext(),
    ):
        found = list(check_placements(trainings(ranks)))
    return [{each.name for each in found if each.holds is holds} for holds in (True, False, None)]


def _own_gradients(state, bucket):
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


WRONG = {
    "gradients": (replication, "_sum_bucket", _own_gradients),
    "logits": (collectives._AllReduce, "forward", staticmethod(lambda ctx, x, ranks: x.clone())),
    "images": (Started, "wait", lambda started: _WAIT(started) * (1 + 1e-9)),
}


def test_one_rank_has_no_placement_to_prove(one_rank):
    [(holds, fails, others)] = one_rank.run(outcomes_of, 1)
    assert not holds | fails
    assert others >= FIT_TWO


def test_every_placement_that_fits_takes_the_steps_of_one_process(two_ranks):
    everyone = two_ranks.run(outcomes_of, 2)
    holds, fails, others = everyone[0]
    assert everyone == [everyone[0]] * 2
    assert holds == FIT_TWO
    assert not fails
    assert "split+hybrid (a)" in others


@pytest.mark.parametrize(
    ("wrong", "failing"),
    [("gradients", {"ddp"}), ("images", {"hybrid (b)"}), ("logits", {"dense split"})],
)
def test_a_wrong_collective_fails_the_placement_that_uses_it(two_ranks, wrong, failing):
    everyone = two_ranks.run(outcomes_of, 2, wrong, failing)
    assert everyone == [[set(), failing, set()]] * 2


@pytest.mark.parametrize(("ranks", "number"), [(1, 0), (2, 7), (3, 4), (4, 12), (8, 13)])
def test_more_ranks_allow_more_placements(ranks, number):
    fit, others = fitting(ranks, "fp32")
    assert (len(fit), len(fit) + len(others)) == (number, 13)
