"""Weights & Biases: what is written without a network, and that no failure of it does harm."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb

from tests.wandb_files import read_run
from training.tracking import INIT_SECONDS, Tracker, choose_mode

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
def warnings(caplog):
    def warnings():
        ours = [record for record in caplog.records if record.name == "training.tracking"]
        return [record.getMessage() for record in ours]

    return warnings


@pytest.fixture
def closed_port(monkeypatch):
    """A W&B server that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")


def _login(machine):
    Path(os.environ["NETRC"]).write_text(f"machine {machine}\n login user\n password {KEY}\n")


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
        "from pathlib import Path; from training.tracking import Tracker, choose_mode;"
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


def test_an_offline_run_holds_what_was_logged(tmp_path, track, warnings):
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
    assert warnings() == []


def test_metrics_are_drawn_over_the_global_step(tmp_path, track):
    track("offline").finish(0)
    metrics = read_run(tmp_path).metrics
    over_steps = {
        metric.name or metric.glob_name for metric in metrics if metric.step_metric == "global_step"
    }
    assert over_steps == {"train/*", "test/*", "time/*", "test/top1"}
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


def test_disabled_writes_and_says_nothing(tmp_path, track, warnings):
    tracker = track("disabled")
    _use_everything(tracker, tmp_path / "none.png")
    assert tracker.location == "none"
    assert list(tmp_path.iterdir()) == []
    assert warnings() == []


def test_a_failure_is_told_once_and_ends_the_tracking(tmp_path, track, warnings, monkeypatch):
    def fail(*_):
        calls.append(1)
        raise OSError("the disk\nis full")

    calls: list[int] = []
    tracker = track("offline")
    monkeypatch.setattr(tracker.run, "log", fail)
    tracker.log(1, {"train/loss": 1.0})
    _use_everything(tracker, tmp_path / "none.png")
    assert len(calls) == 1
    assert warnings() == ["W&B failed, training goes on without it: the disk is full"]


def _service():
    """The process that wandb has started beside this one."""
    children = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for child in children for pid in child.read_text().split()]
    [pid] = [pid for pid in pids if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process in /proc")
def test_the_death_of_wandbs_process_is_told_once(tmp_path, track, warnings):
    tracker = track("offline")
    tracker.log(1, {"train/loss": 1.0})
    os.kill(_service(), signal.SIGKILL)
    for step in range(2, 100):
        tracker.log(step, {"train/loss": 1.0})
        time.sleep(0.01)
    _use_everything(tracker, tmp_path / "none.png")
    [warning] = warnings()
    assert warning.startswith("W&B failed, training goes on without it: ")
    wandb.teardown()  # as the interpreter does at its exit


@pytest.mark.parametrize(
    "seconds", [2, pytest.param(INIT_SECONDS, marks=pytest.mark.slow)], ids=["hasty", "as it is"]
)
def test_a_server_out_of_reach_leaves_the_run_offline(
    tmp_path, track, warnings, closed_port, monkeypatch, seconds
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr("training.tracking.INIT_SECONDS", seconds)
    before = time.monotonic()
    tracker = track(choose_mode("auto"))
    assert time.monotonic() - before < seconds + 30
    assert tracker.location.startswith("offline")
    failure, consequence = warnings()
    assert failure.startswith("W&B failed, training goes on without it: ")
    assert consequence == "W&B: the run is kept offline instead"

    tracker.log(1, {"train/loss": 1.5})
    tracker.finish(0)
    [kept] = tmp_path.glob("wandb/offline-run-*")
    assert [line["train/loss"] for line in read_run(kept).history] == [1.5]
    assert len(warnings()) == 2
