"""Ranks that stop answering or leave too early: that the run ends, and what it says."""

import os
import re
import signal
from pathlib import Path

import pytest

from recording.metrics import read_metrics
from tests.programs import (
    LAUNCH,
    finish,
    processes_mentioning,
    ranks,
    run,
    start,
    wait_until,
)
from tests.runs import SETTINGS

pytestmark = pytest.mark.programs

TRAIN = Path(__file__).with_name("injected.py")
PATIENCE = 400
TIMEOUT = 20


def train(runs, fault, *arguments, count=2):
    settings = [*SETTINGS, f"runs={runs}", f"timeout={TIMEOUT}", *arguments]
    return run(*LAUNCH, str(count), TRAIN, *settings, timeout=PATIENCE, FAULT=fault)


@pytest.mark.parametrize(
    ("fault", "count", "waits", "hangs"),
    [
        (
            "stop:1:2",
            2,
            r"rank 0 +in step 2, forward, activation communication, for \d+ s",
            r"rank 1 +silent for",
        ),
        (
            "hang:0:2",
            2,
            r"rank 1 +in step 2, forward, activation communication, for",
            r"rank 0 +between two steps, for \d+ s",
        ),
        pytest.param(
            "stop:3:2",
            4,
            r"rank 2 +in step 2, forward, activation communication, for",
            r"rank 3 +silent for",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["stopped", "asleep", "stopped beside a replica"],
)
def test_a_rank_that_does_not_answer_is_named(tmp_path, happened, fault, count, waits, hangs):
    status, _, err = train(tmp_path, fault, count=count)
    assert status == 1
    assert err.startswith(f"error: no answer within {TIMEOUT} s\n"), err
    assert re.search(waits, err), err
    assert re.search(hangs, err), err
    assert err.count("\n") == count + 2, err
    assert not processes_mentioning(f"runs={tmp_path}")
    happened(fault, "; ".join(" ".join(line.split()) for line in err.splitlines()[:-1]))


def test_a_rank_that_stops_while_gradients_are_summed_is_named(tmp_path):
    status, _, err = train(tmp_path, "stop:1:4", "placement=ddp")
    assert status == 1
    assert err.startswith("error: no answer"), err
    assert re.search(r"rank 1 +silent for", err), err


PROGRAM = """
import os, signal, sys, time
import torch
from distributed.mesh import Mesh
from launch.world import launched_world
from launch.program import run_program
from training.config import Config

def main():
    mesh = Mesh.start(Config().plan(launched_world().size), timeout=8.0)
    {body}
    return 0

run_program(main)
"""


@pytest.fixture
def program(tmp_path):
    def write(body):
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.format(body=body))
        return path

    return write


def test_the_others_wait_for_what_rank_0_does_for_all(program, happened):
    path = program("mesh.from_main(lambda: time.sleep(20))")
    assert run(*ranks(2), path, timeout=PATIENCE) == (0, "", "")
    happened("20 s of rank 0's own work, timeout=8", "the others waited for it")


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", r"error: no answer from rank 0 within \d+ s\n"),
        pytest.param(
            "os._exit(0)", r"error: no answer from rank 0 within \d+ s\n", marks=pytest.mark.slow
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"rank 0 was ended by SIGKILL\n"),
    ],
    ids=["stopped", "left with status 0", "killed"],
)
def test_the_others_do_not_wait_for_a_rank_0_that_is_gone(program, happened, work, told):
    path = program(f"mesh.from_main(lambda: {work})")
    status, _, err = run(*ranks(2), path, timeout=PATIENCE)
    assert status in (1, 128 + signal.SIGKILL)
    assert re.match(told, err), err
    happened(f"rank 0 in its own work: {work}", f"status {status}, {err.splitlines()[0]}")


def test_a_rank_that_never_starts_is_named(tmp_path, happened):
    path = tmp_path / "program.py"
    body = PROGRAM.format(body="pass").replace(
        "def main():\n",
        "from datetime import timedelta\nfrom launch import world\n"
        "world.JOINING = timedelta(seconds=8)\n"
        "def main():\n    if launched_world().rank == 1: time.sleep(3600)\n",
    )
    path.write_text(body)
    status, _, err = run(*ranks(2), path, timeout=PATIENCE)
    assert status == 1
    assert "error: rank 1 did not start within 0:00:08\n" in err
    happened("a rank that never joins", "status 1, it is named")


def test_memory_that_is_not_there_is_told_in_a_sentence(program, happened):
    path = program("if mesh.rank == 1: torch.empty(1 << 48)\n    mesh.largest(0.0)")
    status, _, err = run(*ranks(2), path, timeout=PATIENCE)
    assert status == 1
    assert err.startswith("error: not enough memory on rank 1 (")
    assert "lower batch_size" in err
    happened("an allocation of a petabyte", f"status 1, {err.splitlines()[0]}")


def _training(tmp_path):
    """A training that goes on for ever, once it has done a step; and the ids of its ranks."""
    mark = f"runs={tmp_path}"
    process = start(*LAUNCH, "2", "train.py", *SETTINGS, mark, "epochs=9999", "max_steps=99999")
    wait_until(lambda: read_metrics(tmp_path / "run" / "metrics.jsonl"), timeout=PATIENCE)
    return process, [each for each in processes_mentioning(mark) if each != process.pid]


def test_a_launcher_that_is_killed_leaves_no_rank(tmp_path, happened):
    process, _ = _training(tmp_path)
    process.kill()
    finish(process)
    wait_until(lambda: not processes_mentioning(f"runs={tmp_path}"), timeout=60)
    happened("SIGKILL of the launcher", "no survivor")


def test_a_signal_to_one_rank_ends_the_run_with_a_checkpoint(tmp_path, happened):
    process, (one, _) = _training(tmp_path)
    os.kill(one, signal.SIGTERM)
    status, out, err = finish(process, PATIENCE)
    assert status == 128 + signal.SIGTERM, err
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert "--resume" in out
    happened("SIGTERM to one rank", f"status {status}, with a checkpoint")


def test_two_signals_to_the_launcher_end_the_run_at_once(tmp_path, happened):
    process, _ = _training(tmp_path)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    assert finish(process, PATIENCE)[0] == 128 + signal.SIGTERM
    wait_until(lambda: not processes_mentioning(f"runs={tmp_path}"), timeout=60)
    happened("SIGTERM twice to the launcher", "status 143 at once, no survivor")
