"""Predictions beside measurements: rows, medians, and the quality of the choice."""

import json

import pytest

from benchmarks import predictions
from benchmarks.predictions import CONFIG, Place, choices, medians, row_of
from planning.job import job_of
from planning.prediction import predict
from planning.search import candidates
from tests.planning.machines import make_machine
from training.settings import load_config


def _row(plan, measured, predicted, place="2 ranks", batch=32):
    error = 100 * (predicted / measured - 1)
    what = {"": place, "batch": batch, "plan": plan}
    return {**what, "measured, ms": measured, "predicted": predicted, "error, %": error}


def test_the_choice_is_judged_by_what_was_measured():
    rows = [_row("a", 100.0, 90.0), _row("b", 80.0, 95.0), _row("c", 200.0, 100.0)]
    [found] = choices(rows)
    assert (found["chosen"], found["best"]) == ("a", "b")
    assert found["regret, %"] == pytest.approx(25)
    assert found["order"] == pytest.approx(2 / 3)  # a and b are the wrong way round
    assert found["mean |error|, %"] == pytest.approx((10 + 18.75 + 50) / 3)


def test_plans_that_are_as_fast_as_each_other_have_no_order():
    rows = [_row("a", 100.0, 90.0), _row("b", 101.0, 80.0)]
    [found] = choices(rows)
    assert found["order"] is None
    assert found["regret, %"] == pytest.approx(1)


def test_a_single_plan_is_no_choice_to_regret():
    [found] = choices([_row("a", 100.0, 90.0)])
    assert found["regret, %"] is None


def test_places_and_batches_are_judged_apart():
    rows = [
        _row("a", 1.0, 1.0, place, batch)
        for place in ("1 ranks", "2 ranks at 1gbit")
        for batch in (32, 128)
    ]
    assert [(found[""], found["batch"]) for found in choices(rows)] == [
        ("1 ranks", 32),
        ("1 ranks", 128),
        ("2 ranks at 1gbit", 32),
        ("2 ranks at 1gbit", 128),
    ]


def test_rounds_are_told_by_their_medians():
    rows = [_row("a", measured, 100.0) for measured in (50.0, 100.0, 400.0)]
    [found] = medians([*rows, _row("b", 1.0, 1.0)])[:1]
    assert (found["plan"], found["measured, ms"], found["error, %"]) == ("a", 100.0, 0.0)


def test_a_row_is_the_prediction_of_the_planner():
    config, machine = load_config(CONFIG, []), make_machine()
    split = candidates(2, config.towers, config.form, compress=False)[-1]
    measured = {
        "images_per_second": 320.0,
        "seconds_activation_communication": 0.01,
        "seconds_gradient_communication": 0.02,
        "peak_memory_bytes": 2**30,
    }
    row = row_of(Place(2), split, 32, measured, machine)
    seconds = predict(job_of(config, 32, 3, 10), split.plan, machine).seconds
    assert row["measured, ms"] == pytest.approx(100)
    assert row["predicted"] == pytest.approx(1e3 * seconds)
    assert row["error, %"] == pytest.approx(100 * (seconds / 0.1 - 1))
    assert (row["waits, ms"], row["peak, GiB"]) == pytest.approx((30, 1))


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    config, machine = load_config(CONFIG, []), make_machine()
    path = tmp_path / "measured.jsonl"
    names = [each.name for each in candidates(2, config.towers, config.form, compress=False)]
    figures = {
        "images_per_second": 320.0,
        "seconds_activation_communication": 0.01,
        "seconds_gradient_communication": 0.02,
        "peak_memory_bytes": 2**30,
    }
    kept = [{"plan": names[0], "steps": 1, **figures}, {"plan": names[1], "steps": 9, **figures}]
    path.write_text("\n".join(map(json.dumps, kept)) + '\n{"plan": "cut\n')
    measured = []

    def measure(place, candidate, batch, steps):
        measured.append(candidate.name)
        return figures

    monkeypatch.setattr(Place, "measure", measure)
    monkeypatch.setattr(Place, "machine", lambda place, path: machine)
    with predictions.tqdm(disable=True) as bar:
        rows = predictions.block(Place(2), 32, 1, tmp_path, bar)
        assert measured == names[1:]
        assert [row["plan"] for row in rows] == names
        assert predictions.block(Place(2), 32, 1, tmp_path, bar) == rows
    assert measured == names[1:]
