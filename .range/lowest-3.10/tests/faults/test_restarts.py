"""Runs whose ranks die and which their launcher starts again, with --max-restarts."""

import json
import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recording.metrics import read_metrics
from tests.programs import LAUNCH, TORCHRUN, finish, processes_mentioning, run, start, wait_until
from tests.runs import SETTINGS, losses

pytestmark = pytest.mark.programs

TRAIN = Path(__file__).with_name("injected.py")
PATIENCE = 400
MOST_KILLS = 50
"""In a soak, which ends before."""
LAUNCHERS = pytest.mark.parametrize("launcher", [LAUNCH, TORCHRUN], ids=["ours", "torchrun"])


def train(runs, fault, *arguments, launcher=LAUNCH, restarts=2, ranks=2):
    flags = [str(ranks), f"--max-restarts={restarts}"]
    settings = [*SETTINGS, f"runs={runs}", "checkpoint_every=1", *arguments]
    return run(*launcher, *flags, TRAIN, *settings, timeout=PATIENCE, FAULT=fault)


def assert_same_run(found, expected):
    """Bit for bit: the same losses, weights and momentum."""
    assert losses(found) == losses(expected)
    newest = max((expected / "checkpoints").glob("step-*")).name
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(run / "checkpoints" / newest / file) for run in (found, expected))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    status, _, err = train(runs, "none:9:9")
    assert status == 0, err
    return runs / "run"


@pytest.mark.parametrize(
    ("fault", "ending", "begins_after"),  # the last checkpoint may not have been written yet
    [
        ("kill:1:5", "rank 1 was ended by SIGKILL", (3, 4)),
        pytest.param("kill:0:2", "rank 0 was ended by SIGKILL", (0, 1), marks=pytest.mark.slow),
        pytest.param("segfault:0:5", "rank 0 was ended by SIGSEGV", (3, 4), marks=pytest.mark.slow),
        pytest.param("raise:1:5", "exited with status 1", (3, 4), marks=pytest.mark.slow),
        ("leave:0:5", "before that, rank 0 had left with status 0", (3, 4)),
        pytest.param("memory:1:5", "exited with status 1", (3, 4), marks=pytest.mark.slow),
    ],
)
def test_a_lost_rank_costs_an_attempt_and_nothing_else(
    undisturbed, tmp_path, happened, fault, ending, begins_after
):
    status, out, err = train(tmp_path, fault)
    assert status == 0, err
    [again] = re.findall(rf"continuing {tmp_path}/run after step (\d+), attempt 2", out)
    assert int(again) in begins_after
    [told] = [line for line in err.splitlines() if "starting again" in line]
    assert ending in told
    assert told.endswith("starting again (restarts left: 1)")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_same_run(tmp_path / "run", undisturbed)
    happened(f"{fault}, --max-restarts 2", f"{told}; the run equals an undisturbed one")


def test_a_hybrid_that_lost_a_rank_goes_on_exactly_too(tmp_path, happened):
    settings = ("placement=hybrid", "classifier_scheme=c")
    status, _, err = train(tmp_path / "calm", "none:9:9", *settings)
    assert status == 0, err
    status, out, err = train(tmp_path / "lost", "kill:1:5", *settings)
    assert status == 0, err
    assert re.search(rf"continuing {tmp_path}/lost/run after step [34], attempt 2", out)
    assert_same_run(tmp_path / "lost" / "run", tmp_path / "calm" / "run")
    happened("kill:1:5 in a hybrid, --max-restarts 2", "the run equals an undisturbed one")


def test_bare_torchrun_starts_a_run_again_too(undisturbed, tmp_path, happened):
    status, out, err = train(tmp_path, "kill:1:5", launcher=TORCHRUN)
    assert status == 0, err
    assert re.search(rf"continuing {tmp_path}/run after step [34], attempt 2", out)
    assert_same_run(tmp_path / "run", undisturbed)
    happened("kill:1:5 under torchrun --max-restarts 2", "the run equals an undisturbed one")


def test_a_launch_that_has_lost_all_its_attempts_says_so(tmp_path, happened):
    status, _, err = train(tmp_path, "kill:1:2", restarts=0)
    assert status == 128 + signal.SIGKILL
    assert err.endswith("\nrank 1 was ended by SIGKILL\n")
    happened("kill:1:2, no restarts", f"{err.splitlines()[-1]}, status {status}")


@pytest.mark.parametrize(
    ("fault", "arguments", "told", "status"),
    [
        ("none:9:9", ["data.name=image_folder", "data.folder=/nowhere"], "/nowhere/train", 2),
        ("terminate:1:2", [], "", 128 + signal.SIGTERM),
    ],
    ids=["mistake", "asked to stop"],
)
def test_what_cannot_work_again_is_not_tried_again(
    tmp_path, happened, fault, arguments, told, status
):
    found, _, err = train(tmp_path, fault, *arguments)
    assert found == status, err
    assert told in err
    assert "starting again" not in err
    assert "Traceback" not in err
    happened(
        f"{fault} {' '.join(arguments)}, --max-restarts 2", f"status {status}, not tried again"
    )


