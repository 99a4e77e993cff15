"""Ends of programs, on real ranks."""

import os
import shlex
import signal
import sys
import time

import pytest
import torch

from launch.failures import in_words
from tests.programs import LAUNCH, ROOT, TORCHRUN, finish, ranks, run, start, wait_until

HEAD = """
import os, sys, time
from distributed.mesh import Mesh
from launch.world import launched_world
from common.errors import ReportedError
from launch.program import run_program
from launch.signals import StopRequest
from training.config import Config
"""


@pytest.fixture
def program(tmp_path):
    def write(body):
        path = tmp_path / "program.py"
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        path.write_text(f"{HEAD}\ndef main():\n{lines}\n\nrun_program(main)\n")
        return path

    return write


MESH = "mesh = Mesh.start(Config().plan(launched_world().size))\n"


@pytest.mark.parametrize("start_mesh", [MESH, ""], ids=["in a group", "before there is one"])
def test_a_mistake_of_the_user_is_told_once_in_one_line(program, start_mesh):
    path = program(start_mesh + "raise ReportedError('this cannot be')")
    status, out, err = run(*ranks(2), path)
    assert (status, out, err) == (2, "", "error: this cannot be\n")


def test_a_mistake_of_ours_shows_one_traceback(program):
    status, _, err = run(*ranks(2), program(MESH + "raise KeyError('gone')"))
    assert status == 1
    assert err.count("Traceback") == 1
    assert "KeyError: 'gone'" in err


def test_a_rank_that_fails_alone_speaks_and_ends_the_others(program):
    path = program(MESH + "if mesh.rank == 1: raise ReportedError('only here')\ntime.sleep(60)")
    status, _, err = run(*ranks(2), path, timeout=40)
    assert (status, err) == (2, "error: only here\n")


@pytest.mark.parametrize(("retry", "status"), [(False, 2), (True, 1)])
def test_an_error_of_rank_0_is_raised_on_every_rank(program, tmp_path, retry, status):
    path = program(
        f"{MESH}"
        f"def work(): raise ReportedError('no disk', retry={retry})\n"
        "try:\n    mesh.from_main(work)\n"
        "except ReportedError as error:\n"
        f"    open(f'{tmp_path}/{{mesh.rank}}-{{error.status}}', 'w')\n"
        "    raise"
    )
    found, _, err = run(*ranks(2), path)
    assert (found, err.splitlines()[0]) == (status, "error: no disk")
    assert err.count("error:") == 1
    assert sorted(p.name for p in tmp_path.glob("?-?")) == [f"0-{status}", f"1-{status}"]


def test_only_rank_0_prints(program):
    assert run(*ranks(2), program(MESH + "print(mesh.rank)\nreturn 0")) == (0, "0\n", "")


def test_a_signal_to_one_rank_is_agreed_on_by_all(program, tmp_path):
    path = program(
        "stop = StopRequest()\n"
        + MESH
        + f"open(f'{tmp_path}/{{mesh.rank}}-{{os.getpid()}}', 'w')\n"
        "while not stop.agreed(mesh.start_largest): time.sleep(0.01)\n"
        "return 128 + stop.agreed(mesh.start_largest)"
    )
    process = start(*ranks(2), path)
    wait_until(lambda: len(list(tmp_path.glob("?-*"))) == 2)
    os.kill(int(next(tmp_path.glob("1-*")).name.split("-")[1]), signal.SIGTERM)
    status, _, err = finish(process, timeout=30)
    assert status == 128 + signal.SIGTERM
    assert "Traceback" not in err


def test_a_rank_that_has_stopped_lets_rank_0_say_what_it_has_to(program):
    path = program(MESH + "if not mesh.rank:\n    time.sleep(5)\n    print('told')\nreturn 143")
    status, out, _ = run(*ranks(2), path)
    assert (status, out) == (143, "told\n")


def test_a_signal_to_the_ranks_and_to_their_launcher_counts_once(program, tmp_path):
    path = program(
        "stop = StopRequest()\n"
        + MESH
        + f"open(f'{tmp_path}/{{mesh.rank}}-{{os.getpid()}}', 'w')\n"
        "while not stop.agreed(mesh.start_largest): time.sleep(0.01)\n"
        "time.sleep(2)\n"
        f"open(f'{tmp_path}/saved-{{mesh.rank}}', 'w')\n"
        "return 128 + stop.agreed(mesh.start_largest)"
    )
    process = start(*ranks(2), path)
    wait_until(lambda: len(list(tmp_path.glob("?-*"))) == 2)
    for one in tmp_path.glob("?-*"):
        os.kill(int(one.name.split("-")[1]), signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert finish(process, timeout=30)[0] == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob("saved-?"))) == 2


