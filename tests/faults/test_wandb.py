"""W&B under faults: training is not held up, and what was logged can be uploaded later."""

import json
import os
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import wandb
from safetensors.torch import load_file

from recording.metrics import read_metrics, read_objects
from recording.tracking import INIT_SECONDS, Tracker
from tests.programs import ROOT, finish, ranks, start, wait_until
from tests.runs import SETTINGS, STEPS
from tests.wandb_files import read_run

pytestmark = pytest.mark.programs

KEY = "a1b2c3d4e5" * 4
RUN: dict[str, Any] = {"id": None, "project": "alexnet", "name": "run", "config": {}}
ROWS = 40


class Server:
    """tests/faults/wandb_server.py in a process of its own."""

    def __init__(self, folder, behaviour, port=0):
        folder.mkdir(exist_ok=True)
        (folder / "port").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.faults.wandb_server", folder, str(port), behaviour]
        self.folder = folder
        self.process = subprocess.Popen(command, cwd=ROOT)
        wait_until((folder / "port").exists)
        self.port = int((folder / "port").read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def rows(self, run_id):
        return read_objects(self.folder / f"{run_id}.jsonl")

    def losses(self, run_id):
        return [row["train/loss"] for row in self.rows(run_id)]

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(tmp_path):
    """Starts a server that behaves as it is told; it ends with the test."""
    servers = []

    def serve(behaviour, **where):
        servers.append(Server(tmp_path / "server", behaviour, **where))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def track(tmp_path, monkeypatch):
    """Makes a tracker of a server, online, or of none, offline."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr("recording.tracking.INIT_SECONDS", 2)
    monkeypatch.setattr("recording.tracking.FINISH_SECONDS", 2)

    def track(url=None, folder=tmp_path, run_id=None):
        if url:
            monkeypatch.setenv("WANDB_BASE_URL", url)
        return Tracker("online" if url else "offline", folder, **{**RUN, "id": run_id})

    yield track
    with suppress(Exception):  # of a test that failed after it had killed the service
        wandb.teardown()


def log_rows(tracker, count=ROWS, first=1):
    """How long each call took."""
    times = []
    for step in range(first, first + count):
        before = time.perf_counter()
        tracker.log(step, {"train/loss": 1.0 / step, "step/forward": 0.5})
        times.append(time.perf_counter() - before)
    return times


def losses(folder):
    return [line["train/loss"] for line in read_run(folder).history]


def expected(last=ROWS, first=1):
    return [1.0 / step for step in range(first, last + 1)]


def upload(words, url):
    """Run the command that a warning ends with."""
    command = words.partition("to upload: ")[2]
    assert command.startswith("wandb sync ")
    with TemporaryDirectory() as logs:
        settings = {"MODE": "online", "DIR": logs, "BASE_URL": url, "API_KEY": KEY}
        environment = {**os.environ, **{f"WANDB_{key}": settings[key] for key in settings}}
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr


def kill_service():
    """Kill the process that wandb has started beside this one."""
    children = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for child in children for pid in child.read_text().split()]
    [pid] = [pid for pid in pids if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)  # until that is noticed


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# --- The server ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour", ["refuses", "silent", "garbage", "status:500", "status:401", "status:404"]
)
def test_a_server_that_fails_at_the_start(
    serve, track, tmp_path, tracker_warnings, closed_port, behaviour, happened
):
    url = closed_port if behaviour == "refuses" else serve(behaviour).url
    before = time.monotonic()
    tracker = track(url)
    started = time.monotonic() - before
    log_rows(tracker)
    tracker.finish(0)
    [warning] = tracker_warnings()
    assert warning.startswith("W&B failed, the run is kept offline (")
    assert warning.endswith(tracker.location.removeprefix("offline, "))
    [folder] = tmp_path.glob("wandb/offline-run-*")
    assert losses(folder) == expected()
    happened(f"W&B: server {behaviour} at the start", f"run kept offline after {started:.0f} s")


def test_what_was_kept_offline_is_uploaded_by_the_command_given(
    serve, track, tracker_warnings, closed_port, happened
):
    tracker = track(closed_port)
    log_rows(tracker)
    tracker.finish(0)
    server = serve("well")
    [warning] = tracker_warnings()
    upload(warning, server.url)
    assert server.losses(tracker.run_id) == expected()
    happened("W&B: server back after the run", f"wandb sync uploaded {ROWS} of {ROWS} rows")


def test_a_server_that_is_well_gets_everything(serve, track, tmp_path, tracker_warnings):
    server = serve("well")
    tracker = track(server.url)
    assert tracker.location == f"{server.url}/someone/alexnet/runs/{tracker.run_id}"
    log_rows(tracker)
    tracker.finish(0)
    assert server.losses(tracker.run_id) == losses(tmp_path) == expected()
    assert tracker_warnings() == []


def test_a_slow_server_gets_everything(
    serve, track, tmp_path, monkeypatch, tracker_warnings, happened
):
    monkeypatch.setattr("recording.tracking.INIT_SECONDS", INIT_SECONDS)
    monkeypatch.setattr("recording.tracking.FINISH_SECONDS", 30)
    server = serve("slow")
    tracker = track(server.url)
    slowest = max(log_rows(tracker))
    tracker.finish(0)
    assert server.losses(tracker.run_id) == losses(tmp_path) == expected()
    assert tracker_warnings() == []
    happened(
        "W&B: server takes a second to answer", f"all rows there, log() {slowest * 1e3:.0f} ms"
    )


@pytest.mark.parametrize("fault", ["dies", "stops", "revoked"])
def test_a_server_that_fails_in_the_middle(
    serve, track, tmp_path, tracker_warnings, fault, happened
):
    """Killed, suspended, or with a key that is no longer good."""
    server = serve("revoked:2" if fault == "revoked" else "well")
    tracker = track(server.url)
    times = log_rows(tracker, ROWS // 2)
    if fault == "dies":
        server.stop()
    elif fault == "stops":
        server.process.send_signal(signal.SIGSTOP)
    times += log_rows(tracker, ROWS - ROWS // 2, 1 + ROWS // 2)
    before = time.monotonic()
    tracker.finish(0)
    ended = time.monotonic() - before
    assert ended < 30
    assert statistics.median(times) < 0.02
    assert max(times) < 1
    [warning] = tracker_warnings()
    assert warning.startswith("W&B did not end the run well (")
    assert losses(tmp_path) == expected()

    server.stop()
    server = serve("well", port=server.port)
    upload(warning, server.url)
    assert sorted({*server.losses(tracker.run_id)}, reverse=True) == expected()
    happened(
        f"W&B: server {fault} in the middle",
        f"log() {max(times) * 1e3:.0f} ms at most, ended in {ended:.0f} s, all rows synced later",
    )


def test_log_is_not_held_up_by_a_server_that_has_stopped(serve, track, tmp_path):
    """However much there is to send."""
    server = serve("well")
    tracker = track(server.url)
    server.process.send_signal(signal.SIGSTOP)
    times = log_rows(tracker, 5000)
    tracker.finish(0)
    assert statistics.median(times) < 0.02
    assert max(times) < 1
    assert losses(tmp_path) == expected(5000)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openwandb"), reason="openwandb is not on the PATH")
def test_another_server_that_speaks_wandb(
    track, tmp_path, closed_port, tracker_warnings, monkeypatch
):
    """A run online, its resumption, a run while the server is suspended, and its upload."""
    monkeypatch.setattr("recording.tracking.INIT_SECONDS", 30)
    port = closed_port.rpartition(":")[2]
    command = ["openwandb", "serve", "--host", "127.0.0.1", "--port", port]
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen([*command, "--data-dir", tmp_path / "data"], stdout=log, stderr=log)

    def rows(run_id):
        request = urllib.request.Request(f"{closed_port}/api/v2/runs/{run_id}/metrics")
        request.add_header("Authorization", f"Basic {b64encode(f'api:{KEY}'.encode()).decode()}")
        found = json.load(urllib.request.urlopen(request))["metrics_by_key"]
        return sorted(int(point["value"]) for point in found.get("global_step", []))

    try:
        wait_until(lambda: "startup complete" in (tmp_path / "server.log").read_text())
        first = track(closed_port)
        log_rows(first)
        first.finish(0)
        assert rows(first.run_id) == [*range(1, ROWS + 1)]
        assert tracker_warnings() == []

        second = track(closed_port, folder=tmp_path / "second")
        server.send_signal(signal.SIGSTOP)
        log_rows(second)
        second.finish(0)
        server.send_signal(signal.SIGCONT)
        [warning] = tracker_warnings()
        upload(warning, url=closed_port)
        assert rows(second.run_id) == [*range(1, ROWS + 1)]
    finally:
        server.kill()
        server.wait()
        log.close()


# --- W&B's own process, and ours ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_an_offline_run_takes_over_when_wandbs_process_dies(
    serve, track, tmp_path, tracker_warnings, mode, happened
):
    server = serve("well")
    tracker = track(server.url if mode == "online" else None)
    log_rows(tracker, ROWS // 2)
    time.sleep(0.5)  # more than what a kill may cost
    kill_service()
    log_rows(tracker, ROWS - ROWS // 2, 1 + ROWS // 2)
    tracker.finish(0)

    first, second = sorted(tmp_path.glob("wandb/*run-*"), key=lambda path: path.stat().st_ctime)
    kept = losses(first) + losses(second)
    assert set(kept) <= set(expected())
    assert len(kept) >= ROWS - 1  # what the dying process was handed
    assert read_run(second).exit_codes == [0]
    assert read_run(first).record.run_id == read_run(second).record.run_id == tracker.run_id

    assert tracker.location.startswith("offline, to upload: ")
    [warning] = tracker_warnings()
    assert warning.endswith(tracker.location.removeprefix("offline, "))
    upload(warning, server.url)
    assert set(server.losses(tracker.run_id)) == set(kept)
    happened(f"W&B: its process killed, {mode}", f"{len(kept)} of {ROWS} rows kept and synced")


def test_wandbs_process_dying_twice_ends_the_tracking(track, tmp_path, tracker_warnings):
    tracker = track()
    for first in (1, 11):
        log_rows(tracker, 10, first)
        time.sleep(0.5)
        kill_service()
    log_rows(tracker, 10, first=21)
    tracker.finish(0)
    first, second = tracker_warnings()
    assert first.startswith("W&B failed, the run is kept offline (")
    assert second.startswith("W&B failed, training goes on without it: ")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    assert tracker.location.count("offline-run-") == 2


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


def test_a_killed_training_loses_less_than_its_last_second(serve, tmp_path, happened):
    process = start(sys.executable, "-c", TRAINING, tmp_path)
    lines = [process.stdout.readline().split() for _ in range(50)]
    process.kill()
    killed = time.time()
    lines += [line.split() for line in process.communicate()[0].splitlines()]
    kept = losses(tmp_path)
    assert kept == expected(len(kept))
    lost = [float(when) for step, when in lines[len(kept) :]]
    assert all(when > killed - 1 for when in lost)

    [folder] = tmp_path.glob("wandb/offline-run-*")
    server = serve("well")
    upload(f"to upload: wandb sync {folder}", server.url)
    assert server.losses(folder.name.rpartition("-")[2]) == kept
    span = killed - min(lost, default=killed)
    happened("W&B: training killed", f"the last {span:.2f} s lost, the rest synced")


def test_a_resumed_run_is_one_run_after_its_upload(serve, track, tmp_path):
    """Steps after the checkpoint are there twice, and are told apart by nothing but their order."""
    first = track()
    log_rows(first, 10)
    first.finish(1)
    second = track(run_id=first.run_id)
    log_rows(second, 10, first=6)
    second.finish(0)
    server = serve("well")
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    upload(f"to upload: {shlex.join(['wandb', 'sync', *map(str, folders)])}", server.url)
    rows = server.rows(first.run_id)
    assert [row["global_step"] for row in rows] == [*range(1, 11), *range(6, 16)]


# --- The disk and the home ----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of half a megabyte."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_files(tmp_path):
    """No file may grow beyond 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("disk", ["small_disk", "small_files"])
def test_a_full_disk_is_told_at_the_end(request, track, tracker_warnings, disk, happened):
    folder = request.getfixturevalue(disk)
    tracker = track(folder=folder)
    log_rows(tracker, 5000)
    tracker.finish(0)
    [warning] = tracker_warnings()
    assert "the disk refused the last of" in warning
    happened(f"W&B: {disk.replace('_', ' ')}", "training went on, one warning at the end")


SHORT = f"""
import pwd, sys
if sys.argv[2] == "unknown user":
    pwd.getpwuid = {{}}.__getitem__
from pathlib import Path
from recording.tracking import Tracker
tracker = Tracker("offline", Path(sys.argv[1]), **{RUN!r})
tracker.log(1, {{"train/loss": 1.0}})
tracker.finish(0)
"""


@pytest.mark.parametrize("home", ["none", "unwritable", "unwritable caches", "unknown user"])
def test_without_a_home_wandb_works_and_keeps_silent(tmp_path, home, happened):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment["PYTHONPATH"] = str(ROOT)
    del environment["HOME"]
    if home.startswith("unwritable"):
        environment["HOME"] = "/proc"
    if home == "unwritable caches":
        environment |= {f"WANDB_{kind}_DIR": "/proc/none" for kind in ("CACHE", "CONFIG", "DATA")}
    command = [sys.executable, "-c", SHORT, str(tmp_path), home]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert losses(tmp_path / "wandb") == [1.0]
    happened(f"W&B: home {home}", "not a word, run written")


# --- The whole program --------------------------------------------------------------------------


def train(runs, name, *arguments, world=0, **environment):
    """Start a short training in a process of its own."""
    environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # compiled kernels
    settings = [*SETTINGS, f"runs={runs}", f"name={name}", "keep_checkpoints=1", *arguments]
    return start(*ranks(world), "train.py", *settings, HOME=str(runs), **environment)


def assert_same_training(found, wanted):
    for key in ("train/loss", "test/loss"):
        ours, theirs = (
            [line[key] for line in read_metrics(folder / "metrics.jsonl") if key in line]
            for folder in (found, wanted)
        )
        assert ours == theirs
    name = f"checkpoints/step-{STEPS:08d}/model.safetensors"
    weights, same = load_file(found / name), load_file(wanted / name)
    assert all((weights[key] == same[key]).all() for key in weights | same)


def told(out):
    """The warnings of W&B among what a training printed."""
    return [line for line in out.splitlines() if line.startswith("W&B ") and "(" in line]


def test_the_key_is_written_nowhere_and_shown_to_nobody(serve, tmp_path):
    url = serve("well").url
    settings = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
    process = train(tmp_path, "online", "tracking.mode=online", **settings)
    seen = b""
    while process.poll() is None:
        seen += b"".join(command_lines())
        time.sleep(0.1)
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    assert told(out) == []
    assert f"{url}/someone/alexnet/runs/" in out
    assert KEY not in out
    assert b"wandb-core" in seen
    assert KEY.encode() not in seen
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".wandb", ".yaml", ".jsonl", ".safetensors"} <= {path.suffix for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    """Gives a training without W&B on that many ranks, and how long it took."""
    made = {}

    def untracked(world):
        if world not in made:
            runs, before = tmp_path_factory.mktemp("untracked"), time.monotonic()
            status, _, err = finish(train(runs, "disabled", world=world), timeout=600)
            assert status == 0, err
            made[world] = runs / "disabled", time.monotonic() - before
        return made[world]

    return untracked


@pytest.mark.slow
@pytest.mark.parametrize("world", [0, 2])
@pytest.mark.parametrize(
    "behaviour",
    ["refuses", "silent", "slow", "garbage", "empty", "status:500", "status:401", "dies:4"],
)
def test_training_beside_a_bad_server(
    serve, untracked, tmp_path, closed_port, behaviour, world, happened
):
    url = closed_port if behaviour == "refuses" else serve(behaviour).url
    settings = {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
    before = time.monotonic()
    process = train(tmp_path, "online", "tracking.mode=online", world=world, **settings)
    status, out, err = finish(process, timeout=600)
    took = time.monotonic() - before
    assert (status, err) == (0, "")
    baseline, least = untracked(world)
    assert_same_training(tmp_path / "online", baseline)
    wanted = len(read_metrics(baseline / "metrics.jsonl"))
    rows = [line for path in tmp_path.rglob("*.wandb") for line in read_run(path.parent).history]
    assert len([row for row in rows if "global_step" in row]) == wanted
    if behaviour == "slow":
        assert told(out) == []
    else:
        [warning] = told(out)
        upload(warning, serve("well").url)
    happened(
        f"W&B: {max(world, 1)} rank(s) train, server {behaviour}",
        f"same losses and weights, status 0, {max(took - least, 0):.0f} s later",
    )
