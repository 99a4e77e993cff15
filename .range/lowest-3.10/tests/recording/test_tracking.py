"""Weights & Biases: what a run there holds, online and offline, and which of these it is."""

from typing import Any

import pytest
import wandb

from recording.tracking import Tracker
from tests.wandb_server import KEY

RUN: dict[str, Any] = {
    "id": None,
    "project": "alexnet",
    "group": "comparison",
    "job_type": "train",
    "name": "fashion-2",
    "tags": ["paper", "split"],
    "config": {"seed": 3, "data": {"size": 96}},
}


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    """No API key, and no mode in the environment."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


@pytest.fixture
def track(tmp_path):
    return lambda mode, **other: Tracker(mode, tmp_path / "run", **{**RUN, **other})


def _use(tracker, exit_code=0):
    for step, top1 in ((1, 0.75), (2, 0.5)):
        tracker.log(step, {"train/loss": 2.0 / step})
        tracker.log(step, {"test/top1": top1})
    tracker.summarize({"test_top1": 0.5, "checkpoint": "runs/a"})
    place = tracker.location
    tracker.finish(exit_code)
    return place


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_server_gets_what_was_logged_and_nothing_is_printed(
    wandb_server, track, tmp_path, capfd, tracker_warnings, mode
):
    tracker = track(mode)
    place = _use(tracker, exit_code=1)
    assert capfd.readouterr() == ("", "")
    assert tracker_warnings() == []
    if mode == "online":
        assert place == f"{wandb_server.url}/someone/alexnet/runs/{tracker.run_id}"
    else:
        wandb_server.upload(place)

    run = wandb_server.runs[tracker.run_id]
    assert [row.get("train/loss") for row in run.rows] == [2.0, None, 1.0, None]
    assert run.steps == [1, 1, 2, 2]
    assert run.config["seed"] == 3
    assert run.config["data"] == {"size": 96}
    assert (run.summary["test_top1"], run.summary["checkpoint"]) == (0.5, "runs/a")
    assert run.summary["test/top1"] == {"max": 0.75}
    assert run.exit_code == 1
    about = ("project", "groupName", "jobType", "displayName", "tags")
    ours = ("project", "group", "job_type", "name", "tags")
    assert [run.about[key] for key in about] == [RUN[key] for key in ours]
    metrics = run.config["_wandb"]["m"]  # 1: name, 2: pattern, 5: number of its x axis
    [axis] = [n for n, metric in enumerate(metrics, 1) if metric.get("1") == "global_step"]
    drawn = {metric.get("1") or metric["2"] for metric in metrics if metric.get("5") == axis}
    assert drawn == {"train/*", "test/*", "step/*", "test/top1"}


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_wandb_mode_decides_what_auto_is(wandb_server, track, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    begins = {"online": "http://", "offline": "offline, ", "disabled": "none"}[mode]
    assert _use(track("auto")).startswith(begins)


@pytest.mark.parametrize("key", ["none", "in the environment", "of a login"])
def test_auto_is_online_with_a_key_and_offline_without(
    wandb_server, track, tmp_path, monkeypatch, tracker_warnings, key
):
    if key != "in the environment":
        monkeypatch.delenv("WANDB_API_KEY")
    if key == "of a login":
        host = wandb_server.url.removeprefix("http://")
        (tmp_path / "netrc").write_text(f"machine {host}\n login user\n password {KEY}\n")
    place = _use(track("auto"))
    assert place.startswith("offline, " if key == "none" else "http://")
    assert tracker_warnings() == []


def test_disabled_writes_and_says_nothing(track, tmp_path, tracker_warnings):
    tracker = track("disabled", id="abc")
    assert _use(tracker) == "none"
    tracker.log_image("curves", tmp_path / "none.png")
    assert tracker.run_id == "abc"
    assert list(tmp_path.iterdir()) == []
    assert tracker_warnings() == []


def test_a_resumed_run_is_one_run_with_all_steps(wandb_server, track, tmp_path):
    """Steps after the checkpoint are there twice."""
    first = track("offline")
    for step in range(1, 11):
        first.log(step, {"train/loss": 1.0})
    first.finish(1)
    second = track("offline", id=first.run_id)
    for step in range(6, 16):
        second.log(step, {"train/loss": 1.0})
    second.finish(0)
    [run] = wandb_server.upload_offline(tmp_path).values()
    assert run.steps == [*range(1, 11), *range(6, 16)]
    assert run.exit_code == 0


def test_three_failures_end_the_tracking(track, tmp_path, tracker_warnings, monkeypatch):
    def fail(*_):
        raise OSError("the disk\nis full")

    tracker = track("offline")
    for step in range(1, 4):
        tracker.log(step, {"train/loss": 1.0})
        monkeypatch.setattr(tracker.run, "log", fail)
    tracker.log(4, {"train/loss": 1.0})
    _use(tracker)
    assert len(tracker.folders) == len(tracker_warnings()) == 3
    assert all("(the disk is full)" in warning for warning in tracker_warnings())
    assert tracker.run is None
