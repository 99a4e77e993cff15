"""The learning rate's course, and the optimiser's arithmetic."""

import json

import pytest
import torch
from torch import nn

from training.config import OptimizerConfig, ScheduleConfig
from training.optimization import OPTIMIZERS, SCHEDULES, Schedule, make_optimizer

RATE = 0.02


def _optimizer(config, *, may_skip=False):
    return make_optimizer(nn.Linear(2, 2), nn.Linear(2, 2), config, may_skip=may_skip)


def _schedule(name, total_steps=40, **settings):
    optimizer = _optimizer(OptimizerConfig(learning_rate=RATE))
    return Schedule(optimizer, ScheduleConfig(name=name, **settings), total_steps)


def _rates(schedule, steps):
    """The rate of each step."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.learning_rate)
        schedule.optimizer.step()
        schedule.after_step()
    return rates


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_one_cycle_rises_for_its_warm_up_and_falls_to_nothing(warmup):
    total = 200
    schedule = _schedule("one_cycle", total, warmup=warmup)
    rates = _rates(schedule, total)
    peak = rates.index(max(rates))
    assert peak == pytest.approx(warmup * total, abs=1)
    assert rates[0] == pytest.approx(RATE / 25)
    assert rates[peak] == pytest.approx(RATE, rel=1e-2)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < RATE / 1000
    assert schedule.learning_rate < RATE / 100_000


@pytest.mark.parametrize(("warmup", "total"), [(0.3, 1), (0.5, 1), (0.25, 3), (0.1, 9)])
def test_one_cycle_works_in_runs_too_short_for_its_warm_up(warmup, total):
    rates = _rates(_schedule("one_cycle", total, warmup=warmup), total)
    assert all(0 < rate <= RATE for rate in rates)


@pytest.mark.parametrize(("warmup", "rise"), [(0.0, 0), (0.1, 20), (0.5, 100)])
def test_cosine_rises_along_a_line_and_falls_along_a_cosine_to_nothing(warmup, rise):
    total = 200
    schedule = _schedule("cosine", total, warmup=warmup)
    rates = _rates(schedule, total)
    assert rates[: rise + 1] == pytest.approx(
        [RATE * (i + 1) / (rise + 1) for i in range(rise + 1)]
    )
    assert rates[rise] == max(rates) == RATE
    halfway = rise + (total - rise) // 2
    assert rates[halfway] == pytest.approx(RATE / 2)
    assert rates[rise:] == sorted(rates[rise:], reverse=True)
    assert 0 < rates[-1] < RATE / 1000
    assert schedule.learning_rate == 0


@pytest.mark.parametrize(("warmup", "total"), [(0.3, 1), (0.99, 1), (0.25, 3), (0.99, 9)])
def test_cosine_works_in_runs_too_short_for_its_warm_up(warmup, total):
    rates = _rates(_schedule("cosine", total, warmup=warmup), total)
    assert all(0 < rate <= RATE for rate in rates)


@pytest.mark.parametrize("patience", [0, 3])
def test_plateau_divides_by_ten_after_one_stall_more_than_its_patience(patience):
    schedule = _schedule("plateau", patience=patience)
    schedule.after_evaluation(0.5)
    for _ in range(patience):
        schedule.after_evaluation(0.5)
        assert schedule.learning_rate == RATE
    schedule.after_evaluation(0.5)
    assert schedule.learning_rate == pytest.approx(RATE / 10)


def test_plateau_waits_as_long_as_the_error_falls():
    schedule = _schedule("plateau", patience=1)
    for error in (0.5, 0.5, 0.4, 0.4, 0.3, 0.35):
        schedule.after_evaluation(error)
        assert schedule.learning_rate == RATE


def test_constant_stays():
    schedule = _schedule("constant")
    rates = _rates(schedule, 20)
    for _ in range(10):
        schedule.after_evaluation(0.5)
    assert {*rates, schedule.learning_rate} == {RATE}


def test_plateau_moves_with_evaluations_alone_and_one_cycle_with_steps_alone():
    plateau, one_cycle = _schedule("plateau", patience=0), _schedule("one_cycle")
    before = one_cycle.learning_rate
    for _ in range(5):
        one_cycle.after_evaluation(0.5)
    assert one_cycle.learning_rate == before
    assert set(_rates(plateau, 20)) == {RATE}


def _course(schedule, steps):
    """The rates of ``steps``, with an evaluation that stalls after each."""
    rates = []
    for _ in range(steps):
        rates += _rates(schedule, 1)
        schedule.after_evaluation(0.5)
    return rates


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("stop", [1, 6, 15])
def test_a_schedule_continues_exactly_from_its_state_as_json(name, stop):
    whole = _course(_schedule(name), 30)
    stopped, resumed = _schedule(name), _schedule(name)
    _course(stopped, stop)
    resumed.load_state(json.loads(json.dumps(stopped.state())))
    assert _course(resumed, 30 - stop) == whole[stop:]


@pytest.mark.parametrize(
    ("name", "reference", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.0, "weight_decay": 0.0}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.0}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
    ],
)
def test_the_fused_optimiser_is_torchs_own(name, reference, settings):
    """Weights and biases alike, under a moving rate."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(name=name, learning_rate=RATE, **settings)
    fused = make_optimizer(ours[0], ours[1], config, may_skip=False)
    plain = reference(theirs.parameters(), lr=RATE, fused=False, foreach=False, **settings)
    assert fused.defaults["fused"]
    for step in range(5):
        for optimizer in (fused, plain):
            optimizer.param_groups[0]["lr"] = RATE / (1 + step)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        fused.step()
        plain.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_classifier_may_be_updated_before_the_features(name):
    features, classifier = nn.Linear(2, 2), nn.Linear(2, 2)
    config = OptimizerConfig(name=name, classifier_updates="turn")
    optimizer = make_optimizer(features, classifier, config, may_skip=False)
    before = features.weight.detach().clone()
    for stages in ([classifier], [features, classifier]):
        assert torch.equal(features.weight, before)
        optimizer.zero_grad()
        for parameter in nn.ModuleList(stages).parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert torch.all(features.weight < before)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_where_steps_may_be_skipped_no_optimiser_is_fused(name):
    optimizer = _optimizer(OptimizerConfig(name=name), may_skip=True)
    assert not optimizer.defaults["fused"]


