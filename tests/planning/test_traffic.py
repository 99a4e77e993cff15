"""The transfers of a plan: their bytes are the formula's, their time that of the links."""

import pytest

from distributed.plan import Grid, Plan
from planning.formulas import Net, bytes_sent
from planning.links import Link
from planning.traffic import Group, Links, Transfer, activations, gradients
from tests.planning.machines import PAPER, make_links
from tests.planning.plans import DDP, HYBRID, LOCAL, SPLIT

FOUR = Plan(2, Grid(2, 2), Grid(4, 1))


@pytest.mark.parametrize("plan", [LOCAL, DDP, SPLIT, HYBRID, FOUR])
@pytest.mark.parametrize("net", [PAPER, Net("caffe", 2, 3, 227, 10), Net("paper", 1, 3, 224, 10)])
def test_the_bytes_are_those_of_the_formula(plan, net):
    expected = bytes_sent(net, plan, 64, 2, 4)
    moved = activations(net, plan, 64, 2)
    found = {name: round(each.sent) for name, each in moved.items()}
    summed = sum(each.sent for each in gradients(net, plan, 4).values())
    assert found == {name: n for name, n in expected.items() if "gradients" not in name}
    assert summed == pytest.approx(
        sum(n for name, n in expected.items() if "gradients" in name), abs=2
    )


def test_ranks_that_meet_are_neighbours_and_copies_are_apart():
    plan = Plan(2, Grid(2, 4), Grid(2, 4))
    assert activations(PAPER, plan, 64, 2)["conv3"].group == Group(2, 1)
    assert {each.group for each in gradients(PAPER, plan, 4).values()} == {Group(4, 2)}


@pytest.mark.parametrize(("spans", "ranks"), [(False, 2), (True, 4)])
def test_borders_are_exchanged_within_a_tower_unless_normalisation_spans_them(spans, ranks):
    plan = Plan(2, Grid(4, 1), Grid(4, 1))
    net = Net("paper", 2, 3, 224, 10, {"lrn_spans_towers": spans})
    moved = activations(net, plan, 64, 2)
    assert moved["norm1"].group == moved["norm2"].group == Group(ranks)
    assert moved["conv2"].group == Group(2)
    assert moved["conv3"].group == Group(4)


@pytest.mark.parametrize(
    ("group", "nodes"),
    [(Group(4), 1), (Group(8), 1), (Group(16), 2), (Group(4, 2), 1), (Group(2, 8), 2)],
)
def test_ranks_lie_on_nodes_in_their_order(group, nodes):
    assert group.nodes(8) == nodes


def _links(between, ranks_per_node=4, within=1000.0, **shared):
    return Links(make_links(within), {"exchange": between, "all_reduce": between}, ranks_per_node)


def test_within_a_node_all_ranks_send_at_once():
    links = Links(make_links(1000.0, 0.0, 2000.0), {}, 4)
    assert links.seconds(Transfer("all_reduce", Group(4), 1000, ranks=4)) == 2.0
    assert links.seconds(Transfer("all_reduce", Group(2), 1000, ranks=4)) == 2.0
    assert links.seconds(Transfer("all_reduce", Group(2), 1000, ranks=2)) == 1.0


@pytest.mark.parametrize(("shared", "seconds"), [(None, 4.0), (4000.0, 4.0), (1000.0, 4.0)])
def test_ranks_in_turn_have_the_link_to_themselves(shared, seconds):
    links = Links(make_links(1000.0, 0.0, shared), {}, 4)
    transfer = Transfer("exchange", Group(4), 1000, ranks=4)
    assert links.seconds(transfer._replace(in_turn=4)) == seconds
    assert links.seconds(transfer) == (seconds if shared == 1000.0 else 1.0)


def test_a_ring_over_nodes_takes_its_bytes_once_over_the_network():
    between = Link(latency=0.0, bandwidth=100, shared=100)
    assert _links(between).seconds(Transfer("all_reduce", Group(8), 1000, ranks=8)) == 10.0


def test_rings_of_shards_share_the_network():
    between = Link(latency=0.0, bandwidth=100, shared=100)
    assert _links(between).seconds(Transfer("all_reduce", Group(4, 2), 1000, ranks=8)) == 20.0


def test_an_exchange_sends_over_the_network_what_others_nodes_get():
    between = Link(latency=0.0, bandwidth=100, shared=100)
    taken = _links(between).seconds(Transfer("exchange", Group(8), 700, ranks=8))
    assert taken == pytest.approx(700 * 4 / 7 / 25)


def test_every_message_has_its_latency():
    links = Links(make_links(1e9, 1.0), {}, 8)
    assert links.seconds(Transfer("all_reduce", Group(4), 0, ranks=4, calls=2)) == 12.0