def test_under_nohup_a_program_outlives_its_terminal(program, tmp_path):
    path = program(
        f"stop = StopRequest()\nopen('{tmp_path}/up', 'w')\ntime.sleep(3)\nreturn stop.signal"
    )
    process = start("nohup", *ranks(1), path)
    wait_until((tmp_path / "up").exists)
    process.send_signal(signal.SIGHUP)
    assert finish(process, timeout=30)[0] == 0


def test_a_second_signal_ends_the_program_at_once(program, tmp_path):
    path = program(
        f"stop = StopRequest()\nopen('{tmp_path}/up', 'w')\n"
        f"while not stop.signal: time.sleep(0.01)\nopen('{tmp_path}/noted', 'w')\ntime.sleep(60)"
    )
    process = start(*ranks(0), path)
    for sign in ("up", "noted"):
        wait_until((tmp_path / sign).exists)
        process.send_signal(signal.SIGINT)
    assert finish(process, timeout=20)[0] == -signal.SIGINT


def test_a_lost_connection_is_told_without_the_place_in_gloo_s_source():
    message = (
        "[/somewhere/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:11432. "
        "This is typically caused by a remote worker crashing."
    )
    told = in_words(RuntimeError(message))
    assert (
        told == "lost the connection to another rank (Connection closed by peer [127.0.0.1]:11432)"
    )


def test_what_nccl_says_last_is_told():
    message = (
        "NCCL error in: ProcessGroupNCCL.cpp:94, invalid usage, NCCL version 2.28\n"
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
        "Last error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 100000"
    )
    told = in_words(torch.distributed.DistBackendError(message))
    assert "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 100000" in told
    assert "connection" not in told


@pytest.mark.parametrize("launcher", [LAUNCH, TORCHRUN], ids=["ours", "torchrun"])
def test_a_program_for_one_process_refuses_several(tmp_path, launcher):
    picture = tmp_path / "kernels.png"
    status, _, err = run(*launcher, "2", "kernels.py", "no/such/run", picture)
    assert status == (2 if launcher == LAUNCH else 1)  # torchrun's own, whatever a rank's is
    [told] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "kernels.py" in told
    assert "no/such/run" not in told


@pytest.fixture
def slow_torch(tmp_path):
    """A folder with a torch that takes a minute to import, once it has made the file ``up``."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        f"import time\nopen('{tmp_path}/up', 'w')\ntime.sleep(60)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [[path.name] for path in sorted(ROOT.glob("*.py"))] + [["-m", "launch"]],
    ids=lambda command: command[-1],
)
def test_ctrl_c_while_a_program_imports_ends_it_without_a_traceback(slow_torch, command):
    process = start(sys.executable, *command, PYTHONPATH=f"{slow_torch}:{ROOT}")
    wait_until((slow_torch / "up").exists)
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout=20) == (-signal.SIGINT, "", "")


def test_a_configuration_that_is_printed_loads_as_the_same(tmp_path):
    train = [sys.executable, "train.py", "--print-config"]
    status, out, err = run(*train, "batch_size=7")
    assert (status, err) == (0, "")
    (tmp_path / "printed.yaml").write_text(out)
    assert run(*train, "--config", tmp_path / "printed.yaml")[1] == out
    assert "batch_size: 7\n" in out


def test_a_log_file_that_the_disk_refuses_is_passed_over(program):
    body = "import logging\nlog = logging.getLogger('wandb')\n"
    body += "log.addHandler(logging.FileHandler('/dev/full'))\nlog.warning('lost')\nreturn 0"
    assert run(*ranks(0), program(body)) == (0, "lost\n", "")


def test_a_configuration_that_cannot_be_printed_is_a_failure():
    shell = f"{shlex.quote(sys.executable)} train.py --print-config > /dev/full"
    status, _, err = run("sh", "-c", shell)
    assert (status, err) == (
        2,
        "error: cannot write standard output: No space left on device\n",
    )
