"""The counts of a run, and the files it leaves."""

import json
import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from distributed.timer import StepCost, StepMarks
from recording.folder import RunFolder
from recording.metrics import read_metrics
from recording.reporter import MainReporter, Reporter, closing_words
from recording.totals import Totals
from tests.recording.samples import evaluation_metrics, step_cost, step_metrics
from training.config import Config
from training.settings import load_config
from training.trainer import StepResult

FACTS = {
    "variant": "paper",
    "towers": 2,
    "placement": "split",
    "world_size": 4,
    "global_batch": 128,
    "precision": "bf16",
    "parameters": 50_000_000,
    "parameters_per_rank": 25_000_000,
    "classes": 10,
    "total_steps": 4,
}


CPU = torch.device("cpu")
RESULT = StepResult(1.25, 0.5, 128, 0.01, step_cost())


def _step(number, end=0.0, epochs_done=0.5, result=RESULT):
    """A step that ended at the time ``end``."""
    marks = StepMarks([(None, end)], {})
    return SimpleNamespace(
        number=number, epochs_done=epochs_done, marks=marks, result=lambda: result
    )


def test_totals_are_the_sums_of_the_steps_and_the_best_score():
    totals = Totals()
    totals.add(128, 2.0)
    totals.add(64, 1.0)
    totals.tested(1, evaluation_metrics(top1=0.875))
    totals.tested(2, evaluation_metrics())
    assert totals.summary() == {
        "test_step": 2,
        "best_top1": 0.875,
        "best_step": 1,
        "test_loss": 0.5,
        "test_top1": 0.75,
        "test_top5": 0.875,
        "train_seconds": 3.0,
        "images_seen": 192,
    }


def test_totals_of_an_older_checkpoint_are_read():
    older = {**asdict(Totals(images=7)), "bytes_sent": 5, "parts": {"data": 1.0}}
    assert Totals.read(older) == Totals(images=7)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass when a test says so."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("recording.reporter.mark_time", lambda device: clock.now)
    return clock


def test_a_step_takes_the_time_since_the_last_one(clock):
    reporter = Reporter(Totals(), CPU)
    for number, seconds in enumerate((2.0, 3.0, 9.0)):
        clock.now += seconds
        reporter.trained(_step(number, end=clock.now))
    assert (reporter.totals.seconds, reporter.totals.steps) == (5.0, 2), "the last is not read yet"
    assert reporter.totals.images == 256
    with reporter.paused():
        assert (reporter.totals.seconds, reporter.totals.steps) == (14.0, 3)


def test_what_happens_while_the_clock_is_stopped_is_not_training_time(clock):
    reporter = Reporter(Totals(), CPU)
    clock.now += 2.0
    reporter.trained(_step(1, end=clock.now))
    with reporter.paused():
        clock.now += 50.0
        reporter.tested(1, 0.5, evaluation_metrics())
    clock.now += 3.0
    reporter.trained(_step(2, end=clock.now))
    with reporter.paused():
        assert reporter.totals.seconds == 5.0


def test_a_step_is_told_with_its_place_and_its_speed(clock):
    told = []
    reporter = Reporter(Totals(), CPU)
    reporter.listeners = [SimpleNamespace(log=lambda *step: told.append(step))]
    clock.now += 2.0
    reporter.trained(_step(3, end=clock.now, epochs_done=0.75))
    with reporter.paused():
        reporter.compared(3, {"ranks/slowest": 1})
        reporter.tested(3, 0.75, evaluation_metrics())
    place = {"epoch": 0.75, "train/images": 128, "step/images_per_second": 64.0}
    assert told == [
        (3, {**place, **step_metrics()}),
        (3, {"ranks/slowest": 1}),
        (3, {"epoch": 0.75, **evaluation_metrics()}),
    ]


GREY_NET = torch.ones(96, 1, 11, 11)


def _report(folder, mode="disabled", fails=False, conv1=GREY_NET):
    """Two of four steps and an evaluation; the reporter."""
    config = Config.model_validate({"name": "fashion", "seed": 7, "tracking": {"mode": mode}})
    totals = Totals()
    with MainReporter(totals, CPU, folder, config, FACTS, 0) as reporter:
        for step in (1, 2):
            result = replace(RESULT, loss=1.0 / step)
            reporter.trained(_step(step, time.perf_counter(), step / 2, result))
        with reporter.paused():
            reporter.tested(2, 1.0, evaluation_metrics())
        if fails:
            raise RuntimeError("something else")
        reporter.finish(2, folder.checkpoints / "step-00000002", 2**30, conv1)
    return reporter


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "fashion")


def test_a_run_leaves_its_files(folder):
    _report(folder)
    assert {path.name for path in folder.path.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "curves.png",
        "kernels.png",
        "summary.json",
    }
    assert load_config(folder.config, []).seed == 7
    lines = read_metrics(folder.metrics)
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert [line.get("train/loss") for line in lines] == [1.0, 0.5, None]
    assert lines[2] == {"step": 2, "epoch": 1.0, **evaluation_metrics()}


