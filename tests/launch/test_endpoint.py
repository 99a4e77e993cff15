"""Endpoints at which launchers cannot meet, and those at which they can, on real launchers."""

import os
import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from launch import endpoint
from tests.programs import LAUNCH, finish, run, start

pytestmark = pytest.mark.programs

NOWHERE = "no-such-host.invalid"
JUMBLE = b"SSH-2.0-OpenSSH_9.2p1\r\n" * 9


@contextmanager
def another_program(says):
    """The port of a program that accepts connections, and says ``says`` to each."""
    kept = []

    def serve():
        while True:
            try:
                kept.append(listener.accept()[0])
                kept[-1].sendall(says)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def program(tmp_path):
    """Prints the size of the world."""
    path = tmp_path / "program.py"
    path.write_text("import os; print(os.environ['WORLD_SIZE'])")
    return path


def refusal(*flags):
    """The line with which the launcher ends; it may have said before that it waits."""
    status, out, err = run(*LAUNCH, "1", *flags, "train.py")
    assert (status, out) == (1, ""), err
    *waiting, last = err.splitlines()
    assert all(line.startswith("waiting for ") for line in waiting)
    assert last.startswith("cannot launch: ")
    return last


@pytest.mark.parametrize("says", [b"", JUMBLE], ids=["silent", "talkative"])
@pytest.mark.parametrize(
    "flags",
    [
        ["--nnodes", "2", "--rdzv-endpoint", "127.0.0.1:{port}"],
        ["--nnodes", "2", "--node-rank", "1", "--master-addr", "localhost", "--master-port={port}"],
        ["--master-port", "{port}"],
    ],
    ids=["c10d", "static", "one node"],
)
def test_a_port_of_another_program_is_named(flags, says):
    with another_program(says) as port:
        assert str(port) in refusal(*[flag.format(port=port) for flag in flags])


@pytest.mark.parametrize(
    "flags",
    [
        ["--rdzv-endpoint", f"{NOWHERE}:29500"],
        ["--node-rank", "1", "--master-addr", NOWHERE, "--master-port=29500"],
        ["--node-rank", "0", "--master-addr", NOWHERE, "--master-port=29500"],
    ],
    ids=["c10d", "static", "static, first node"],
)
def test_a_host_that_does_not_exist_is_named(flags):
    assert NOWHERE in refusal("--nnodes", "2", *flags)


def test_a_host_that_does_not_answer_is_waited_for_seconds_only(monkeypatch):
    def connect(*_, **__):
        raise TimeoutError("timed out")

    monkeypatch.setattr(endpoint, "PATIENCE", 1.0)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(endpoint.ReportedError) as caught:
        endpoint._wait_for_store("192.0.2.1", 29500, lambda: False, late=600.0)
    assert "192.0.2.1:29500" in str(caught.value)
    assert caught.value.status == 1


@pytest.mark.parametrize("first", [0, 1], ids=["first node first", "first node late"])
def test_static_nodes_meet_whichever_comes_first(program, free_port, first):
    flags = ["1", "--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port}"]
    nodes = [start(*LAUNCH, *flags, f"--node-rank={first}", program)]
    time.sleep(20)
    nodes.append(start(*LAUNCH, *flags, f"--node-rank={1 - first}", program))
    for node in nodes:
        status, out, err = finish(node)
        assert (status, out) == (0, "2\n"), err


RESTARTED = """
import os
import torch
import torch.distributed as dist
from distributed.mesh import Mesh
from launch.program import run_program
from launch.world import launched_world
from training.config import Config

def main():
    mesh = Mesh.start(Config().plan(launched_world().size))
    dist.all_reduce(torch.ones(1))
    if not launched_world().restarts:
        os._exit(1)
    print("rank", mesh.rank, "again")
    return 0

run_program(main)
"""


def test_static_nodes_meet_again_after_a_restart(tmp_path, free_port):
    program = tmp_path / "program.py"
    program.write_text(RESTARTED)
    flags = ["1", "--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port}"]
    flags.append("--max-restarts=2")
    nodes = [start(*LAUNCH, *flags, f"--node-rank={rank}", program) for rank in range(2)]
    found = [finish(node) for node in nodes]
    assert [status for status, _, _ in found] == [0, 0], found
    assert "rank 0 again" in found[0][1]


HOSTLESS = """
import socket, sys
known = socket.getaddrinfo
def getaddrinfo(host, *arguments, **named):
    if host == socket.gethostname():
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return known(host, *arguments, **named)
socket.gethostname = lambda: "nameless"
socket.getfqdn = lambda *name: "nameless"
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.parametrize("host", ["localhost", "own address"])
def test_a_machine_whose_own_name_leads_nowhere_can_launch(tmp_path, free_port, host):
    """In ranks too, since each Python process reads this ``sitecustomize``."""
    (tmp_path / "sitecustomize.py").write_text(HOSTLESS)
    path = tmp_path / "program.py"
    path.write_text(
        "import sys\n"
        "from distributed.mesh import Mesh\n"
        "from launch.world import launched_world\n"
        "from training.config import Config\n"
        "largest = Mesh.start(Config().plan(launched_world().size)).largest(7)\n"
        "sys.stdout.write(f'{largest}\\n')  # in one piece: two ranks write\n"
    )
    place = host if host == "localhost" else own_address()
    path_of = f"{tmp_path}:{os.getcwd()}"
    flags = ["--nnodes=1", f"--rdzv-endpoint={place}:{free_port}"]
    status, out, err = run(*LAUNCH, "2", *flags, path, PYTHONPATH=path_of)
    assert (status, out) == (0, "7.0\n7.0\n"), err


def own_address():
    """An address of this machine beside the loopback device's; skips without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has the loopback device only")
        return probe.getsockname()[0]


def test_a_first_node_that_calls_itself_what_nobody_knows_is_named():
    world = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    address = {"MASTER_ADDR": NOWHERE, "MASTER_PORT": "29500"}
    settings = ["data.name=synthetic", "tracking.mode=disabled", "runs=/nowhere"]
    status, _, err = run(sys.executable, "train.py", *settings, **world, **address)
    assert status == 1
    [told] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert NOWHERE in told
    assert "--local-addr" in told
