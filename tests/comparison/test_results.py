"""Rows, tables and charts from measurements."""

import csv
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from common.errors import ReportedError
from comparison.charts import draw_charts
from comparison.formulas import Net, parameters_per_rank
from comparison.placements import chosen, placements
from comparison.results import bytes_by_formula, make_row
from comparison.session import Comparison, Job
from comparison.tables import as_text, write_csv
from tests.recording.samples import step_cost
from training.config import Config

SPEEDS = {
    "single": [100.0, 50.0, 80.0],
    "local": [120.0, 80.0, 90.0],
    "split": [150.0, 100.0, 80.0],
}


def _measurement(placement, number, speed):
    return {
        "round": number,
        "global_batch": 32,
        "placement": placement,
        "images_per_second": speed,
        **asdict(step_cost(0.1, 1000)),
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


def _rows(measurements, devices=1, names=tuple(SPEEDS)):
    table = placements(2)
    return [
        make_row(
            table[name],
            32,
            measurements,
            net=Net("paper", table[name].towers, 3, 224, 1000),
            config=Config(precision="bf16"),
            peak_gflops=1000.0,
            devices=devices,
        )
        for name in names
    ]


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({"placement": "ddp"}, 4),
        ({"placement": "ddp", "precision": "fp64"}, 8),
        ({"placement": "ddp", "precision": "bf16"}, 4),
        ({"placement": "ddp", "compress_gradients": True}, 2),
    ],
)
def test_gradients_travel_as_what_the_config_makes_them(settings, each):
    ddp, net = placements(2)["ddp"], Net("paper", 2, 3, 224, 1000)
    held = sum(parameters_per_rank(net, Config(**settings).plan(2)).values())
    assert bytes_by_formula(ddp, net, 32, Config(**settings)) == held * each


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


def test_the_csv_holds_every_key_of_every_row(measurements, tmp_path):
    rows = _rows(measurements)
    write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["placement"] for row in read] == list(SPEEDS)
    assert set(read[0]) == set(rows[0])


def test_the_charts_are_drawn(measurements, tmp_path):
    charts = draw_charts(_rows(measurements), tmp_path, "a title")
    assert {chart.name for chart in charts} == {"throughput.png", "step_time.png", "cost.png"}
    assert all(Image.open(chart).size[0] >= 800 for chart in charts)
    assert draw_charts([{"error": "no"}], tmp_path, "nothing") == []


def test_rounds_interleave_the_placements():
    comparison = Comparison(
        Config(), Path("x"), [], chosen(["single", "split"], 2, 1), [32, 128], 2, 1, 1
    )
    assert comparison.jobs()[:5] == [
        Job(1, 32, "single"),
        Job(1, 32, "split"),
        Job(1, 128, "single"),
        Job(1, 128, "split"),
        Job(2, 32, "single"),
    ]


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        (1, ["single", "local", "split", "ddp"]),
        (4, ["single", "local", "split", "ddp", "split+ddp"]),
    ],
)
def test_devices_decide_what_is_compared(devices, names):
    assert [placement.name for placement in chosen([], 2, devices)] == names


def test_an_unknown_placement_names_the_known_ones():
    with pytest.raises(ReportedError, match=r"'splat'.*single, local, split, ddp"):
        chosen(["splat"], 2, 1)


def test_one_tower_cannot_be_split():
    with pytest.raises(ReportedError, match="towers"):
        chosen([], 1, 1)
