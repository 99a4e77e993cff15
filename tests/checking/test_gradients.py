"""Summed gradients are right while a rank is late, and found wrong if nobody waits for it."""

from contextlib import nullcontext
from unittest.mock import patch

import torch

from checking.gradients import check_gradients
from checking.steps import Trainings, small_config
from distributed import replication
from tests.ranks import mesh_of


def _nobody_waits(works, device, group):
    done: torch.futures.Future[None] = torch.futures.Future()
    done.set_result(None)
    return done


def outcomes(ranks, hasty=False):
    """Whether the sums are right, in fp32 and compressed."""
    trainings = Trainings(mesh_of(small_config(ranks, "fp32", placement="ddp").plan(ranks)))
    with patch.object(replication, "all_done", _nobody_waits) if hasty else nullcontext():
        return [outcome.holds for outcome in check_gradients(trainings)]


def test_sums_are_right_while_the_last_rank_is_late(two_ranks):
    assert two_ranks.run(outcomes, 2) == [[True, True]] * 2


def test_sums_that_nobody_waits_for_are_wrong(two_ranks):
    assert two_ranks.run(outcomes, 2, True) == [[False, False]] * 2


def test_one_rank_has_no_sum_to_check(one_rank):
    assert one_rank.run(outcomes, 1) == [[None]]
