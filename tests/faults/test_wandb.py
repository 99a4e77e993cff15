"""W&B under faults: training is not held up, and what was logged can be uploaded later."""

import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import wandb
from safetensors.torch import load_file

from recording.metrics import read_metrics
from recording.tracking import Tracker
from tests.programs import ROOT, finish, ranks, start, wait_until
from tests.runs import SETTINGS, STEPS
from tests.wandb_server import KEY

pytestmark = pytest.mark.programs

RUN: dict[str, Any] = {"id": None, "project": "alexnet", "name": "run", "config": {}}
ROWS = 40


@pytest.fixture
def track(wandb_server, tmp_path, monkeypatch):
    """Makes a tracker that waits for two seconds at most."""
    monkeypatch.setattr("recording.tracking.INIT_SECONDS", 2)
    monkeypatch.setattr("recording.tracking.FINISH_SECONDS", 2)
    yield lambda mode, folder=tmp_path: Tracker(mode, folder, **RUN)
    with suppress(Exception):  # of a test that failed after it had killed the service
        wandb.teardown()


def log_rows(tracker, count=ROWS, first=1):
    """The time that each call took."""
    times = []
    for step in range(first, first + count):
        before = time.perf_counter()
        tracker.log(step, {"train/loss": 1.0 / step, "step/forward": 0.5})
        times.append(time.perf_counter() - before)
    return times


def descendants(pid):
    """Ids of the processes that ``pid`` has started, and of those that these have."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for each in children for child in each.read_text().split()]
    return pids + [each for child in pids for each in descendants(child)]


def is_wandbs(pid):
    return b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("behaviour", ["refuses", "silent", "garbage", "status:401"])
def test_a_server_that_fails_at_the_start(
    wandb_server, track, tracker_warnings, monkeypatch, behaviour, happened
):
    wandb_server.behaviour = behaviour
    if behaviour == "refuses":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    before = time.monotonic()
    tracker = track("online")
    started = time.monotonic() - before
    log_rows(tracker)
    tracker.finish(0)
    [warning] = tracker_warnings()
    assert warning.endswith(tracker.location)
    assert len(tracker.folders) == 1
    wandb_server.behaviour = "well"
    wandb_server.upload(warning)
    assert wandb_server.runs[tracker.run_id].steps == [*range(1, ROWS + 1)]
    happened(
        f"W&B: server {behaviour} at the start",
        f"run kept offline after {started:.0f} s, wandb sync uploaded {ROWS} of {ROWS} rows",
    )


@pytest.mark.parametrize("behaviour", ["silent", "status:401"])
def test_a_server_that_fails_in_the_middle(
    wandb_server, track, tracker_warnings, behaviour, happened
):
    tracker = track("online")
    log_rows(tracker, 10)
    wandb_server.behaviour = behaviour
    times = log_rows(tracker, 2000, first=11)
    before = time.monotonic()
    tracker.finish(0)
    ended = time.monotonic() - before
    assert ended < 30
    assert statistics.median(times) < 0.02
    assert max(times) < 1
    [warning] = tracker_warnings()
    wandb_server.behaviour = "well"
    wandb_server.upload(warning)
    assert {*wandb_server.runs[tracker.run_id].steps} == {*range(1, 2011)}
    happened(
        f"W&B: server {behaviour} in the middle",
        f"log() {max(times) * 1e3:.0f} ms at most, ended in {ended:.0f} s, all rows synced later",
    )


def test_another_run_takes_over_when_wandbs_process_is_killed(
    wandb_server, track, tracker_warnings, happened
):
    tracker = track("online")
    log_rows(tracker, ROWS // 2)
    time.sleep(0.5)  # more than what a kill may cost
    [service] = filter(is_wandbs, descendants(os.getpid()))
    os.kill(service, signal.SIGKILL)
    time.sleep(0.5)  # until that is noticed
    log_rows(tracker, ROWS - ROWS // 2, 1 + ROWS // 2)
    tracker.finish(0)
    [warning] = tracker_warnings()
    assert len(tracker.folders) == 2
    wandb_server.upload(warning)
    run = wandb_server.runs[tracker.run_id]
    assert len({*run.steps}) >= ROWS - 1  # what the dying process was handed
    assert run.exit_code == 0
    happened("W&B: its process killed", f"{len({*run.steps})} of {ROWS} rows kept and synced")


TRAINING = f"""
import sys, time
from pathlib import Path
from recording.tracking import Tracker
tracker = Tracker("offline", Path(sys.argv[1]), **{RUN!r})
for step in range(1, 10**6):
    tracker.log(step, {{"train/loss": 1.0 / step}})
    print(step, time.time(), flush=True)
    time.sleep(0.01)
