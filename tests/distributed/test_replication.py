"""Summing the gradients of a stage's copies, on real ranks whose losses differ."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distributed import replication
from distributed.collectives import Ranks
from distributed.device import all_done
from distributed.replication import replicate, summing
from distributed.timer import StepTimer

POOLS = {2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}
NUMBERS = 64 * 32 + 32
"""The parameters of the stage."""


@pytest.fixture(params=POOLS, ids=lambda size: f"{size} ranks")
def pool(request):
    """Two to four ranks."""
    return request.getfixturevalue(POOLS[request.param])


def _copies():
    return Ranks(dist.group.WORLD, StepTimer(torch.device("cpu"))).at("gradients")  # type: ignore[arg-type]


def _stage():
    torch.manual_seed(0)
    return nn.Linear(64, 32)


def _input(rank, part=0):
    return torch.randn(2, 64, generator=torch.Generator().manual_seed(10 * rank + part))


def _loss(stage, rank, part=0):
    return (stage(_input(rank, part)).sin() * (1 + rank)).sum()


def _expected(parts=(0,)):
    """The gradient of the sum of all ranks' losses, in one process."""
    stage = _stage()
    everyone = range(dist.get_world_size())
    total = torch.stack([_loss(stage, rank, part) for rank in everyone for part in parts]).sum()
    (gradient,) = torch.autograd.grad(total, stage.weight)
    return gradient


def _error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def _fail(fault):
    """The error of backward if the sum of its gradients ends in ``fault``; None without one."""
    failed: torch.futures.Future[None] = torch.futures.Future()
    failed.set_exception(fault)
    replica = replicate(_stage(), _copies(), compress=False)
    with patch.object(
        replication, "all_done", lambda works, *_: [w.wait() for w in works] and failed
    ):
        try:
            _loss(replica, dist.get_rank()).backward()
        except RuntimeError as error:
            return str(error)
    return None


def test_a_sum_that_fails_fails_the_backward_pass(two_ranks):
    for said in two_ranks.run(_fail, RuntimeError("connection closed")):
        assert "connection closed" in said


def _sum(compress):
    """The summed gradient, its error, and the bytes of each of two steps."""
    stage, copies = _stage(), _copies()
    replica = replicate(stage, copies, compress=compress)
    for _ in range(2):
        replica.zero_grad()
        _loss(replica, dist.get_rank()).backward()
    return stage.weight.grad, _error(stage.weight.grad, _expected()), dict(copies.timer.sent)


@pytest.mark.parametrize(("compress", "size", "error"), [(False, 4, 1e-6), (True, 2, 2**-6)])
def test_gradients_are_summed_and_the_bytes_sent_are_counted(pool, compress, size, error):
    n = len(pool.pipes)
    results = pool.run(_sum, compress)
    for gradient, found, sent in results:
        assert torch.equal(gradient, results[0][0])
        assert found < error
        assert sent == {"gradients": pytest.approx(2 * 2 * (n - 1) / n * size * NUMBERS)}
    assert compress == (results[0][1] > 1e-5), "as bf16, digits are lost"


def _sum_as_on_a_shared_gpu():
    with patch.object(replication, "all_done", _all_done_on_a_gpu):
        return _sum(False)


def _all_done_on_a_gpu(works, device, group):
    return all_done(works, torch.device("cuda"), group)


def test_gradients_of_gpus_that_ranks_share_are_summed(two_ranks):
    for _, error, _ in two_ranks.run(_sum_as_on_a_shared_gpu):
        assert error < 1e-6


def _accumulate():
    """The own gradients' sum before it travels, the whole one, and the bytes of both parts."""
    stage, copies = _stage(), _copies()
    replica, rank = replicate(stage, copies, compress=False), dist.get_rank()
    with summing(replica, False):
        _loss(replica, rank).backward()
    alone = _stage()
    _loss(alone, rank).backward()
    own, before = _error(stage.weight.grad, alone.weight.grad), dict(copies.timer.sent)
    with summing(replica, True):
        _loss(replica, rank, 1).backward()
    whole = _error(stage.weight.grad, _expected((0, 1)))
    return own, before, whole, copies.timer.sent["gradients"]


def test_gradients_wait_until_their_sum_is_wanted_and_travel_once(pool):
    n = len(pool.pipes)
    for own, before, whole, sent in pool.run(_accumulate):
        assert own < 1e-6
        assert before == {}
        assert whole < 1e-6
        assert sent == pytest.approx(2 * (n - 1) / n * 4 * NUMBERS)


def _booked(ends_backward):
    """The parts of the time of a backward pass."""
    copies = _copies()
    replica = replicate(_stage(), copies, compress=False, ends_backward=ends_backward)
    with copies.timer.part("backward"):
        _loss(replica, dist.get_rank()).backward()
    return {name for name, seconds in copies.timer.take().cost().parts.items() if seconds}


@pytest.mark.parametrize(
    ("ends_backward", "parts"),
    [(True, {"backward", "gradient_communication"}), (False, {"backward"})],
)
def test_only_the_stage_that_ends_backward_books_what_is_not_hidden(
    two_ranks, ends_backward, parts
):
    assert two_ranks.run(_booked, ends_backward) == [parts] * 2


def _in_groups():
    """The error against the losses of the own group of two neighbours."""
    group, _ = dist.new_subgroups_by_enumeration([[0, 1], [2, 3]])
    stage, rank = _stage(), dist.get_rank()
    copies = Ranks(group, StepTimer(torch.device("cpu")))  # type: ignore[arg-type]
    replica = replicate(stage, copies, compress=False)
    _loss(replica, rank).backward()
    alone, first = _stage(), rank // 2 * 2
    (_loss(alone, first) + _loss(alone, first + 1)).backward()
    return _error(stage.weight.grad, alone.weight.grad)


def test_gradients_are_summed_over_the_copies_alone(four_ranks):
    assert max(four_ranks.run(_in_groups)) < 1e-6


def _single():
    stage, copies = _stage(), _copies()
    replica = replicate(stage, copies, compress=True)
    with summing(replica, False):
        _loss(replica, 0).backward()
    return replica is stage, _error(stage.weight.grad, _expected()), dict(copies.timer.sent)


def test_a_single_copy_stays_as_it_is_and_sends_nothing(one_rank):
    assert one_rank.run(_single) == [(True, 0.0, {})]