def test_the_summary_is_flat_and_says_what_was_run_and_what_came_of_it(folder):
    reporter = _report(folder)
    summary = json.loads(folder.summary.read_text())
    assert summary == {
        **FACTS,
        **reporter.totals.summary(),
        **step_cost().flat(),
        "images_per_second": summary["images_per_second"],
        "steps": 2,
        "attempt": 1,
        "peak_memory_bytes": 2**30,
        "checkpoint": str(folder.checkpoints / "step-00000002"),
    }
    assert "kernels_color_0" not in summary
    for key in ("test_top1", "test_top5", "images_per_second", "train_seconds", "images_seen"):
        assert summary[key] > 0
    assert not any(isinstance(value, dict | list) for value in summary.values())


def test_kernels_that_read_colour_are_counted_tower_by_tower(folder, caplog):
    caplog.set_level(logging.INFO, "recording.reporter")
    conv1 = torch.ones(96, 3, 11, 11)
    conv1[90:, 0] = -2
    _report(folder, conv1=conv1)
    summary = json.loads(folder.summary.read_text())
    counts = [summary[f"kernels_{kind}_1"] for kind in ("color", "grey", "noise")]
    assert counts == [6, 42, 0]
    told = "tower 0: 0 colour, 48 grey, 0 noise; tower 1: 6 colour, 42 grey, 0 noise"
    assert f"kernels of     {told}" in caplog.text


def test_a_resumed_run_goes_on_in_the_files_it_had(folder):
    totals = _report(folder).totals
    with MainReporter(totals, CPU, folder, Config(), FACTS, 1) as reporter:
        reporter.trained(_step(2, time.perf_counter(), 1.0, replace(RESULT, loss=0.25)))
        with reporter.paused():
            assert totals.steps == 3
    assert [line["train/loss"] for line in read_metrics(folder.metrics)] == [1.0, 0.25]


@pytest.mark.parametrize("fails", [False, True])
def test_wandb_gets_the_configuration_the_steps_and_the_summary(wandb_server, folder, fails):
    with pytest.raises(RuntimeError) if fails else nullcontext():
        _report(folder, "online", fails=fails)
    [run] = wandb_server.runs.values()
    assert (run.about["displayName"], run.about["groupName"]) == ("fashion", "fashion")
    assert (run.about["jobType"], run.about["tags"]) == ("train", ["paper", "split"])
    assert (run.config["seed"], run.config["world_size"]) == (7, 4)
    assert run.config["optimizer"]["learning_rate"] == 0.01
    losses = [row["train/loss"] for row in run.rows if "train/loss" in row]
    assert losses == [1.0, 0.5]
    assert run.exit_code == fails
    if not fails:
        assert run.rows[3]["curves"]["format"] == run.rows[4]["kernels"]["format"] == "png"
        assert run.summary["checkpoint"].endswith("step-00000002")


def _summary(**other):
    totals = Totals(images=256, steps=2, seconds=4.0, test=evaluation_metrics())
    cost = StepCost(0.1, 0.3, 0.1, 0.4, 0.05, 0.05, bytes_sent=2_500_000)
    speed = {"images_per_second": 64.0, **cost.flat()}
    last = {"steps": 2, "peak_memory_bytes": 2**30, "checkpoint": "runs/fashion/checkpoints/a"}
    return {**FACTS, **totals.summary(), **speed, **last, **other}


@pytest.fixture
def words(tmp_path):
    """The closing words by their first column."""

    def words(**other):
        text = closing_words(_summary(**other), RunFolder(tmp_path / "fashion-2"), [], "none")
        return {line[:15].rstrip(): line[15:] for line in text.splitlines()}

    return words


def test_the_closing_words_say_what_came_of_the_run(words, tmp_path):
    assert words() == {
        "test accuracy": "0.7500 (top-5 0.8750)",
        "trained": "2 of 4 steps, 256 images in 4 s",
        "speed": "64.0 images/s",
        "a step's time": "data 10%, forward 30%, activations 10%, backward 40%, "
        "gradients 5%, optimizer 5%",
        "sent": "2.50 MB by a rank in a step",
        "memory": "1.00 GiB at most on a rank",
        "checkpoint": "runs/fashion/checkpoints/a",
        "curves": str(tmp_path / "fashion-2" / "curves.png"),
        "kernels": str(tmp_path / "fashion-2" / "kernels.png"),
        "W&B": "none",
        "unfinished": "to continue, add name=fashion-2 --resume to the same command",
    }


def test_a_finished_run_is_not_to_be_continued_but_used(words, tmp_path):
    finished = words(steps=4, test_step=4)
    assert "unfinished" not in finished
    assert f"evaluate.py {tmp_path / 'fashion-2'}" in finished["next"]
    assert "unfinished" in words(steps=4, test_step=2), "its evaluation was cut short"


def test_a_run_without_checkpoints_cannot_be_continued_or_used(words):
    for steps in (2, 4):
        said = words(steps=steps, test_step=steps, checkpoint="none")
        assert "unfinished" not in said
        assert "keep_checkpoints" in said["next"]


def test_a_run_without_an_evaluation_says_nothing_of_accuracy(folder):
    summary = {key: value for key, value in _summary().items() if not key.startswith("test_top")}
    assert "accuracy" not in closing_words(summary, folder, [], "none")


def test_the_closing_words_fit_a_terminal(folder, caplog, monkeypatch):
    monkeypatch.chdir(folder.path.parent)
    caplog.set_level(logging.INFO, "recording.reporter")
    _report(RunFolder(folder.path.relative_to(folder.path.parent)))
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("\ntest accuracy  0.7500")
    assert max(map(len, said.splitlines())) <= 100
