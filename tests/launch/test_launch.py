"""The launcher on real processes: flags, exit statuses, signals, and nothing left behind."""

import ipaddress
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from launch.__main__ import choose_rendezvous, command_line, count_processes
from launch.agent import LOOPBACK, Agent
from tests.programs import LAUNCH, finish, processes_mentioning, run, start, wait_until

RANK = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"


@pytest.fixture
def program(tmp_path):
    """Writes a program, which runs on every rank."""

    def write(source):
        path = tmp_path / "program.py"
        path.write_text(RANK + source)
        return path

    return write


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_every_rank(program, tmp_path, number):
    path = program(
        "def note(number, frame):\n"
        "    open(f'{sys.argv[1]}/ended-{rank}', 'w'); sys.exit(0)\n"
        "for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(n, note)\n"
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
        "places = [f'{sys.argv[1]}-{each}-{attempt}' for each in (0, 1)]\n"
        "open(places[rank], 'w').write('\\n'.join(sorted(launch_marks())))\n"
        "while not all(os.path.exists(place) and os.path.getsize(place) for place in places):\n"
        "    time.sleep(0.01)\n"
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
    ("arguments", "status"),
    [(["--nproc"], 2), (["--nproc", "none"], 1), (["--nproc=0"], 2), (["--nproc=2.5"], 1)],
)
def test_a_wrong_number_of_processes_is_refused_in_a_line(program, arguments, status):
    found, out, err = run(*LAUNCH[:3], *arguments, program(""))
    assert (found, out) == (status, "")
    assert "Traceback" not in err
    assert err.count("\n") <= 2


PRINTS_THREADS = "print(os.environ.get('OMP_NUM_THREADS'))"


@pytest.mark.parametrize("chosen", ["1", "3"])
def test_chosen_threads_are_heeded(program, chosen):
    status, out, err = run(*LAUNCH, "1", program(PRINTS_THREADS), OMP_NUM_THREADS=chosen)
    assert (status, out.split()) == (0, [chosen]), err


def test_the_cores_are_shared_out_where_nobody_chose(program, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    status, out, err = run(*LAUNCH, "1", program(PRINTS_THREADS))
    assert (status, out.split()) == (0, [str(len(os.sched_getaffinity(0)))]), err


@pytest.mark.parametrize("chosen", ["0", "99999", "many"])
def test_threads_that_are_no_number_are_refused_in_a_line(program, chosen):
    status, out, err = run(*LAUNCH, "2", program(""), OMP_NUM_THREADS=chosen)
    assert (status, out) == (2, "")
    ours = [line for line in err.splitlines() if line and not line.startswith("libgomp")]
    assert len(ours) == 1
    assert "OMP_NUM_THREADS" in ours[0]


@pytest.mark.parametrize(("gpus", "processes"), [(0, 2), (1, 1), (4, 4)])
def test_a_process_is_started_for_each_gpu_that_torch_sees(monkeypatch, gpus, processes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert count_processes(None) == processes


@pytest.mark.parametrize(
    ("flags", "backend", "port"),
    [
        ("", LOOPBACK, 29500),
        ("--standalone", LOOPBACK, 29500),
        ("--nnodes 1", LOOPBACK, 29500),
        ("--master-port 29500", "static", 29500),
        ("--nnodes 2 --node-rank 1 --master-addr HOST", "static", 29500),
        ("--rdzv-endpoint HOST:1234", "c10d", 29500),
        ("--nnodes 1:2 --rdzv-backend etcd-v2 --rdzv-endpoint HOST:1234", "etcd-v2", 29500),
    ],
)
def test_the_flags_alone_choose_the_rendezvous(monkeypatch, flags, backend, port):
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    args = command_line().parse_args([*flags.split(), "train.py"])
    choose_rendezvous(args)
    assert (args.rdzv_backend, args.master_port, args.standalone) == (backend, port, False)


def test_ranks_have_time_to_write_a_checkpoint(monkeypatch):
    agent, given = object.__new__(Agent), []
    monkeypatch.setattr(
        agent, "_pcontext", SimpleNamespace(close=lambda *each: given.append(each)), raising=False
    )
    agent._shutdown(signal.SIGTERM)
    agent._shutdown(signal.SIGINT, timeout=3)
    assert given == [(signal.SIGTERM, 60), (signal.SIGINT, 3)]
