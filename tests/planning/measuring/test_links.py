"""Links whose latency and rate are known, measured on real ranks."""

import time
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from distributed.plan import Grid, Plan
from planning.measuring import links
from tests.ranks import mesh_of

LATENCY, RATE = 2e-3, 1e9


def _measure(shared):
    """Links of calls that only sleep: as long as a link of ``RATE`` would take for the bytes.

    With ``shared``, all ranks together send that many times ``RATE``.
    """

    def all_reduce(own, group):
        ranks = group.size()
        sent = 2 * (ranks - 1) / ranks * own.nbytes
        time.sleep(2 * (ranks - 1) * LATENCY + sent / RATE * max(1, ranks / shared))

    size = dist.get_world_size()
    mesh = mesh_of(Plan(1, Grid(1, size), Grid(1, size)))
    pair: Any = dist.new_group([0, 1])
    everyone = mesh.features.copies.group
    some = pair if dist.get_rank() < 2 else None
    with patch.dict(links.CALLS, {"all_reduce": all_reduce}):
        return links.measure_links(mesh, some, everyone, size)


def test_a_known_link_is_found(two_ranks):
    for found in two_ranks.run(_measure, 2):
        link = found["all_reduce"]
        assert link.latency == pytest.approx(LATENCY, rel=0.2)
        assert link.bandwidth == pytest.approx(RATE, rel=0.2)


def test_what_all_ranks_share_is_found(four_ranks):
    for found in four_ranks.run(_measure, 2):
        link = found["all_reduce"]
        assert link.bandwidth == pytest.approx(RATE, rel=0.2)
        assert link.shared == pytest.approx(2 * RATE, rel=0.2)


def _hidden():
    return links.measure_hidden(mesh_of(Plan(1, Grid(1, 2), Grid(1, 2))), size=1 << 20, side=64)


def test_all_ranks_agree_on_what_work_hides(two_ranks):
    first, second = two_ranks.run(_hidden)
    assert first == second
    assert 0 <= first <= 1
