"""Weights & Biases: what a run there holds, online and offline, and which of these it is."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import wandb

from common.errors import ReportedError
from recording.tracking import Tracker, check_tracking, locations
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
    """No API key, and no settings of wandb in files or in the environment."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()


@pytest.fixture
def track(tmp_path):
    return lambda mode, **other: Tracker(mode, tmp_path / "run", **{**RUN, **other})


def _use(tracker, exit_code=0):
    for step, top1 in ((1, 0.75), (2, 0.5)):
        tracker.log(step, {"train/loss": 2.0 / step, "step/compute": 0.1})
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
    for key in ("train/loss", "test/top1", "step/compute"):  # as names or patterns, by wandb's age
        assert any(fnmatch(key, each) for each in drawn)


@pytest.mark.parametrize(
    ("mode", "begins"),
    [
        ("online", "http://"),
        ("run", "http://"),
        ("", "http://"),
        ("offline", "offline, "),
        ("dryrun", "offline, "),
        ("disabled", "none"),
    ],
)
def test_wandb_mode_decides_what_auto_is(wandb_server, track, monkeypatch, mode, begins):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert _use(track("auto")).startswith(begins)


@pytest.mark.parametrize("mode", ["Offline", "offline ", "DISABLED"])
@pytest.mark.parametrize("wanted", ["auto", "online", "offline"])
def test_a_mode_that_wandb_does_not_know_is_refused(
    wandb_server, track, tmp_path, monkeypatch, mode, wanted
):
    monkeypatch.setenv("WANDB_MODE", mode)
    for start in (track, check_tracking):
        with pytest.raises(ReportedError, match="WANDB_MODE"):
            start(wanted)
    check_tracking("disabled")
    assert wandb_server.runs == {}
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_keeps_a_secret(track, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "user:a-secret")
    with pytest.raises(ReportedError, match="WANDB_BASE_URL") as refused:
        track("auto")
    assert "a-secret" not in str(refused.value)


def _type(*command):
    subprocess.run([sys.executable, "-m", "wandb", *command], check=True, timeout=100)


@pytest.mark.parametrize(
    ("command", "begins"),
    [
        ("offline", "offline, "),
        ("off", "offline, "),
        ("disabled", "none"),
        ("online", "http://"),
        ("enabled", "http://"),
    ],
)
def test_what_is_typed_in_the_folder_is_heeded(wandb_server, track, command, begins):
    _type("disabled")
    _type(command)
    assert _use(track("auto")).startswith(begins)
    assert bool(wandb_server.runs) == (begins == "http://")


def test_a_login_at_a_host_is_used(wandb_server, track, monkeypatch):
    for name in ("WANDB_BASE_URL", "WANDB_API_KEY"):
        monkeypatch.delenv(name)
    _type("login", "--host", wandb_server.url, KEY)
    assert _use(track("auto")).startswith(wandb_server.url)


@pytest.mark.parametrize("folder", ["config", "wandb"])
def test_settings_that_wandb_cannot_take_keep_a_run_offline(
    wandb_server, track, tmp_path, tracker_warnings, folder
):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "settings").write_text("[default]\nmode = Offline\n")
    assert _use(track("auto")).startswith("offline, ")
    assert wandb_server.runs == {}
    [warning] = tracker_warnings()
    assert str(tmp_path / folder / "settings") in warning


@pytest.mark.parametrize(("value", "begins"), [("true", "none"), ("1", "none"), ("false", "http")])
def test_wandb_disabled_disables(wandb_server, track, monkeypatch, value, begins):
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert _use(track("auto")).startswith(begins)


def test_what_wandb_was_told_comes_before_the_defaults_and_after_what_is_asked(
    wandb_server, track, tmp_path, monkeypatch
):
    told = {"PROJECT": "theirs", "RUN_GROUP": "theirs", "TAGS": "a,b", "DIR": "elsewhere"}
    for name, value in told.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "elsewhere").mkdir()
    ours = {"project": "ours", "run_group": "ours", "run_tags": ("c",), "run_name": "ours"}
    given = {"project": None, "group": "asked", "tags": None, "name": None}
    tracker = track("online", defaults=ours, **given)
    _use(tracker)
    about = wandb_server.runs[tracker.run_id].about
    keys = ("project", "groupName", "tags", "displayName")
    assert [about[key] for key in keys] == ["theirs", "asked", ["a", "b"], "ours"]
    [folder] = tracker.folders
    assert folder.parent.resolve() == tmp_path / "elsewhere" / "wandb"


def _to_sync(place):
    return {Path(word).resolve() for word in place.split("wandb sync ")[1].split()}


def test_what_is_shown_uploads_every_run_of_several(wandb_server, track):
    trackers = []
    for name in "abc":
        trackers.append(track("offline", name=name))
        trackers[-1].finish(0)
    place = locations(trackers)
    assert len(_to_sync(place)) == 3
    wandb_server.upload(place)
    assert {run.about["displayName"] for run in wandb_server.runs.values()} == {*"abc"}


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


def test_a_resumed_run_is_one_run_with_all_steps(wandb_server, track):
    """Steps after the checkpoint are there twice."""
    first = track("offline")
    for step in range(1, 11):
        first.log(step, {"train/loss": 1.0})
    first.finish(1)
    second = track("offline", id=first.run_id)
    for step in range(6, 16):
        second.log(step, {"train/loss": 1.0})
    second.finish(0)
    assert _to_sync(second.location) == {*first.folders, *second.folders}
    wandb_server.upload(second.location)
    [run] = wandb_server.runs.values()
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
