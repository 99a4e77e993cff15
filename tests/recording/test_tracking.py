"""Weights & Biases: what is written without a network, and that no failure of it does harm."""

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from recording.tracking import Tracker, choose_mode
from tests.wandb_files import read_run

KEY = "0123456789" * 4
RUN = {
    "id": None,
    "project": "alexnet",
    "group": "comparison",
    "job_type": "train",
    "name": "fashion-2",
    "tags": ["paper", "split"],
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """No API key, no mode, and a netrc file that a test may write."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


@pytest.fixture
def track(tmp_path):
    def track(mode, **config):
        return Tracker(mode, tmp_path, config=config, **RUN)

    return track


@pytest.fixture
def closed_port(monkeypatch):
    """A W&B server that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")


def _login(machine):
    Path(os.environ["NETRC"]).write_text(f"machine {machine}\n login user\n password {KEY}\n")


def test_a_mode_in_the_environment_that_is_none_does_no_harm(track, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    tracker = track("offline")
    tracker.log(1, {"train/loss": 0.5})
    tracker.finish(0)
    assert tracker.location.startswith("offline, to upload: wandb sync ")


def test_auto_is_offline_without_a_key():
    assert choose_mode("auto") == "offline"


def test_auto_is_online_with_a_key_in_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert choose_mode("auto") == "online"


@pytest.mark.parametrize("machine", ["api.wandb.ai", "wandb's own default"])
def test_auto_is_online_after_a_login(machine):
    default = wandb.Settings.model_fields["base_url"].default.removeprefix("https://")
    _login("api.wandb.ai" if machine == "api.wandb.ai" else default)
    assert choose_mode("auto") == "online"


@pytest.mark.parametrize(
    ("machine", "mode"),
    [("wandb.example.org:8080", "online"), ("api.wandb.ai", "offline")],
)
def test_a_login_counts_for_the_server_in_use_alone(monkeypatch, machine, mode):
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example.org:8080")
    _login(machine)
    assert choose_mode("auto") == mode


@pytest.mark.parametrize("text", ["machine example.org\n password x\n", "nonsense"])
def test_auto_is_offline_with_a_netrc_file_that_does_not_help(text):
    Path(os.environ["NETRC"]).write_text(text)
    assert choose_mode("auto") == "offline"


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_wandb_mode_decides_what_auto_is_and_nothing_else(monkeypatch, mode):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert choose_mode("auto") == mode
    for said in ("online", "offline", "disabled"):
        assert choose_mode(said) == said


@pytest.mark.parametrize("wanted", ["auto", "online"])
def test_nobody_is_asked_for_a_key(tmp_path, closed_port, wanted):
    """On a terminal, where wandb would ask for one and wait."""
    script = (
        "from pathlib import Path; from recording.tracking import Tracker, choose_mode;"
        f"mode, folder = choose_mode({wanted!r}), Path({str(tmp_path)!r});"
        f"tracker = Tracker(mode, folder, config={{}}, **{RUN});"
        "print(tracker.location); tracker.finish(0)"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        timeout=60,
    )
    os.close(theirs)
    os.close(ours)
    assert done.stdout.startswith("offline, to upload: wandb sync ")
    assert done.returncode == 0


def test_an_offline_run_holds_what_was_logged(tmp_path, track, tracker_warnings):
    tracker = track("offline", seed=3, data={"size": 96})
    for step in (1, 2):
        tracker.log(step, {"train/loss": 2.0 / step, "epoch": step / 2})
    tracker.log(2, {"test/top1": 0.75})
    tracker.log(2, {"test/top1": 0.5})
    tracker.summarize({"test_top1": 0.5, "checkpoint": "runs/a"})
    tracker.finish(0)

    run = read_run(tmp_path)
    assert run.config["seed"] == 3
    assert run.config["data"] == {"size": 96}
    assert [(line["global_step"], line.get("train/loss")) for line in run.history] == [
        (1, 2.0),
        (2, 1.0),
        (2, None),
        (2, None),
    ]
    assert [line["test/top1"] for line in run.history[2:]] == [0.75, 0.5]
    assert run.summary["test_top1"] == 0.5
    assert run.summary["checkpoint"] == "runs/a"
    assert run.summary["test/top1"] == {"max": 0.75}
    assert run.exit_codes == [0]
    assert run.record.run_id == tracker.run_id
    assert run.record.project == RUN["project"]
    assert run.record.run_group == RUN["group"]
    assert run.record.job_type == RUN["job_type"]
    assert run.record.display_name == RUN["name"]
    assert list(run.record.tags) == RUN["tags"]
    assert tracker_warnings() == []


def test_metrics_are_drawn_over_the_global_step(tmp_path, track):
    track("offline").finish(0)
    metrics = read_run(tmp_path).metrics
    over_steps = {
        metric.name or metric.glob_name for metric in metrics if metric.step_metric == "global_step"
    }
    assert over_steps == {"train/*", "test/*", "step/*", "test/top1"}
    assert [metric.name for metric in metrics if metric.summary.max] == ["test/top1"]


def test_an_offline_run_says_nothing_of_its_own(track, capfd):
    tracker = track("offline")
    tracker.log(1, {"train/loss": 1.0})
    tracker.finish(0)
    assert capfd.readouterr() == ("", "")


def test_a_large_run_is_whole(tmp_path, track):
    """Records longer than a block of the file, and many short ones."""
    tracker = track("offline", text="x" * 100_000)
    for step in range(1, 401):
        tracker.log(step, {"train/loss": 1.0 / step})
    tracker.finish(0)
    run = read_run(tmp_path)
    assert run.config["text"] == "x" * 100_000
    assert [line["train/loss"] for line in run.history] == [1.0 / step for step in range(1, 401)]


def test_a_failed_run_is_marked_as_failed(tmp_path, track):
    track("offline").finish(1)
    assert read_run(tmp_path).exit_codes == [1]


def test_a_resumed_run_has_the_id_it_had(track, tmp_path):
    first = track("offline")
    first.finish(0)
    second = Tracker("offline", tmp_path / "again", config={}, **{**RUN, "id": first.run_id})
    assert second.run_id == first.run_id
    second.finish(0)
    assert read_run(tmp_path / "again").record.run_id == first.run_id


def _use_everything(tracker, picture):
    tracker.log(9, {"train/loss": 1.0})
    tracker.log_image("curves", picture)
    tracker.summarize({"test_top1": 0.5})
    tracker.finish(0)


def test_disabled_writes_and_says_nothing(tmp_path, track, tracker_warnings):
    tracker = track("disabled")
    _use_everything(tracker, tmp_path / "none.png")
    assert tracker.location == "none"
    assert list(tmp_path.iterdir()) == []
    assert tracker_warnings() == []


def _fail(*_):
    raise OSError("the disk\nis full")


def test_a_run_that_fails_is_gone_on_with_and_this_is_told_once(
    tmp_path, track, tracker_warnings, monkeypatch
):
    tracker = track("offline")
    tracker.log(1, {"train/loss": 1.0})
    monkeypatch.setattr(tracker.run, "log", _fail)
    tracker.log(2, {"train/loss": 0.5})
    tracker.log(3, {"train/loss": 0.25})
    tracker.finish(0)
    [warning] = tracker_warnings()
    assert warning.startswith("W&B failed, the run is kept offline (the disk is full); to upload: ")
    runs = [read_run(folder) for folder in sorted(tmp_path.glob("wandb/offline-run-*"))]
    assert [[line["train/loss"] for line in run.history] for run in runs] == [[1.0], [0.5, 0.25]]
    assert {run.record.run_id for run in runs} == {tracker.run_id}
    assert tracker.location.count("offline-run-") == 2


def test_a_second_failure_ends_the_tracking(tmp_path, track, tracker_warnings, monkeypatch):
    tracker = track("offline")
    for _ in range(2):
        monkeypatch.setattr(tracker.run, "log", _fail)
        tracker.log(1, {"train/loss": 1.0})
    _use_everything(tracker, tmp_path / "none.png")
    assert tracker_warnings()[1:] == ["W&B failed, training goes on without it: the disk is full"]
