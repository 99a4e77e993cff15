"""The hybrid in turns: times from bytes and links, by hand for two devices."""

import pytest

from benchmarks.halves import Device, Halves, hybrid_step
from planning.formulas import Net

NET = Net("torchvision", 1, 3, 224, 1000)
FAST = Halves(4, 1e15, 1e15)


def test_an_exchange_and_a_ring_take_the_slow_way_only_between_the_halves():
    halves = Halves(size=4, within=6.0, across=3.0)
    assert halves.exchange(3, 4) == pytest.approx(3 / 6)
    assert halves.exchange(7, 8) == pytest.approx(3 / 6 + 4 / 3)
    assert halves.ring(6, 4) == pytest.approx(1)
    assert halves.ring(6, 8) == pytest.approx(2)


def test_with_links_that_take_no_time_a_rank_saves_the_update_of_what_others_hold():
    device = Device(0.4, 128, 1e9)
    fc = (9216 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    saved = hybrid_step(NET, device, FAST, 4, True) - hybrid_step(NET, device, FAST, 4)
    assert saved == pytest.approx(0.75 * fc * 20 / 1e9, rel=1e-6)


def test_two_devices_by_hand():
    device, rate = Device(10.0, 128, 1e30), 6e9
    features = 128 * 9216 * 4  # what a rank sends in its turn; as much comes back
    hidden = features  # half of the sending: that for the second turn
    together = 128 * (4096 + 1000) * 2 * 4
    conv = 2_469_696 * 4  # 2 (K - 1)/K of the gradients
    expected = (2 * 2 * features - hidden + together + conv) / rate
    assert hybrid_step(NET, device, Halves(4, rate, rate), 2) - 10 == pytest.approx(expected)


def test_more_devices_take_longer_and_slower_links_too():
    device = Device(0.4, 128, 200e9)
    steps = [hybrid_step(NET, device, Halves(4, 6e9, 3e9), ranks) for ranks in (2, 4, 8)]
    assert steps == sorted(steps)
    assert hybrid_step(NET, device, Halves(4, 3e9, 1e9), 8) > steps[-1]
