"""Decisions before any process group exists."""

import pytest

from common.errors import ReportedError
from distributed.mesh import plan_mesh


@pytest.mark.parametrize(
    ("world", "towers", "placement", "replicas", "ranks"),
    [
        (1, 2, "auto", 1, 1),
        (2, 2, "auto", 1, 2),
        (4, 2, "auto", 2, 2),
        (4, 4, "auto", 1, 4),
        (3, 2, "auto", 3, 1),
        (2, 1, "auto", 2, 1),
        (4, 2, "local", 4, 1),
        (8, 2, "split", 4, 2),
    ],
)
def test_world_size_decides_the_mesh(world, towers, placement, replicas, ranks):
    plan = plan_mesh(world, towers, placement)
    assert (plan.replicas, plan.ranks_per_replica) == (replicas, ranks)


@pytest.mark.parametrize(("world", "towers"), [(1, 2), (3, 2), (2, 1), (2, 4)])
def test_an_impossible_split_names_the_numbers(world, towers):
    with pytest.raises(ReportedError, match=f"{world} ranks and {towers} towers"):
        plan_mesh(world, towers, "split")


def test_the_picture_shows_every_rank_and_tower():
    picture = plan_mesh(4, 2, "auto").picture()
    assert picture.splitlines() == [
        "  replica 0  [ rank 0: tower 0 ] <-> [ rank 1: tower 1 ]",
        "  replica 1  [ rank 2: tower 0 ] <-> [ rank 3: tower 1 ]",
    ]
