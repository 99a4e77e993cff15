"""Trains under faults at random, one round after the other, until the time is over.

    python -m tests.faults.soak --minutes 120 --seed 1 --log soak.log

A round draws a placement and some faults with its seed, and starts its run again as a cluster
would. It passes if the run ends with the weights of one that nothing disturbed: bit for bit, or to
1e-10 in fp64 where every start has another placement. Each start must end within ``PATIENCE`` and
leave no process. A failure ends the soak; its seed with ``--minutes 0`` repeats the round.
"""

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from common.errors import ReportedError
from distributed.plan import PLACEMENTS
from recording.checkpoint import MODEL, OPTIMIZER, list_checkpoints
from recording.folder import RunFolder
from recording.metrics import read_metrics
from tests.disks import full, small_disk
from tests.programs import finish, processes_mentioning, ranks, start, wait_until
from tests.runs import SETTINGS, losses
from tests.wandb_server import KEY, WandbServer
from training.settings import resolve_config

log = logging.getLogger("soak")

STEPS = 60
SMALL = (
    *(*SETTINGS, "variant=half", "net.hidden=48", "data.synthetic_length=160", "epochs=3"),
    *(f"max_steps={STEPS}", "checkpoint_every=4", "timeout=60"),
)
ROOM = "200m"
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


def list_places():
    """Every placement of the small net on up to four ranks, each once."""
    found = {}
    keys = ("shards", "classifier_ranks", "classifier_scheme", "towers")
    shapes = [*product((None, 2, 4), (None, 2), "abc", (2, 1), ("step", "turn"))]
    for number, name, shape in product(range(5), PLACEMENTS, shapes):
        values = zip((*keys, "optimizer.classifier_updates"), shape, strict=True)
        settings = (f"placement={name}", *(f"{key}={v}" for key, v in values if v is not None))
        with suppress(ReportedError):  # what the ranks or the settings do not allow
            plan = resolve_config({}, [*SMALL, *settings], Path()).plan(number or 1)
            scheme, updates = shape[2] if plan.feeds > 1 else "a", shape[4]
            if plan.placement == name:
                place = Place(number, settings, (plan.towers, updates))
                found.setdefault((number, plan, scheme, updates), place)
    return [*found.values()]


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


def tensors_of(runs):
    """The last weights, momentum and losses of a run to its end."""
    folder = newest_run(runs)
    last = list_checkpoints(folder.checkpoints)[-1]
    found = {**load_file(last / MODEL), **load_file(last / OPTIMIZER)}
    return {**found, "losses": torch.tensor(losses(folder.path), dtype=torch.float64)}


def largest_error(found, expected):
    """Relative to the largest value of each tensor; 0 only if all are equal."""
    assert found.keys() == expected.keys()
    errors = [(found[name] - expected[name]).abs().max() for name in expected]
    sizes = [expected[name].abs().max().clamp_min(1e-12) for name in expected]
    return float(torch.stack([e / size for e, size in zip(errors, sizes, strict=True)]).max())


class Start:
    """One start of a run on ``disk``. Its faults return True if it must end."""

    def __init__(self, chance, place, disk, *arguments, flags):
        self.chance, self.place, self.disk = chance, place, disk
        self.restarts = chance.choice([0, 0, 9]) if place.ranks else 0
        self.on_errors = chance.choice(["stop", "continue"])
        self.allowed = {0}
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

    def strike(self, fault, rest):
        """Do it soon after the start or, mostly, some steps later; ``rest`` faults follow."""
        self.trains = self.chance.random() < 0.8
        if self.trains:
            self.last += self.chance.randint(1, 1 + (STEPS - self.last) // (rest + 2))
            wait_until(lambda: self.is_over or last_step(self.disk) >= self.last, PATIENCE)
        else:
            time.sleep(self.chance.uniform(0, 15))
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
        if "stopping, with a checkpoint" in out and status == 128 + signal.SIGTERM:
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


class Soak:
    """Rounds; ``folder`` holds the undisturbed runs that they are compared to."""

    def __init__(self, folder):
        self.folder, self.places = folder, list_places()
        self.counts: Counter[str] = Counter()

    def run(self, seed, minutes):
        """Rounds with ``seed`` and those after it until the time is over; one at least."""
        until = time.monotonic() + 60 * minutes
        for number in count(seed):
            with small_disk(self.folder / f"disk-{number}", ROOM) as disk:
                self.words, self.told, began = [], [], time.monotonic()
                try:
                    error = self.play(random.Random(number), disk)
                    outcome = f"error {error:.0e}, {time.monotonic() - began:.0f} s"
                except BaseException:
                    outcome = "\n".join(["FAILED", *self.told])
                    raise
                finally:
                    self.clear(disk)
                    log.info("seed %d  %s: %s", number, ", ".join(self.words), outcome)
            if time.monotonic() > until:
                break
        log.info("%d rounds, all exact: %s", number - seed + 1, dict(sorted(self.counts.items())))

    def clear(self, disk):
        for pid in processes_mentioning(f"SOAK={disk}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes_mentioning(f"SOAK={disk}"))

    def play(self, chance, disk):
        """One round; returns the largest error, after checking it."""
        ranks_here = chance.randrange(5)
        place = chance.choice([place for place in self.places if place.ranks == ranks_here])
        moves = place.net[1] == "step" and chance.random() < 0.3
        precision, bound = ("fp64", 1e-10) if moves else ("fp32", 0.0)
        places = [other for other in self.places if other.net == place.net] if moves else [place]
        expected = self.calm(places[0], precision)
        queued = [f"--rdzv-id={disk.name}"] if chance.random() < 0.5 and not moves else []
        faults = chance.choices(FAULTS, k=chance.randint(2, 5))
        while not newest_run(disk).ended:
            resume = ["--resume"] * bool(list_checkpoints(newest_run(disk).checkpoints))
            self.disturb(
                Start(chance, place, disk, f"precision={precision}", *resume, flags=queued), faults
            )
            place = chance.choice(places)
        error = largest_error(tensors_of(disk), expected)
        assert error <= bound, f"error {error}"
        return error

    def disturb(self, here, faults):
        """Strike with the next faults until the start ends; takes them from the list."""
        self.note(f"[{here.place}]")
        must_end = False
        try:
            while faults and not must_end and not here.is_over:
                fault = faults.pop()
                self.note(fault.__name__.replace("_", " "))
                must_end = here.strike(fault, len(faults))
                self.words[-1] += f" at {last_step(here.disk)}"
            self.told.append(here.end())
        finally:
            here.server.stop()

    def note(self, words):
        self.words.append(words)
        self.counts[words] += 1

    def calm(self, place, precision):
        """The outcome of the same training without a fault; it is trained once."""
        runs = self.folder / f"{precision}-{self.places.index(place)}"
        if not newest_run(runs).ended:
            settings = (f"precision={precision}", "keep_checkpoints=1", "tracking.mode=disabled")
            status, out, err = finish(train(place, runs, *settings), PATIENCE)
            assert status == 0, out + err
        return tensors_of(runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--log", type=Path, default="soak.log")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # after either, clean up
        signal.signal(number, signal.default_int_handler)
    form = "%(asctime)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, filename=arguments.log)
    log.addHandler(logging.StreamHandler(sys.stdout))
    with tempfile.TemporaryDirectory() as folder:
        Soak(Path(folder)).run(arguments.seed, arguments.minutes)


if __name__ == "__main__":
    main()
