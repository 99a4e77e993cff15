"""A Slurm cluster of two nodes on this machine, run by the current user."""

import ctypes
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from launch.program import PR_SET_PDEATHSIG

from tests.programs import ROOT, wait_until

NODES = ("127.0.0.1", "127.0.0.2")
"""Names that need no hosts file, because they are addresses of the loopback device."""
DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = ":/usr/sbin:/usr/local/sbin"
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=0
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
KillWait=120
NodeName={nodes[0]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={nodes[1]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES
"""


def missing():
    """The daemons that are not installed."""
    return [name for name in DAEMONS if not shutil.which(name, path=os.environ["PATH"] + SBIN)]


class Cluster:
    """Two nodes up, until the end of the ``with`` block; ``folder`` has a short path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.environ["PATH"] + SBIN
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": f"{folder}/slurm.conf"}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        key, user = self.folder / "munge.key", Path.home().owner()
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        (self.folder / "state").mkdir()
        config = CONFIG.format(folder=self.folder, user=user, nodes=NODES, ports=_free_ports(3))
        (self.folder / "slurm.conf").write_text(config)
        try:
            self._start_daemons()
            wait_until(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D") == "2")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.SubprocessError):
            self.ask("scancel", "--full", "--signal=KILL", "--state=RUNNING")
            time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self.daemons):
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; raises CalledProcessError when it fails."""
        environment = {**self.environment, "PYTHONPATH": ""}
        out = subprocess.run(
            command, check=True, capture_output=True, env=environment, cwd=ROOT, timeout=60
        )
        return out.stdout.decode().strip()

    def state(self, job: str) -> str:
        """A job's state, in Slurm's word."""
        [state] = re.findall(r"JobState=(\w+)", self.ask("scontrol", "show", "job", job))
        return state

    def log(self) -> str:
        """What the controller has written."""
        return (self.folder / "slurmctld.log").read_text()

    def _start_daemons(self) -> None:
        files = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._start(
            "munged",
            "-F",
            "-f",
            f"--key-file={self.folder}/munge.key",
            *(
                f"--{name}{'' if name == 'socket' else '-file'}={path}"
                for name, path in files.items()
            ),
        )
        wait_until(files["socket"].exists)
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)

    def _start(self, *command: str) -> None:
        self.daemons.append(
            subprocess.Popen(
                command,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        )


def _end_with_parent() -> None:
    """Have the kernel end this daemon if the tests are killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