@pytest.mark.slow
def test_a_job_that_is_queued_again_continues_until_it_has_ended(undisturbed, tmp_path, happened):
    job = [*LAUNCH, "2", "--rdzv-id", "job-17", TRAIN, *SETTINGS, f"runs={tmp_path}"]
    assert run(*job, FAULT="terminate:1:2", timeout=PATIENCE)[0] == 128 + signal.SIGTERM
    status, out, err = run(*job, FAULT="none:9:9", timeout=PATIENCE)
    assert status == 0, err
    assert f"continuing {tmp_path}/run after step 2, attempt 2" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["attempt"] == 2
    assert_same_run(tmp_path / "run", undisturbed)
    status, _, err = run(*job, "max_steps=1", FAULT="none:9:9", timeout=PATIENCE)
    assert status == 0, err
    assert len(losses(tmp_path / "run-2")) == 1
    happened("the same --rdzv-id launched again", "the run went on; once ended, a new one began")


COUNT = """
import os, sys
import torch
import torch.distributed as dist
from distributed.mesh import Mesh
from launch.world import launched_world
from launch.program import run_program
from training.config import Config

def main():
    mesh = Mesh.start(Config().plan(launched_world().size))
    ones = torch.ones(1)
    dist.all_reduce(ones)
    assert ones == 2
    if launched_world().restarts < int(sys.argv[1]):
        os._exit(int(mesh.rank == launched_world().restarts % 2))
    print("meetings", launched_world().restarts + 1)
    return 0

run_program(main)
"""


@pytest.mark.slow
@LAUNCHERS
def test_twenty_restarts_in_a_row_meet_every_time(tmp_path, happened, launcher):
    program = tmp_path / "count.py"
    program.write_text(COUNT)
    status, out, err = run(*launcher, "2", "--max-restarts=20", program, "20", timeout=1800)
    assert status == 0, err
    assert out == "meetings 21\n"
    happened(f"20 restarts, {launcher[2]}", "21 of 21 meetings")


@pytest.mark.slow
def test_a_run_killed_at_random_ends_as_if_it_had_not_been(tmp_path, happened):
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    print(f"seed {seed}")
    chance = random.Random(seed)
    long = ("epochs=80", "max_steps=400", "checkpoint_every=5")
    began = time.monotonic()
    status, _, err = train(tmp_path / "calm", "none:9:9", *long)
    assert status == 0, err
    span = time.monotonic() - began
    settings = [*SETTINGS, f"runs={tmp_path}/wild", *long]
    wild = start(*LAUNCH, "2", f"--max-restarts={MOST_KILLS}", "train.py", *settings)
    kills = 0
    while wild.poll() is None and kills < MOST_KILLS:
        time.sleep(chance.uniform(0, 0.5 * span))  # never long enough to train to the end
        children = [
            process
            for process in processes_mentioning(f"runs={tmp_path}/wild")
            if process != wild.pid
        ]
        if children and wild.poll() is None:
            os.kill(chance.choice(children), signal.SIGKILL)
            kills += 1
    status, _, err = finish(wild)
    assert status == 0, err
    assert kills
    assert_same_run(tmp_path / "wild" / "run", tmp_path / "calm" / "run")
    attempts = json.loads((tmp_path / "wild" / "run" / "launch.json").read_text())["number"]
    happened(
        f"{kills} kills at random, seed {seed}", f"{attempts} attempts; weights and losses equal"
    )


def _node(runs, port):
    flags = ["2", "--nnodes=1:2", "--max-restarts=9", f"--rdzv-endpoint=127.0.0.1:{port}"]
    endless = ("epochs=9999", "max_steps=99999", "checkpoint_every=10", "evaluate_every=99999")
    return start(*LAUNCH, *flags, "train.py", *SETTINGS, f"runs={runs}", *endless)


@pytest.mark.slow
def test_nodes_come_and_go(tmp_path, happened):
    log = tmp_path / "run" / "log.txt"

    def attempt(number):
        """The mesh of an attempt that has done steps, once there is one."""
        parts = log.read_text().split(", attempt ") if log.exists() else []
        return parts[number - 1] if len(parts) == number and " loss " in parts[-1] else ""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stays = _node(tmp_path, port)
    wait_until(lambda: not _is_free(port), timeout=PATIENCE)
    goes = _node(tmp_path, port)
    wait_until(lambda: attempt(1), timeout=PATIENCE)
    assert "rank 2  tower" in attempt(1)
    goes.kill()
    wait_until(lambda: attempt(2), timeout=PATIENCE)
    assert "rank 2  tower" not in attempt(2)
    comes = _node(tmp_path, port)
    wait_until(lambda: attempt(3), timeout=PATIENCE)
    assert "rank 2  tower" in attempt(3)
    comes.terminate()
    wait_until(lambda: attempt(4), timeout=PATIENCE)
    assert "rank 2  tower" not in attempt(4)
    stays.terminate()
    for node in (stays, goes, comes):
        finish(node, PATIENCE)
    assert not processes_mentioning(f"runs={tmp_path}")
    steps = [step for step, _ in losses(tmp_path / "run")]
    assert steps == list(range(1, len(steps) + 1))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {line["train/images"] for line in lines if "train/loss" in line} == {8}
    happened("a node killed, one come, one asked to go", "the run went on with what there was")


def _is_free(port):
    with socket.socket() as probe:
        return bool(probe.connect_ex(("127.0.0.1", port)))
