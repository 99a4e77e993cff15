"""What changes the best placement, against the crossing of two lines and closed forms."""

import pytest

from planning.job import Job
from planning.sweep import (
    Space,
    batch_changes,
    changes,
    link_changes,
    scaled,
    scaling,
    slowest_links,
    with_links,
)
from tests.planning.machines import PAPER, make_links, make_machine

SPACE = Space(Job(PAPER, 128), make_machine(within=make_links(1e9)), 2)


def test_a_change_is_found_to_one_part_in_a_hundred():
    [change] = changes(lambda value: "low" if value < 777 else "high", [1, 10, 100, 1000, 10000])
    assert (change.before, change.after) == ("low", "high")
    assert 777 <= change.at <= 777 * 1.01


def test_all_changes_are_found():
    found = changes(lambda value: str(int(value) // 100), [1, 90, 190, 290])
    assert [round(each.at / 100) for each in found] == [1, 2]


def test_two_changes_between_neighbouring_values_are_both_found():
    found = list(changes(lambda value: "ABC"[(value >= 2.2) + (value >= 3)], [1, 2, 4, 8]))
    assert [(each.before, each.after) for each in found] == [("A", "B"), ("B", "C")]
    assert [each.at for each in found] == pytest.approx([2.2, 3.0], rel=0.01)


@pytest.mark.parametrize("find", [batch_changes, link_changes])
def test_on_either_side_of_a_change_is_another_placement(find):
    found = find(SPACE)
    assert found
    for change in found:
        assert change.before != change.after


def test_activations_give_way_to_gradients_as_the_batch_grows():
    """Where the classifier's activations are as many as its gradients, by the closed form."""
    machine = make_machine(within=make_links(1e6), hidden=0.0)
    found = batch_changes(Space(Job(PAPER, 128), machine, 2))
    [change] = [each for each in found if each.before.startswith("hybrid") and each.after == "ddp"]
    assert change.at == pytest.approx(4_097, rel=0.02)


def test_links_are_scaled_with_what_they_share():
    [link] = {scaled(0.5)(each) for each in make_links(10, 1e-3, 20).values()}
    assert (link.bandwidth, link.shared, link.latency) == (5, 10, 1e-3)


@pytest.mark.parametrize(("ranks", "name"), [(8, "within"), (16, "between")])
def test_the_slowest_links_are_changed(ranks, name):
    machine = make_machine(ranks_per_node=8, between=make_links(1e8))
    assert slowest_links(machine, ranks) == name
    changed = with_links(machine, ranks, scaled(2))
    other = {"within": "between", "between": "within"}[name]
    assert getattr(changed, other) == getattr(machine, other)
    assert getattr(changed, name) != getattr(machine, name)


def test_the_batch_of_a_rank_fixed_scales_better_than_the_global_batch():
    fixed = scaling(SPACE, lambda ranks: 128)
    grown = scaling(SPACE, lambda ranks: 64 * ranks)
    assert fixed[0].efficiency == grown[0].efficiency == 1
    assert [row.ranks for row in fixed] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [row.ranks for row in grown][-1] == 1024
    assert fixed[5].efficiency < grown[5].efficiency


def test_ranks_that_fill_no_nodes_or_lack_links_are_left_out():
    threes, alone = make_machine(ranks_per_node=3), make_machine().model_copy(update={"within": {}})
    for machine, ranks in ((threes, [1, 2]), (alone, [1])):
        rows = scaling(Space(Job(PAPER, 128), machine, 1), lambda ranks: 128)
        assert [row.ranks for row in rows] == ranks
