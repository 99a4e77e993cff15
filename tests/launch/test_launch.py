"""The launcher on real processes: flags, exit statuses, signals, and nothing left behind."""

import ast
import ipaddress
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.programs import LAUNCH, ROOT, finish, processes_mentioning, run, start, wait_until

RANK = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"


@pytest.fixture
def program(tmp_path):
    """Writes a program, which runs on every rank."""

    def write(source):
        path = tmp_path / "program.py"
        path.write_text(RANK + source)
        return path

    return write


def launch_sh(*arguments, **environment):
    return run(ROOT / "launch.sh", *arguments, LAUNCH_DRY_RUN="1", **environment)


def test_every_rank_gets_its_place_and_arguments(program, tmp_path):
    path = program("open(f'{sys.argv[1]}/{rank}-of-' + os.environ['WORLD_SIZE'], 'w')")
    assert run(*LAUNCH, "3", path, tmp_path)[0] == 0
    assert sorted(p.name for p in tmp_path.glob("*-of-*")) == ["0-of-3", "1-of-3", "2-of-3"]


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("if rank == 1: sys.exit(3)\ntime.sleep(60)", 3, "rank 1 exited with status 3\n"),
        ("if rank == 1: sys.exit(2)\ntime.sleep(60)", 2, ""),
        (
            "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)",
            137,
            "rank 1 was ended by SIGKILL\n",
        ),
    ],
)
def test_the_first_failure_ends_all_ranks_and_gives_the_status(program, source, status, said):
    path = program(source)
    found, out, err = run(*LAUNCH, "2", path)
    assert (found, out, err) == (status, "", said)
    assert not processes_mentioning(str(path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank(program, tmp_path, number):
    path = program(
        "def note(number, frame):\n"
        "    open(f'{sys.argv[1]}/ended-{rank}', 'w'); sys.exit(0)\n"
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, note)\n"
        "open(f'{sys.argv[1]}/up-{rank}', 'w'); time.sleep(60)"
    )
    process = start(*LAUNCH, "2", path, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == 128 + number, err
    assert len(list(tmp_path.glob("ended-*"))) == 2


def test_a_second_signal_ends_a_launch_whose_ranks_take_their_time(program, tmp_path):
    path = program(
        "from launch.program import run_program\n"
        "def main():\n"
        "    for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, signal.SIG_IGN)\n"
        "    open(f'{sys.argv[1]}/up-{rank}', 'w'); time.sleep(60)\n"
        "run_program(main)"
    )
    process = start(*LAUNCH, "2", path, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout=10)[0] == 128 + signal.SIGINT
    wait_until(lambda: not processes_mentioning(str(path)), timeout=10)


def test_ranks_die_with_a_launcher_that_is_killed(program, tmp_path):
    path = program(
        "from launch.program import run_program\n"
        "def main():\n"
        "    open(f'{sys.argv[1]}/up-{rank}', 'w'); time.sleep(60)\n"
        "run_program(main)"
    )
    process = start(*LAUNCH, "2", path, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2)
    process.kill()
    finish(process)
    wait_until(lambda: not processes_mentioning(str(path)), timeout=10)


def test_a_rank_whose_launcher_died_before_it_was_up_ends_too(program, tmp_path):
    path = program(
        "open(f'{sys.argv[1]}/started', 'w'); time.sleep(5)\n"
        "from launch.program import run_program\n"
        "run_program(lambda: time.sleep(600))"
    )
    process = start(*LAUNCH, "1", path, tmp_path)
    wait_until((tmp_path / "started").exists)
    process.kill()
    process.wait()
    assert processes_mentioning(str(path)), "the rank, which has not asked to die with its launcher"
    finish(process, timeout=100)  # the rank holds the pipes until it ends
    assert not processes_mentioning(str(path))


def test_two_launches_at_once_do_not_meet(program):
    path = program("time.sleep(1); sys.exit(int(os.environ['WORLD_SIZE']) != int(sys.argv[1]))")
    both = [start(*LAUNCH, str(count), path, str(count)) for count in (2, 3)]
    assert [finish(process)[0] for process in both] == [0, 0]


def _listening(process):
    """The addresses that a process listens on, as the kernel has them."""
    sockets = set()
    for handle in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):
            sockets.add(os.readlink(handle))
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:  # LISTEN
                words = bytes.fromhex(fields[1].split(":")[0])  # each as this machine has it
                address = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                yield ipaddress.ip_address(socket.inet_ntop(family, address))


def test_one_machine_listens_on_the_loopback_device_only(program, tmp_path):
    path = program(
        "from distributed.mesh import Mesh\n"
        "from training.config import Config\n"
        "Mesh.start(Config().plan(2))\n"
        "open(f'{sys.argv[1]}/up-{rank}', 'w'); time.sleep(600)"
    )
    process = start(*LAUNCH, "2", path, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2, timeout=200)
    ours = processes_mentioning(str(path))
    found = [address for each in ours for address in _listening(each)]
    process.terminate()
    finish(process)
    assert len(ours) == 3
    assert len(found) >= 3, "the launcher's store, and gloo on every rank"
    assert all(address.is_loopback for address in found), found


def test_every_attempt_of_a_launch_has_its_marks_and_no_other_has(program, tmp_path):
    path = program(
        "from launch.world import launch_marks\n"
        "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "open(f'{sys.argv[1]}-{rank}-{attempt}', 'w').write('\\n'.join(sorted(launch_marks())))\n"
        "sys.exit(attempt == '0')"
    )
    for name in ("one", "two"):
        flags = ["--max-restarts=1", f"--rdzv-id={name}"]
        assert run(*LAUNCH, "2", *flags, path, tmp_path / name)[0] == 0
    marks = {p.name: p.read_text().splitlines() for p in tmp_path.glob("*-?-?")}
    assert len(marks) == 8
    assert marks["one-0-0"] == marks["one-1-0"] == marks["one-0-1"] == marks["one-1-1"]
    assert len(marks["one-0-0"]) == 2
    assert not set(marks["one-0-0"]) & set(marks["two-0-0"])


def test_two_nodes_meet_at_an_endpoint(program, tmp_path):
    path = program("open(f'{sys.argv[1]}/{rank}-of-' + os.environ['WORLD_SIZE'], 'w')")
    port = 20000 + os.getpid() % 20000
    flags = ["1", "--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    nodes = [start(*LAUNCH, *flags, path, tmp_path) for _ in range(2)]
    assert [finish(node)[0] for node in nodes] == [0, 0]
    assert sorted(p.name for p in tmp_path.glob("*-of-*")) == ["0-of-2", "1-of-2"]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "--nproc-per-node 2 train.py"),
        (["epochs=3"], "--nproc-per-node 2 train.py epochs=3"),
        (["--nproc", "4"], "--nproc-per-node 4 train.py"),
        (["--nproc=4", "--resume"], "--nproc-per-node 4 train.py --resume"),
        (["--config", "configs/ci.yaml"], "--nproc-per-node 2 train.py --config configs/ci.yaml"),
        (["other.py", "--nproc", "9"], "--nproc-per-node 2 other.py --nproc 9"),
        (
            ["--nnodes", "2", "--rdzv-endpoint", "HOST:29500", "--nproc", "8", "train.py", "a=1"],
            "--nproc-per-node 8 --nnodes 2 --rdzv-endpoint HOST:29500 train.py a=1",
        ),
    ],
)
def test_launch_sh_tells_its_flags_from_the_programs(arguments, command):
    status, out, err = launch_sh(*arguments, CUDA_VISIBLE_DEVICES="")
    assert status == 0, err
    assert out.split("launch ")[1].strip() == command


