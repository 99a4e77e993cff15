"""Summing gradients over replicas, on real ranks."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distributed.collectives import Ranks
from distributed.replication import replicate
from distributed.timer import StepTimer


def _everyone():
    """All ranks, at a boundary of gradients."""
    group = dist.group.WORLD
    assert group is not None
    return Ranks(group, StepTimer(torch.device("cpu")), "fc gradients")


def _sum(compress):
    torch.manual_seed(0)
    model = nn.Linear(64, 32)
    copies = _everyone()
    replica = replicate(model, copies, compress=compress)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(dist.get_rank()))
    for _ in range(2):
        replica.zero_grad()
        replica(x).square().sum().backward()
    alone = nn.Linear(64, 32)
    alone.load_state_dict(model.state_dict())
    (expected,) = torch.autograd.grad(alone(x).square().sum(), alone.weight)
    dist.all_reduce(expected)
    found = model.weight.grad
    assert found is not None
    error = (found - expected).abs().max() / expected.abs().max()
    return found, float(error), copies.timer.take().bytes_at


@pytest.mark.parametrize(("compress", "size", "error"), [(False, 4, 1e-6), (True, 2, 2**-7)])
def test_gradients_are_summed_and_the_bytes_sent_are_counted(two_ranks, compress, size, error):
    results = two_ranks.run(_sum, compress)
    for gradient, found, sent in results:
        assert torch.equal(gradient, results[0][0])
        assert found < error
        assert sent == {"fc gradients": 2 * size * (64 * 32 + 32)}, "in two steps"
    assert compress == (results[0][1] > 1e-5), "as bf16, digits are lost"
