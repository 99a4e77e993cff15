"""Rows, tables and charts from measurements."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from common.errors import ReportedError
from comparison.charts import draw_charts
from comparison.placements import chosen, placements
from comparison.predicted import with_prediction
from comparison.results import make_row
from comparison.session import Comparison, Job
from comparison.tables import as_text, write_csv
from planning.formulas import BOUNDARIES, parameters_per_rank
from planning.job import job_of
from planning.prediction import predict
from tests.planning.machines import make_machine
from tests.recording.samples import step_cost
from training.config import Config
from training.settings import flatten, resolve_config

SPEEDS = {
    "single": [100.0, 50.0, 80.0],
    "local": [120.0, 80.0, 90.0],
    "split": [150.0, 100.0, 80.0],
}


BYTES = {"split": {"conv3": 600, "logits": 400}, "ddp": {"conv gradients": 10**8}}


def _measurement(placement, number, speed):
    at = BYTES.get(placement, {})
    return {
        "round": number,
        "global_batch": 32,
        "placement": placement,
        "images_per_second": speed,
        **asdict(replace(step_cost(0.1, sum(at.values())), bytes_at=at)),
        "parameters": 56_000_000,
        "peak_memory_bytes": 2**30 + number,
        "parameters_per_rank": 28_000_000,
    }


@pytest.fixture
def measurements():
    return [
        _measurement(name, number, speed)
        for name, speeds in SPEEDS.items()
        for number, speed in enumerate(speeds, start=1)
    ]


def _config(row, **settings):
    return resolve_config({"precision": "bf16", **settings}, [*row.overrides], Path("x"))


def _job(config, batch=32):
    return job_of(config, batch, channels=3, classes=1000)


def _rows(measurements, devices=1, names=tuple(SPEEDS)):
    table = placements(2)
    return [
        make_row(
            table[name],
            measurements,
            job=_job(_config(table[name])),
            config=_config(table[name]),
            peak_gflops=1000.0,
            devices=devices,
        )
        for name in names
    ]


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({"precision": "fp32"}, 4),
        ({"precision": "fp64"}, 8),
        ({"precision": "bf16"}, 4),
        ({"compress_gradients": True}, 2),
    ],
)
def test_gradients_travel_as_what_the_config_makes_them(settings, each):
    config = _config(placements(2)["ddp"], **settings)
    held = parameters_per_rank(_job(config).net, config.plan(2))
    assert sum(_job(config).bytes_sent(config.plan(2)).values()) == sum(held.values()) * each


@pytest.mark.parametrize("towers", [2, 4])
def test_every_placement_can_be_planned_on_its_ranks(towers):
    for name, placement in placements(towers).items():
        plan = _config(placement).plan(placement.ranks)
        assert plan.world_size == placement.ranks
        assert plan.towers == (1 if name == "single" or placement.on_request else towers)


@pytest.mark.parametrize(
    ("name", "drawn", "boundaries"),
    [
        ("single", "local", []),
        ("local", "local", []),
        ("split", "split", ["conv3", "fc6", "fc7", "logits"]),
        ("ddp", "ddp", ["conv gradients", "fc gradients"]),
        ("hybrid", "hybrid", ["fc6", "fc7", "logits", "conv gradients"]),
        (
            *("split+ddp", "split"),
            ["conv3", "fc6", "fc7", "logits", "conv gradients", "fc gradients"],
        ),
        (
            *("hybrid+ddp", "hybrid"),
            ["fc6", "fc7", "logits", "conv gradients", "fc gradients"],
        ),
        ("split+hybrid", "split+hybrid", ["conv3", "fc6", "fc7", "logits", "conv gradients"]),
        ("dense-split", "split", list(BOUNDARIES[:9])),
        ("dense-ddp", "ddp", ["conv gradients", "fc gradients"]),
        ("dense-hybrid", "hybrid", ["fc6", "fc7", "logits", "conv gradients"]),
    ],
)
def test_a_placement_sends_where_its_ranks_meet(name, drawn, boundaries):
    placement = placements(2)[name]
    config = _config(placement)
    assert config.plan(placement.ranks).placement == drawn
    assert list(_job(config).bytes_sent(config.plan(placement.ranks))) == boundaries


def test_the_file_s_own_placement_does_not_leak_into_another():
    for placement in placements(2).values():
        config = _config(placement, placement="split", shards=4, classifier_ranks=4)
        assert config.plan(placement.ranks) == _config(placement).plan(placement.ranks)


def test_speedups_are_medians_of_the_ratios_within_a_round(measurements):
    split = _rows(measurements)[2]
    assert split["images_per_second"] == 100
    assert (split["images_per_second_min"], split["images_per_second_max"]) == (80, 150)
    assert split["speedup"] == pytest.approx(1.5)
    assert split["speedup_local"] == pytest.approx(1.25)
    assert split["peak_memory_bytes"] == 2**30 + 3


def test_efficiency_counts_the_devices_that_are_used(measurements):
    assert _rows(measurements, devices=1)[2]["efficiency"] == pytest.approx(1.5)
    assert _rows(measurements, devices=8)[2]["efficiency"] == pytest.approx(0.75)
    assert _rows(measurements, devices=8)[0]["efficiency"] == pytest.approx(1)


def test_a_failed_placement_says_so_and_the_others_have_their_figures(measurements):
    failed = {"round": 1, "global_batch": 32, "placement": "ddp", "error": "out of memory"}
    rows = _rows([*measurements, failed], names=(*SPEEDS, "ddp"))
    assert "images_per_second" not in rows[3]
    text = as_text(rows)
    assert "ddp at batch 32 failed: out of memory" in text
    assert "150" in text


def test_the_tables_fit_a_terminal_and_warn_of_the_dense_net_s_work(measurements):
    text = as_text(_rows(measurements))
    assert max(map(len, text.splitlines())) <= 100
    assert "60% more" in text


def _many(batches, speed):
    """Rows of every placement; those on one rank took 1.2 s for each part of a step."""
    rows = []
    for placement in placements(2).values():
        config = _config(placement)
        for batch in batches:
            at = _job(config, batch).bytes_sent(config.plan(placement.ranks))
            cost = replace(
                step_cost(1.2 / placement.ranks, sum(at.values())),
                bytes_at=dict(sorted(at.items())),
            )
            measured = {
                **_measurement(placement.name, 1, speed * placement.ranks),
                **asdict(cost),
                "global_batch": batch,
            }
            rows.append(
                make_row(
                    placement,
                    [measured, {**measured, "round": 2, "images_per_second": speed}],
                    job=_job(config, batch),
                    config=config,
                    peak_gflops=90_000.0,
                    devices=4,
                )
            )
    return rows


def test_the_tables_of_all_placements_fit_a_terminal_at_a_large_batch():
    text = as_text(_many([512, 2048], 9000.0))
    assert max(map(len, text.splitlines())) <= 100
    assert "All bytes counted equal the formula." in text
    [heading] = [line for line in text.splitlines() if "MB of" in line]
    assert heading.split() == [
        *("batch", "MB", "of", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5"),
        *("fc6", "fc7", "logits", "∇conv", "∇fc"),
    ]


def test_bytes_are_told_by_boundary_for_those_that_send(measurements):
    rows = _rows(measurements)
    assert rows[2]["bytes_at"] == BYTES["split"]
    assert rows[2]["bytes_at_formula"]["conv3"] == 32 * 128 * 13**2 * 2 * 2
    assert sum(rows[2]["bytes_at_formula"].values()) == rows[2]["bytes_sent_formula"]
    lines = as_text(rows).splitlines()
    [heading] = [number for number, line in enumerate(lines) if "MB of" in line]
    assert [line.split() for line in lines[heading + 2 : heading + 4]] == [
        ["32", "split", "0.00", "0.00"],
        [],
    ]
    assert "split at batch 32" in lines[-3]  # the made-up bytes are not the formula's


def test_the_csv_holds_every_key_of_every_row(measurements, tmp_path):
    rows = _rows(measurements)
    write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["placement"] for row in read] == list(SPEEDS)
    assert set(read[0]) == set(dict(flatten(rows[2], separator="/")))
    assert read[2]["bytes_at/conv3"] == "600"
    assert read[0]["bytes_at/conv3"] == ""


def test_the_charts_are_drawn(measurements, tmp_path):
    charts = draw_charts(_rows(measurements), tmp_path, "a title")
    assert {chart.name for chart in charts} == {"throughput.png", "step_time.png", "cost.png"}
    assert all(Image.open(chart).size[0] >= 800 for chart in charts)
    assert len(draw_charts(_many([32, 128, 512], 9000.0), tmp_path, "every placement")) == 3
    assert draw_charts([{"error": "no"}], tmp_path, "nothing") == []


def test_rounds_interleave_the_placements():
    comparison = Comparison(
        Config(), Path("x"), [], chosen(["single", "split"], 2, 0), [32, 128], 2, 1, 1
    )
    assert comparison.jobs()[:5] == [
        Job(1, 32, "single"),
        Job(1, 32, "split"),
        Job(1, 128, "single"),
        Job(1, 128, "split"),
        Job(2, 32, "single"),
    ]


FIVE = ["single", "local", "split", "ddp", "hybrid"]


@pytest.mark.parametrize(
    ("gpus", "names"),
    [
        (0, FIVE),
        (1, ["single", "local"]),
        (2, FIVE),
        (3, FIVE),
        (4, [*FIVE, "split+ddp", "hybrid+ddp", "split+hybrid"]),
    ],
)
def test_gpus_decide_what_is_compared(gpus, names):
    assert [placement.name for placement in chosen([], 2, gpus)] == names


def test_any_placement_can_be_asked_for():
    names = ["single", "dense-split", "dense-hybrid"]
    assert [placement.name for placement in chosen(names, 2, 0)] == names
    assert [placement.ranks for placement in chosen(names, 4, 0)] == [1, 4, 4]


def test_a_net_that_cannot_be_placed_is_refused_before_anything_is_measured(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("variant: paper")
    rows, overrides = chosen([], 2, 0), ["net.hidden=42", "towers=2"]
    comparison = Comparison(Config(), path, overrides, rows, [32], 1, 1, 1)
    assert comparison.configs()["hybrid"].towers == 2
    impossible = replace(rows[-1], ranks=4, overrides=("placement=hybrid", "classifier_ranks=4"))
    with pytest.raises(ReportedError, match="42"):
        replace(comparison, placements=[impossible]).configs()


def test_an_unknown_placement_names_the_known_ones():
    with pytest.raises(ReportedError, match=r"'splat'.*single, local, split, ddp"):
        chosen(["splat"], 2, 1)


def test_one_tower_cannot_be_split():
    with pytest.raises(ReportedError, match="towers"):
        chosen([], 1, 1)


def test_a_prediction_stands_beside_the_measurement(measurements):
    [split] = chosen(["split"], 2, 0)
    config = _config(split, precision="fp32")
    job = _job(config)
    row = make_row(split, measurements, job=job, config=config, peak_gflops=100.0, devices=1)
    machine = make_machine()
    found = with_prediction(row, job, config.plan(2), machine)
    expected = predict(job, config.plan(2), machine)
    measured = 32 / row["images_per_second"]
    assert found["prediction_error"] == pytest.approx(expected.seconds / measured - 1)
    assert found["predicted_seconds_compute"] == expected.compute
    text = as_text([found])
    assert f"{1e3 * expected.seconds:.0f}/{1e3 * measured:.0f}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_measurement_there_is_no_error():
    [split] = chosen(["split"], 2, 0)
    config = _config(split, precision="fp32")
    job = _job(config)
    row = {"placement": "split", "global_batch": 32, "error": "out of memory"}
    assert with_prediction(row, job, config.plan(2), make_machine()) == row
