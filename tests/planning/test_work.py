"""What a rank computes: parts of layers, and rows of a machine scaled to them."""

from dataclasses import replace

import pytest

from distributed.plan import Grid, Plan
from planning.formulas import parameters_per_rank
from planning.job import Job
from planning.machine import LayerWork, Line
from planning.work import Held, bytes_moved, nearest, pace, parts_of
from tests.planning.machines import FLOPS, PAPER, make_machine
from tests.planning.plans import DDP, HYBRID, LOCAL, SPLIT

JOB = Job(PAPER, 64)


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
    parts = parts_of(PAPER, Plan(2, Grid(1, 8), Grid(4, 2)), 10)
    assert (parts["conv1"].images, parts["fc6"].images) == (2, 2 + 2 + 1 + 1)


@pytest.mark.parametrize("plan", [LOCAL, DDP, SPLIT, HYBRID])
def test_the_time_is_that_of_the_arithmetic(plan):
    speed = pace(make_machine(), JOB, plan)
    found = sum(sum(layer) for layer in speed.layers.values())
    assert found == pytest.approx(6 * 64 * sum(PAPER.macs().values()) / plan.world_size / FLOPS)
    assert speed.optimizer == pytest.approx(1e-9 * sum(parameters_per_rank(PAPER, plan).values()))


def test_what_any_batch_costs_is_paid_in_every_turn_and_by_parameters():
    machine = make_machine(fixed=1.0)
    one, two = (pace(machine, replace(JOB, scheme=scheme), HYBRID).layers for scheme in "ac")
    assert two["fc6"].forward - one["fc6"].forward == pytest.approx(0.5, rel=1e-3)
    assert two["conv1"] == one["conv1"]


def test_what_any_batch_costs_is_paid_for_each_part_of_it():
    machine = make_machine(fixed=1.0)
    one, three = (pace(machine, replace(JOB, parts=parts), LOCAL) for parts in (1, 3))
    assert three.layers["conv1"].forward - one.layers["conv1"].forward == pytest.approx(2)


@pytest.mark.parametrize(("moments", "moved"), [(0, 12), (1, 20), (2, 28)])
def test_adding_gradients_moves_12_bytes_where_an_update_moves_more(moments, moved):
    job = replace(JOB, moments=moments)
    one, three = (pace(make_machine(), replace(job, parts=parts), LOCAL) for parts in (1, 3))
    added = three.layers["fc7"].backward - one.layers["fc7"].backward
    weights = parameters_per_rank(PAPER, LOCAL)["fc7"]
    assert bytes_moved(moments) == moved
    assert added == pytest.approx(2 * weights * 1e-9 * 12 / moved)


def test_ranks_of_a_cpu_share_its_cores():
    machine = make_machine(ranks_per_node=4)
    cpu = machine.model_copy(update={"device": "cpu"})
    four = Plan(2, Grid(1, 4), Grid(1, 4))
    assert pace(cpu, JOB, four).layers["conv3"].forward == pytest.approx(
        4 * pace(machine, JOB, four).layers["conv3"].forward
    )


def test_the_nearest_row_is_taken():
    line = Line(fixed=0, each=1)
    rows = [
        LayerWork(layer=layer, macs=macs, parameters=macs, forward=line, backward=line)
        for layer, macs in (("fc6", 100), ("fc6", 50), ("fc7", 25))
    ]
    assert nearest(rows, "fc6", Held(20, 20, 1)) is rows[1]
    assert nearest(rows, "fc6", Held(90, 90, 1)) is rows[0]