def _most_ranks(path):
    """The ``most_ranks`` of a program's call of ``run_program``; None if it takes any number."""
    [call] = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_program"
    ]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return named.get("most_ranks")


@pytest.mark.parametrize("before", [[], ["--nproc", "2"]])
@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_launch_sh_starts_as_many_processes_as_a_program_takes(before, path):
    status, out, err = launch_sh(*before, path.name, "a.jpg", CUDA_VISIBLE_DEVICES="")
    assert status == 0, err
    if _most_ranks(path) == 1:
        assert out.split() == [".venv/bin/python", path.name, "a.jpg"]
    else:
        assert out.split("launch ")[1].split() == ["--nproc-per-node", "2", path.name, "a.jpg"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_help_lists_every_program(path):
    assert path.name in launch_sh("--help")[1]


def test_launch_sh_starts_evaluation_on_every_device():
    _, out, _ = launch_sh("--nproc", "3", "evaluate.py", "runs/x", "data.test_views=10")
    assert out.split("--nproc-per-node ")[1].split() == [
        *("3", "evaluate.py", "runs/x", "data.test_views=10"),
    ]


def test_launch_sh_starts_a_process_for_each_visible_gpu(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: made up"; done\n')
    smi.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for visible, expected in (("0,1,2,3", "4"), ("1,3", "2"), ("", "2")):
        _, out, _ = launch_sh(PATH=path, CUDA_VISIBLE_DEVICES=visible)
        assert f"--nproc-per-node {expected} train.py" in out


@pytest.mark.parametrize("arguments", [["--nproc"], ["--nproc", "none"], ["--nproc=0"]])
def test_launch_sh_refuses_a_wrong_number_of_processes(arguments):
    status, _, err = launch_sh(*arguments)
    assert status == 1
    assert err.startswith("launch.sh: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("before", [[], ["--nproc", "2"]])
def test_launch_sh_wants_the_program_named_after_flags_of_torchrun(before):
    status, _, err = launch_sh(*before, "--max-restarts", "1", "--config", "configs/ci.yaml")
    assert status == 1
    assert err == (
        "launch.sh: after torchrun's --max-restarts name the program: ./launch.sh … train.py …\n"
    )


def test_help_is_given_once_by_one_process():
    status, out, _ = launch_sh("train.py", "--help")
    assert status == 0
    assert "launch" not in out
