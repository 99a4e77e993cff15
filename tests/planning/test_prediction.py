"""The step of a plan, from parts that can be added up by hand."""

from dataclasses import replace

import pytest

from distributed.plan import Grid, Plan
from model.alexnet import CLASSIFIER
from planning.formulas import bytes_sent, parameters_per_rank
from planning.job import Job
from planning.prediction import predict
from tests.planning.machines import FLOPS, PAPER, make_links, make_machine
from tests.planning.plans import DDP, HYBRID, LOCAL, SPLIT

JOB = Job(PAPER, 128)
PLAIN = replace(JOB, overlaps=False)
ADDING = 12 / 20 * 1e-9
"""Seconds to add a parameter's gradient to another: an update moves 20 bytes in 1e-9 s."""


def test_one_rank_waits_for_nobody():
    found = predict(JOB, LOCAL, make_machine())
    computing = 6 * 128 * sum(PAPER.macs().values()) / FLOPS
    assert found.compute == pytest.approx(computing)
    assert (found.activations, found.gradients, found.bytes_at) == (0, 0, {})
    assert found.seconds == sum(found.parts.values())


@pytest.mark.parametrize("plan", [DDP, SPLIT, HYBRID])
def test_nodes_of_one_rank_have_no_links_within(plan):
    machine = make_machine(ranks_per_node=1, between=make_links(1e9))
    apart = machine.model_copy(update={"within": {}})
    assert predict(JOB, plan, apart) == predict(JOB, plan, make_machine(ranks_per_node=2))


@pytest.mark.parametrize("plan", [DDP, SPLIT, HYBRID])
def test_without_overlap_a_rank_waits_for_all_activations(plan):
    found = predict(PLAIN, plan, make_machine())
    sent = bytes_sent(PAPER, plan, 128, 4, 4)
    waited = sum(n for name, n in sent.items() if "gradients" not in name) / 1e9
    assert found.activations == pytest.approx(waited, abs=1e-9)
    assert found.bytes_at == sent


def test_overlap_hides_no_more_than_the_own_part_of_a_layer():
    slow, fast = (make_machine(within=make_links(rate)) for rate in (1e8, 1e15))
    plain, hidden = predict(PLAIN, SPLIT, slow), predict(JOB, SPLIT, slow)
    layers = 6 * 128 * sum(PAPER.macs()[name] for name in ("conv3", "fc6", "fc7")) / 2 / FLOPS
    assert plain.activations - hidden.activations == pytest.approx(layers / 2)
    assert predict(JOB, SPLIT, fast).activations == pytest.approx(0, abs=1e-6)


def test_work_that_hides_nothing_waits_for_all():
    machine = make_machine(hidden=0.0)
    assert predict(JOB, SPLIT, machine) == predict(PLAIN, SPLIT, machine)


def test_gradients_outlast_the_backward_pass_on_a_slow_link():
    machine = make_machine(within=make_links(1e6))
    sums = sum(n for name, n in bytes_sent(PAPER, DDP, 128, 4, 4).items()) / 1e6
    backward = 4 * 64 * sum(PAPER.macs().values()) / FLOPS
    assert sums - backward < predict(JOB, DDP, machine).gradients < sums


def test_only_the_last_gradients_are_waited_for_on_a_fast_link():
    machine = make_machine(within=make_links(1e12))
    last = 2 * sum(each for each in (34_944, 307_456)) * 2 / 1e12
    assert predict(JOB, DDP, machine).gradients == pytest.approx(last, rel=1e-6)


def test_turns_hide_half_of_what_two_ranks_send_to_fc6():
    """The first turn's features have no turn before them, the last one's gradients none after."""
    machine = make_machine(within=make_links(1e12))
    a, c = (predict(replace(JOB, scheme=scheme), HYBRID, machine) for scheme in "ac")
    assert a.activations - c.activations == pytest.approx(a.bytes_at["fc6"] / 1e12 / 2)
    assert c.bytes_at == a.bytes_at


