"""Steps on many devices: what is fitted is what made the rows, and more devices take no less."""

import pytest

from benchmarks.scaling import (
    GROUP,
    NVSWITCH,
    Steps,
    bus_of,
    fit,
    hidden_between,
    limit_of,
    plain_ring,
    predict,
)
from planning.links import Link, ring_bytes

PAYLOAD, COMPUTING = 240e6, 0.1


def made_by(link, hidden=0.0, payload=PAYLOAD):
    """Seconds of a step on N devices, written out."""

    def seconds(devices):
        ring = ring_bytes(payload, devices) / link.rate(min(devices, GROUP))
        return COMPUTING + max(0.0, ring - hidden)

    return seconds


@pytest.mark.parametrize("shared", [None, 40e9, 16e9])
@pytest.mark.parametrize("rate", [3e9, 8e9])
def test_rows_of_a_known_link_are_recovered(rate, shared):
    limit = Link(latency=0, bandwidth=100e9, shared=shared)
    seconds = made_by(Link(latency=0, bandwidth=rate, shared=shared))
    scaling = fit(Steps(seconds(1), seconds(2), PAYLOAD), limit)
    assert scaling.link.bandwidth == pytest.approx(rate)
    assert scaling.hidden == pytest.approx(0)
    for devices in (1, 2, 3, 4, 8, 16):
        assert predict(scaling, devices) == pytest.approx(seconds(devices))


def test_two_payloads_recover_the_hidden_part():
    link = Link(latency=0, bandwidth=6e9)
    long, short = (made_by(link, 0.015, payload) for payload in (PAYLOAD, PAYLOAD / 2))
    steps = Steps(long(1), long(2), PAYLOAD)
    hidden = hidden_between(steps, Steps(short(1), short(2), PAYLOAD / 2))
    assert hidden == pytest.approx(0.015)
    scaling = fit(steps, NVSWITCH, hidden)
    assert [predict(scaling, n) for n in (2, 4, 8)] == pytest.approx([long(n) for n in (2, 4, 8)])


@pytest.mark.parametrize("other", [Steps(1, None, PAYLOAD / 2), Steps(1, 1.1, PAYLOAD)])
def test_nothing_is_known_to_be_hidden_without_two_payloads_on_two_devices(other):
    assert hidden_between(Steps(1, 1.2, PAYLOAD), other) == 0


@pytest.mark.parametrize("two", [COMPUTING, 0.8 * COMPUTING])
def test_two_devices_faster_than_twice_one_take_no_negative_time(two):
    scaling = fit(Steps(COMPUTING, two, PAYLOAD), limit_of("PCIe 3"))
    assert scaling.hidden > 0
    steps = [predict(scaling, devices) for devices in (1, 2, 4, 8)]
    assert steps == sorted(steps)
    assert steps[:2] == pytest.approx([COMPUTING, COMPUTING])
    assert steps[2] > COMPUTING  # the others meet what the devices share


@pytest.mark.parametrize("bus", ["PCIe 2", "PCIe 3", "PCIe 4", "PCIe 5", "NVSwitch"])
@pytest.mark.parametrize("two", [0.09, 0.101, 0.15, 3.0, None])
def test_a_step_is_never_shorter_on_more_devices(two, bus):
    scaling = fit(Steps(COMPUTING, two, PAYLOAD), limit_of(bus), hidden=0.01)
    steps = [predict(scaling, devices) for devices in range(1, 65)]
    assert steps == sorted(steps)


def test_two_devices_are_as_their_row_says():
    for two in (0.101, 0.15, 3.0):
        assert predict(fit(Steps(COMPUTING, two, PAYLOAD), limit_of("PCIe 3")), 2) == (
            pytest.approx(two)
        )


def test_a_shared_link_is_slower_than_the_plain_ring():
    steps = Steps(COMPUTING, 0.112, PAYLOAD)
    assert predict(fit(steps, limit_of("PCIe 3")), 4) > plain_ring(steps, 4)
    assert predict(fit(steps, NVSWITCH), 4) == pytest.approx(plain_ring(steps, 4))


@pytest.mark.parametrize(
    ("name", "bus"),
    [
        ("7742-A100-SXM4-40GB", "NVSwitch"),
        ("7502-A100-PCIE-40GB", "PCIe 4"),
        ("GeForce_RTX_3090", "PCIe 4"),
        ("NVIDIA H100 PCIe", "PCIe 5"),
        ("Tesla K20", "PCIe 2"),
        ("GeForce_RTX_2080_Ti", "PCIe 3"),
        ("something new", "PCIe 3"),
    ],
)
def test_a_name_says_what_joins_devices(name, bus):
    assert bus_of(name) == bus