def test_a_row_is_all_that_a_new_optimiser_or_schedule_needs(monkeypatch):
    def adagrad(parameters, config, fused, over_slices):
        return torch.optim.Adagrad(parameters, lr=config.learning_rate)

    def halves(optimizer, config, steps):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    monkeypatch.setitem(OPTIMIZERS, "adagrad", adagrad)
    monkeypatch.setitem(SCHEDULES, "halves", halves)
    config = OptimizerConfig(name="adagrad", learning_rate=RATE)
    optimizer = _optimizer(config)
    schedule = Schedule(optimizer, ScheduleConfig(name="halves"), total_steps=3)
    assert _rates(schedule, 3) == [RATE, RATE / 2, RATE / 4]


def _two_stages(name, classifier_rate=None):
    config = OptimizerConfig(learning_rate=RATE, classifier_learning_rate=classifier_rate)
    optimizer = _optimizer(config)
    return Schedule(optimizer, ScheduleConfig(name=name, patience=0), 12)


def _courses(schedule, steps):
    """Both stages' rates in each step, with an evaluation that stalls after each."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        _course(schedule, 1)
    return rates


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_both_stages_rates_move_together_and_go_on_from_a_checkpoint(name):
    whole = _courses(_two_stages(name, 2.5 * RATE), 10)
    assert [high / low for low, high in whole] == pytest.approx([2.5] * 10)
    stopped, resumed = _two_stages(name, 2.5 * RATE), _two_stages(name, 2.5 * RATE)
    _courses(stopped, 4)
    resumed.load_state(json.loads(json.dumps(stopped.state())))
    assert _courses(resumed, 6) == whole[4:]


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_state_with_the_older_key_of_one_rate_goes_on(name):
    whole = _courses(_two_stages(name), 10)
    stopped, resumed = _two_stages(name), _two_stages(name)
    _courses(stopped, 4)
    state = json.loads(json.dumps(stopped.state()))
    [state["learning_rate"]] = state.pop("learning_rates")
    resumed.load_state(state)
    assert _courses(resumed, 6) == whole[4:]
