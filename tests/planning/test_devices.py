"""Machines of the tables of known devices and links."""

from dataclasses import replace

import pytest

from common.errors import ReportedError
from planning.devices import DEVICES, PUBLISHED_FLOP, WIRES, known_machine
from planning.job import Job
from planning.prediction import predict
from tests.planning.machines import PAPER
from tests.planning.plans import LOCAL

JOB = Job(PAPER, 64)


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_does_the_published_arithmetic_on_large_batches(device):
    machine = known_machine(device, "fp32", JOB, 8, "nvlink", "100gbe")
    found = predict(replace(JOB, batch=2**14), LOCAL, machine)
    flops = PAPER.flops() * 2**14 / found.compute
    assert flops == pytest.approx(
        DEVICES[device].images_per_second["fp32"] * PUBLISHED_FLOP, rel=0.05
    )
    assert machine.source == "data sheet"


@pytest.mark.parametrize(("moments", "moved"), [(0, 12), (1, 20), (2, 28)])
def test_an_update_takes_the_time_of_its_bytes(moments, moved):
    machine = known_machine("v100", "fp32", replace(JOB, moments=moments), 8, "nvlink", "100gbe")
    assert machine.work[0].optimizer.each == moved / 900e9


@pytest.mark.parametrize("wire", WIRES)
def test_a_link_is_that_of_the_table(wire):
    machine = known_machine("a100", "bf16", JOB, 4, "nvswitch", wire)
    assert machine.between["exchange"].model_dump() == WIRES[wire]._asdict()


@pytest.mark.parametrize(
    ("device", "precision", "wire", "named"),
    [
        ("a200", "fp32", "nvlink", "a200"),
        ("k80", "bf16", "nvlink", "bf16"),
        ("v100", "bf16", "nvlink", "bf16"),
        ("a100", "fp64", "nvlink", "fp64"),
        ("a100", "fp32", "string", "string"),
    ],
)
def test_what_is_not_known_is_named(device, precision, wire, named):
    with pytest.raises(ReportedError) as caught:
        known_machine(device, precision, JOB, 8, wire, "100gbe")
    assert named in str(caught.value)
