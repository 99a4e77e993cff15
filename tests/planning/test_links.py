"""Links: rates that are shared, and the time of a message."""

import pytest

from planning.links import Link, messages_of, ring_bytes


@pytest.mark.parametrize(("senders", "rate"), [(1, 10.0), (2, 10.0), (4, 5.0), (8, 2.5)])
def test_senders_share_what_a_node_can_send(senders, rate):
    assert Link(latency=0, bandwidth=10, shared=20).rate(senders) == rate


def test_a_link_that_is_not_shared_is_as_fast_for_many():
    assert Link(latency=0, bandwidth=10).rate(1000) == 10


def test_the_time_is_of_the_messages_and_of_the_bytes():
    assert Link(latency=0.5, bandwidth=10, shared=20).seconds(30, 3, senders=4) == 1.5 + 6


@pytest.mark.parametrize(("ranks", "sent"), [(1, 0), (2, 100), (4, 150)])
def test_a_ring_sends_almost_twice_the_tensor(ranks, sent):
    assert ring_bytes(100, ranks) == sent


def test_a_ring_goes_round_twice_and_an_exchange_once():
    assert (messages_of("all_reduce", 4), messages_of("exchange", 4)) == (6, 3)
