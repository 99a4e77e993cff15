"""What a rank computes: parts of layers, and rows of a machine scaled to them."""

import pytest

from distributed.plan import Grid, Plan
from planning.formulas import parameters_per_rank
from planning.machine import LayerWork, Line
from planning.work import Held, nearest, pace, parts_of
from tests.planning.machines import FLOPS, PAPER, make_machine
from tests.planning.plans import DDP, HYBRID, LOCAL, SPLIT


def test_one_rank_does_all_the_arithmetic():
    assert {name: part.macs for name, part in parts_of(PAPER, LOCAL, 1).items()} == PAPER.macs()


@pytest.mark.parametrize("plan", [DDP, SPLIT, HYBRID])
def test_two_ranks_share_the_arithmetic(plan):
    whole = {name: 64 * macs for name, macs in PAPER.macs().items()}
    shared = {name: 2 * part.macs * part.images for name, part in parts_of(PAPER, plan, 64).items()}
    assert shared == whole


@pytest.mark.parametrize("plan", [DDP, SPLIT, HYBRID])
def test_parameters_are_those_of_the_formula(plan):
    found = {name: part.parameters for name, part in parts_of(PAPER, plan, 64).items()}
    assert found == parameters_per_rank(PAPER, plan)


def test_rank_0_has_the_largest_share_of_a_batch():
    parts = parts_of(PAPER, Plan(2, Grid(1, 3), Grid(3, 1)), 7)
    assert (parts["conv1"].images, parts["fc6"].images) == (3, 7)


@pytest.mark.parametrize("plan", [LOCAL, DDP, SPLIT, HYBRID])
def test_the_time_is_that_of_the_arithmetic(plan):
    speed = pace(make_machine(), PAPER, plan, 64, 1)
    found = sum(sum(layer) for layer in speed.layers.values())
    assert found == pytest.approx(6 * 64 * sum(PAPER.macs().values()) / plan.world_size / FLOPS)
    assert speed.optimizer == pytest.approx(1e-9 * sum(parameters_per_rank(PAPER, plan).values()))


def test_what_any_batch_costs_is_paid_in_every_turn_and_by_parameters():
    machine = make_machine(fixed=1.0)
    one, three = (pace(machine, PAPER, HYBRID, 64, turns).layers for turns in (1, 3))
    assert three["fc6"].forward - one["fc6"].forward == pytest.approx(2 * 0.5, rel=1e-3)
    assert three["conv1"] == one["conv1"]


def test_ranks_of_a_cpu_share_its_cores():
    machine = make_machine(ranks_per_node=4)
    cpu = machine.model_copy(update={"device": "cpu"})
    four = Plan(2, Grid(1, 4), Grid(1, 4))
    assert pace(cpu, PAPER, four, 64, 1).layers["conv3"].forward == pytest.approx(
        4 * pace(machine, PAPER, four, 64, 1).layers["conv3"].forward
    )


def test_the_nearest_row_is_taken():
    line = Line(fixed=0, each=1)
    rows = [
        LayerWork(layer=layer, macs=macs, parameters=macs, forward=line, backward=line)
        for layer, macs in (("fc6", 100), ("fc6", 50), ("fc7", 25))
    ]
    assert nearest(rows, "fc6", Held(20, 20, 1)) is rows[1]
    assert nearest(rows, "fc6", Held(90, 90, 1)) is rows[0]
