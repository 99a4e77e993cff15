"""A start of a small run that faults strike, as ``soak.py`` draws them."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from common.errors import ReportedError
from recording.checkpoint import list_checkpoints
from recording.folder import RunFolder
from recording.metrics import read_metrics
from tests.disks import full
from tests.programs import finish, processes_mentioning, ranks, start, wait_until
from tests.runs import SETTINGS
from tests.wandb_server import KEY, WandbServer

STEPS = 60
SMALL = (
    *(*SETTINGS, "variant=half", "net.hidden=48", "data.synthetic_length=160", "epochs=3"),
    *(f"max_steps={STEPS}", "checkpoint_every=4", "timeout=60"),
)
PATIENCE = 600
"""Seconds in which a start must end; other programs may keep the cores busy."""
OUTAGES = ("silent", "slow", "garbage", "empty", "status:401", "status:500")


class Place(NamedTuple):
    """A placement on so many ranks; on 0, in a process without a launcher.

    ``net`` holds the towers and when the classifier is updated: others train to other weights.
    """

    ranks: int
    settings: tuple[str, ...]
    net: tuple[int, str]

    def __str__(self):
        return " ".join([f"ranks={self.ranks}", *self.settings])


def train(place, runs, *arguments, flags=(), **environment):
    """Start train.py there; whatever it starts has SOAK in its environment."""
    command = [*ranks(place.ranks), *flags] if place.ranks else ranks(0)
    settings = [*SMALL, *place.settings, f"runs={runs}", *arguments]
    home = {"HOME": str(runs), "XDG_CACHE_HOME": str(Path.home() / ".cache")}  # compiled kernels
    marks = {"SOAK": str(runs), "WANDB_MODE": "online", "WANDB_API_KEY": KEY}
    return start(*command, "train.py", *settings, **home, **marks, **environment)


def newest_run(runs):
    """The folder of the newest run; an empty one if there is none."""
    with suppress(ReportedError):
        return RunFolder.newest(runs, "run")
    return RunFolder(runs / "run")


def last_step(runs):
    return max((line["step"] for line in read_metrics(newest_run(runs).metrics)), default=0)


class Start:
    """One start of a run on ``disk``. Its faults return True if it must end."""

    def __init__(self, chance, place, disk, *arguments, flags):
        self.chance, self.place, self.disk = chance, place, disk
        self.restarts = chance.choice([0, 0, 9]) if place.ranks else 0
        self.on_errors = chance.choice(["stop", "continue"])
        self.allowed, self.trains = {0}, False
        self.last = last_step(disk)
        self.server = WandbServer()
        self.server.behaviour = chance.choice(["well", *OUTAGES])
        tracking = chance.choice(["disabled", "online"])
        self.process = train(
            *(place, disk, f"write_errors={self.on_errors}", f"tracking.mode={tracking}"),
            *arguments,
            flags=[*flags, f"--max-restarts={self.restarts}"],
            WANDB_BASE_URL=self.server.url,
        )

    def wait(self, rest):
        """Wait for a moment to strike: soon after the start or, mostly, some steps later.

        ``rest`` faults will follow. Returns the step.
        """
        self.trains = self.chance.random() < 0.8
        if self.trains:
            last = max(self.last, last_step(self.disk))
            self.last = last + self.chance.randint(2, 2 + (STEPS - last) // (rest + 2))
            wait_until(lambda: self.is_over or last_step(self.disk) >= self.last, PATIENCE)
        else:
            time.sleep(self.chance.uniform(0, 15))
        return last_step(self.disk)

    def strike(self, fault):
        """Returns whether the start must end."""
        with suppress(ProcessLookupError, IndexError):  # the run has ended
            return fault(self)
        return self.is_over

    @property
    def is_over(self):
        return self.process.poll() is not None

    @property
    def ranks(self):
        """The process ids of the ranks."""
        found = processes_mentioning(f"runs={self.disk}")
        return [pid for pid in found if not self.place.ranks or pid != self.process.pid]

    def end(self):
        """Wait for the end, and check it; returns what the program printed."""
        status, out, err = finish(self.process, PATIENCE)
        self.server.behaviour = "well"  # whoever waits for it goes on
        told = f"status {status}, allowed {self.allowed}\n{out}\n{err}"
        assert status in self.allowed, told
        assert "Traceback" not in err, told
        assert status != 2 or "No space left on device" in err, told
        if self.trains and status == 128 + signal.SIGTERM:
            newest = list_checkpoints(newest_run(self.disk).checkpoints)[-1]
            assert newest.name == f"step-{last_step(self.disk):08d}", told
        wait_until(lambda: not processes_mentioning(f"SOAK={self.disk}"), timeout=120)
        return told

    def kill_rank(self):
        self.allowed |= {128 + signal.SIGKILL, -signal.SIGKILL}
        os.kill(self.chance.choice(self.ranks), signal.SIGKILL)
        return not self.restarts

    def kill_launcher(self):
        self.allowed |= {-signal.SIGKILL}
        self.process.kill()
        return True

    def terminate(self):
        """As before a job is queued again: the launcher, a rank, or all processes."""
        self.allowed |= {128 + signal.SIGTERM, -signal.SIGTERM}
        one, everyone = self.chance.choice(self.ranks), processes_mentioning(f"SOAK={self.disk}")
        for pid in self.chance.choice([[self.process.pid], [one], everyone]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return True

    def stop_rank_for_a_while(self):
        pid = self.chance.choice(self.ranks)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.chance.uniform(1, 8))
        os.kill(pid, signal.SIGCONT)

    def stop_rank_for_good(self):
        if self.place.ranks < 2 or not self.trains:  # nobody waits for it, or for very long
            return self.stop_rank_for_a_while()
        self.allowed |= {1}
        pid = self.chance.choice(self.ranks)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: pid not in self.ranks, PATIENCE)
        return not self.restarts

    def fill_disk(self):
        self.allowed |= {2}
        with full(self.disk):
            if self.on_errors == "stop":
                wait_until(lambda: self.is_over, PATIENCE)
            else:
                time.sleep(self.chance.uniform(1, 8))

    def disturb_wandb_server(self):
        self.server.behaviour = self.chance.choice(OUTAGES)

    def end_wandb_server(self):
        self.server.stop()

    def kill_wandb_process(self):
        for pid in processes_mentioning(f"SOAK={self.disk}"):
            if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


FAULTS = [
    *(Start.kill_rank, Start.kill_launcher, Start.terminate, Start.stop_rank_for_a_while),
    *(Start.stop_rank_for_good, Start.fill_disk, Start.disturb_wandb_server),
    *(Start.end_wandb_server, Start.kill_wandb_process),
]