def test_turns_hide_no_more_than_the_classifier_works_meanwhile():
    machine = make_machine(within=make_links(1e6))
    a, c = (predict(replace(JOB, scheme=scheme), HYBRID, machine) for scheme in "ac")
    macs, held = PAPER.macs(), parameters_per_rank(PAPER, HYBRID)
    work = 6 * 128 * sum(macs[name] for name in CLASSIFIER) / 2 / FLOPS
    adding = {name: ADDING * held[name] for name in CLASSIFIER}
    more_behind_fc7 = adding["fc7"] / 2
    expected = (work + sum(adding.values())) / 2 + more_behind_fc7
    assert a.activations - c.activations == pytest.approx(expected)


def test_parts_wait_as_often_and_send_as_much():
    none, some = (make_machine(within=make_links(1e9, each)) for each in (0.0, 1e-3))
    one, four = (replace(PLAIN, parts=parts) for parts in (1, 4))
    slower = predict(four, SPLIT, some).activations - predict(one, SPLIT, some).activations
    assert slower == pytest.approx(3 * 1e-3 * (3 * 2 + 2))
    assert predict(four, SPLIT, none).activations == predict(one, SPLIT, none).activations
    assert predict(four, SPLIT, some).bytes_at == predict(one, SPLIT, some).bytes_at


def test_gradients_are_summed_behind_the_last_part_alone():
    machine = make_machine(within=make_links(1e6))
    one, four = (predict(replace(JOB, parts=parts), DDP, machine) for parts in (1, 4))
    macs, held = PAPER.macs(), parameters_per_rank(PAPER, DDP)
    others = macs.keys() - {"fc8"}  # whose sum begins when its backward pass ends
    backward = 4 * 64 * sum(macs[name] for name in others) / FLOPS
    adding = 3 * ADDING * sum(held[name] for name in others)
    last = (backward + adding) / 4
    assert four.gradients - one.gradients == pytest.approx(backward - last)


def test_a_turn_of_one_rank_leaves_the_links_of_the_others_idle():
    plan = Plan(1, Grid(1, 4), Grid(4, 1))
    machine = make_machine(ranks_per_node=4, within=make_links(1e10))
    a, b, c = (predict(replace(PLAIN, scheme=scheme), plan, machine) for scheme in "abc")
    assert a.activations == c.activations
    sent = {name: each / 1e10 for name, each in a.bytes_at.items() if "gradients" not in name}
    assert b.activations == pytest.approx(4 * (sent["fc6"] + sent["logits"]) + sent["fc7"])


def test_latency_is_paid_in_each_turn_of_the_classifier_alone():
    plan = Plan(2, Grid(2, 2), Grid(4, 1))
    none, some = (
        make_machine(ranks_per_node=4, within=make_links(1e9, each)) for each in (0.0, 1e-3)
    )
    for scheme, turns in (("a", 1), ("c", 2)):
        job = replace(PLAIN, scheme=scheme)
        slower = predict(job, plan, some).activations - predict(job, plan, none).activations
        assert slower == pytest.approx(1e-3 * 2 * (1 + 3 * 3 * turns))


def test_latency_is_paid_for_every_message():
    none, some = (make_machine(within=make_links(1e9, each)) for each in (0.0, 1e-3))
    slower = predict(PLAIN, SPLIT, some).activations - predict(PLAIN, SPLIT, none).activations
    assert slower == pytest.approx(1e-3 * (3 * 2 + 2))


def test_a_split_rank_needs_half_the_memory_of_the_parameters():
    small = replace(JOB, batch=1)
    whole, half = (predict(small, plan, make_machine()).memory for plan in (LOCAL, SPLIT))
    assert 0.45 * whole < half < 0.55 * whole


@pytest.mark.parametrize(("rate", "part"), [(1e6, "gradients"), (1e12, "compute")])
def test_the_bottleneck_is_the_longest_part(rate, part):
    assert predict(JOB, DDP, make_machine(within=make_links(rate))).bottleneck == part