"""


def test_a_killed_training_loses_less_than_its_last_second(wandb_server, tmp_path, happened):
    process = start(sys.executable, "-c", TRAINING, tmp_path)
    lines = [process.stdout.readline().split() for _ in range(50)]
    process.kill()
    killed = time.time()
    lines += [line.split() for line in process.communicate()[0].splitlines()]
    [run] = wandb_server.upload_offline(tmp_path).values()
    assert run.steps == [*range(1, len(run.steps) + 1)]
    lost = [float(when) for step, when in lines[len(run.steps) :]]
    assert all(when > killed - 1 for when in lost)
    span = killed - min(lost, default=killed)
    happened("W&B: training killed", f"the last {span:.2f} s lost, the rest synced")


def test_a_full_disk_is_told_at_the_end(track, tracker_warnings, happened):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may be larger
    try:
        tracker = track("offline")
        log_rows(tracker, 5000)
        tracker.finish(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    [warning] = tracker_warnings()
    assert "run-" in warning
    happened("W&B: full disk", "training went on, one warning at the end")


SHORT = f"""
import sys
from pathlib import Path
from recording.tracking import Tracker
tracker = Tracker("offline", Path(sys.argv[1]), **{RUN!r})
tracker.log(1, {{"train/loss": 1.0}})
tracker.finish(0)
"""


def test_without_a_writable_home_wandb_works_and_keeps_silent(wandb_server, tmp_path, happened):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/proc"}
    environment |= {f"WANDB_{kind}_DIR": "/proc/none" for kind in ("CACHE", "CONFIG", "DATA")}
    command = [sys.executable, "-c", SHORT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [run] = wandb_server.upload_offline(tmp_path).values()
    assert run.steps == [1]
    happened("W&B: no writable home", "not a word, run written")


# --- The whole program --------------------------------------------------------------------------


def train(runs, mode, *arguments, world=0):
    """Start a short training in a process of its own."""
    settings = (f"runs={runs}", f"name={mode}", f"tracking.mode={mode}", "keep_checkpoints=1")
    home = {"HOME": str(runs), "XDG_CACHE_HOME": str(Path.home() / ".cache")}  # compiled kernels
    return start(*ranks(world), "train.py", *SETTINGS, *settings, *arguments, **home)


def losses(folder):
    """The losses of every step and evaluation."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [(line.get("train/loss"), line.get("test/loss")) for line in lines]


def warnings_in(out):
    """The warnings of W&B among what a training printed."""
    return [line for line in out.splitlines() if line.startswith(("W&B failed", "W&B did"))]


def test_sigterm_to_every_process_of_a_run_leaves_one_run(wandb_server, tmp_path, happened):
    """As Slurm sends it: to W&B's process too, which ends. Nor does the API key go anywhere."""
    process = train(tmp_path, "online", "max_steps=100000", "epochs=100000")
    metrics = tmp_path / "online" / "metrics.jsonl"
    wait_until(lambda: len(read_metrics(metrics)) > 3, timeout=120)
    pids = descendants(process.pid)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, *pids)]
    assert any(map(is_wandbs, pids))
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGTERM)
    status, out, err = finish(process)
    assert (status, err) == (128 + signal.SIGTERM, "")
    assert list((tmp_path / "online" / "checkpoints").iterdir())

    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in (*files, *commands, out.encode()))

    [warning] = warnings_in(out)
    assert warning.count("run-") == 2
    wandb_server.upload(warning)
    [run] = wandb_server.runs.values()
    steps = {line["step"] for line in read_metrics(metrics)}
    assert len(steps - {*run.steps}) <= 2  # the last two steps are told at once
    assert run.summary["steps"] == max(steps)
    happened("W&B: SIGTERM to all processes", "a checkpoint; both folders upload to one run")


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["silent", "slow", "empty", "status:500"])
def test_training_beside_a_bad_server(wandb_server, tmp_path, behaviour, happened):
    before = time.monotonic()
    status, _, err = finish(train(tmp_path, "disabled", world=2), timeout=600)
    least = time.monotonic() - before
    assert status == 0, err
    wandb_server.behaviour = behaviour
    before = time.monotonic()
    status, out, err = finish(train(tmp_path, "online", world=2), timeout=600)
    took = time.monotonic() - before
    assert (status, err) == (0, "")
    ours, theirs = tmp_path / "online", tmp_path / "disabled"
    assert losses(ours) == losses(theirs)
    name = f"checkpoints/step-{STEPS:08d}/model.safetensors"
    weights, same = load_file(ours / name), load_file(theirs / name)
    assert all((weights[key] == same[key]).all() for key in weights | same)
    wandb_server.behaviour = "well"
    if behaviour == "slow":
        assert warnings_in(out) == []
    else:
        [warning] = warnings_in(out)
        wandb_server.upload(warning)
    [run] = wandb_server.runs.values()
    assert {*run.steps} == {line["step"] for line in read_metrics(ours / "metrics.jsonl")}
    happened(
        f"W&B: 2 ranks train, server {behaviour}",
        f"same losses and weights, status 0, {max(took - least, 0):.0f} s later",
    )
