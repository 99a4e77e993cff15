"""Trains under faults at random, one round after the other, until the time is over.

    python -m tests.faults.soak --minutes 120 --seed 1 --log soak.log

A round draws a placement and some faults with its seed, and starts its run again as a cluster
would. It passes if the run ends with the weights of one that nothing disturbed: bit for bit, or to
1e-10 in fp64 where every start has another placement. Each start must end within ``PATIENCE`` and
leave no process. A failure ends the soak, with the command that repeats the round.
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
PROGRAM = "python -m tests.faults.soak"
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
    shapes = [*product((None, 2, 4), (None, 2), "abc", (2, 1), ("step", "turn"))]
    for number, name, shape in product(range(5), PLACEMENTS, shapes):
        keys = ("shards", "classifier_ranks", "classifier_scheme", "towers")
        values = zip((*keys, "optimizer.classifier_updates"), shape, strict=True)
        settings = (f"placement={name}", *(f"{key}={v}" for key, v in values if v is not None))
        with suppress(ReportedError):  # what the ranks or the settings do not allow
            plan = resolve_config({}, [*SMALL, *settings], Path()).plan(number or 1)
            scheme, updates = shape[2] if plan.feeds > 1 else "a", shape[4]
            if plan.placement == name:
                place = Place(number, settings, (plan.towers, updates))
                found.setdefault((number, plan, scheme, updates), place)
    return list(found.values())


class Start:
    """One start of the run on ``disk``, and what strikes it."""

    def __init__(self, chance, place, disk, *arguments, flags=()):
        self.chance, self.place, self.disk = chance, place, disk
        self.restarts = chance.choice([0, 0, 9]) if place.ranks else 0
        self.goes_on = chance.random() < 0.5
        self.allowed = {0}
        self.server = WandbServer()
        self.server.behaviour = chance.choice(["well", *OUTAGES])
        self.last = last_step(disk)
        self.process = train(
            place,
            *(disk, f"write_errors={'continue' if self.goes_on else 'stop'}"),
            *(chance.choice(["tracking.mode=disabled", "tracking.mode=online"]), *arguments),
            flags=[*flags, f"--max-restarts={self.restarts}"],
            WANDB_BASE_URL=self.server.url,
        )

    def strike(self, fault, rest):
        """Strike when training has gone on for a while, or soon after the start.

        Returns whether the start must end. ``rest`` more faults follow.
        """
        self.trains = self.chance.random() < 0.8
        if self.trains:
            self.last += self.chance.randint(1, 1 + (STEPS - self.last) // (rest + 2))
            wait_until(lambda: self.is_over or last_step(self.disk) >= self.last, PATIENCE)
        else:
            time.sleep(self.chance.uniform(0, 15))
        with suppress(ProcessLookupError, IndexError):  # the run has ended
            return FAULTS[fault](self)
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
        """Wait for the end; returns what the programs printed."""
        status, out, err = finish(self.process, PATIENCE)
        self.server.behaviour = "well"  # whoever waits for it goes on
        told = f"status {status}, of {self.allowed}\n{out}\n{err}"
        assert status in self.allowed, told
        assert "Traceback" not in err, told
        assert status != 2 or "No space left on device" in err, told
        if "stopping, with a checkpoint" in out and status == 128 + signal.SIGTERM:
            newest = list_checkpoints(newest_run(self.disk).checkpoints)[-1]
            assert newest.name == f"step-{last_step(self.disk):08d}", told
        wait_until(lambda: not processes_mentioning(f"SOAK={self.disk}"), timeout=120)
        return told

    # --- Faults, which return whether the start must end --------------------------------------

    def kill_rank(self):
        self.allowed |= {128 + signal.SIGKILL, -signal.SIGKILL}
        os.kill(self.chance.choice(self.ranks), signal.SIGKILL)
        return not self.restarts

    def kill_launcher(self):
        self.allowed |= {-signal.SIGKILL}
        self.process.kill()
        return True

    def terminate(self):
        """As a cluster does that will queue the job again: the launcher, a rank, or everything."""
        self.allowed |= {128 + signal.SIGTERM, -signal.SIGTERM}
        one, everyone = self.chance.choice(self.ranks), processes_mentioning(f"SOAK={self.disk}")
        for pid in self.chance.choice([[self.process.pid], [one], everyone]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return True

    def stop_for_a_while(self):
        pid = self.chance.choice(self.ranks)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.chance.uniform(1, 8))
        os.kill(pid, signal.SIGCONT)
        return False

    def stop_for_good(self):
        if self.place.ranks < 2 or not self.trains:
            return self.stop_for_a_while()
        self.allowed |= {1}
        pid = self.chance.choice(self.ranks)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: pid not in self.ranks, PATIENCE)
        return not self.restarts

    def fill_disk(self):
        self.allowed |= {2}
        with full(self.disk):
            if self.goes_on:
                time.sleep(self.chance.uniform(1, 8))
            else:
                wait_until(lambda: self.is_over, PATIENCE)
        return not self.goes_on

    def lose_wandb(self):
        self.server.behaviour = self.chance.choice(OUTAGES)
        return False

    def end_wandb(self):
        self.server.stop()
        return False

    def kill_wandb(self):
        for pid in processes_mentioning(f"SOAK={self.disk}"):
            if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        return False


FAULTS = {
    "a rank killed": Start.kill_rank,
    "the launcher killed": Start.kill_launcher,
    "SIGTERM": Start.terminate,
    "a rank stopped for a while": Start.stop_for_a_while,
    "a rank stopped for good": Start.stop_for_good,
    "a full disk": Start.fill_disk,
    "W&B's server fails": Start.lose_wandb,
    "W&B's server gone": Start.end_wandb,
    "W&B's process killed": Start.kill_wandb,
}


def train(place, runs, *arguments, flags=(), **environment):
    """Start train.py there; whatever it starts has SOAK in its environment."""
    command = [*ranks(place.ranks), *flags] if place.ranks else ranks(0)
    settings = [*SMALL, *place.settings, f"runs={runs}", *arguments]
    home = {"HOME": str(runs), "XDG_CACHE_HOME": str(Path.home() / ".cache")}  # compiled kernels
    wandb = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}
    marks = {"SOAK": str(runs), **home, **wandb, **environment}
    return start(*command, "train.py", *settings, **marks)


def newest_run(runs):
    return RunFolder.newest(runs, "run")


def last_step(runs):
    """The last step in the metrics of the newest run; 0 if there is none."""
    with suppress(ReportedError):
        return max((line["step"] for line in read_metrics(newest_run(runs).metrics)), default=0)
    return 0


def has_ended(runs):
    with suppress(ReportedError):
        return newest_run(runs).ended
    return False


def can_resume(runs):
    with suppress(ReportedError):
        return bool(list_checkpoints(newest_run(runs).checkpoints))
    return False


def tensors_of(runs):
    """The last weights, momentum and losses of a run to its end."""
    folder = newest_run(runs)
    last = list_checkpoints(folder.checkpoints)[-1]
    found = {**load_file(last / MODEL), **load_file(last / OPTIMIZER)}
    return {**found, "losses": torch.tensor(losses(folder.path), dtype=torch.float64)}


def largest_error(found, expected):
    """Relative to the largest value of each tensor; 0 only if all are equal bit for bit."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    errors = [
        (found[name] - value).abs().max() / value.abs().max().clamp_min(1e-12)
        for name, value in expected.items()
    ]
    return max(map(float, errors))


class Soak:
    """Rounds, with the undisturbed runs that they are compared to in ``folder``."""

    def __init__(self, folder):
        self.folder, self.places = folder, list_places()
        self.struck: Counter[str] = Counter()
        self.used: Counter[str] = Counter()

    def calm(self, place, precision):
        """The outcome of the same training without a fault; it is trained once."""
        runs = self.folder / f"{precision}-{self.places.index(place)}"
        if not has_ended(runs):
            settings = (f"precision={precision}", "keep_checkpoints=1")
            status, out, err = finish(train(place, runs, *settings), PATIENCE)
            assert status == 0, out + err
        return tensors_of(runs)

    def play(self, seed, disk):
        """One round; returns it in words."""
        chance, began = random.Random(seed), time.monotonic()
        told: list[str] = []
        words: list[str] = []
        ranks_here = chance.randrange(5)
        place = chance.choice([place for place in self.places if place.ranks == ranks_here])
        moves = place.net[1] == "step" and chance.random() < 0.3
        precision, bound = ("fp64", 1e-10) if moves else ("fp32", 0.0)
        places = [other for other in self.places if other.net == place.net]
        expected = self.calm(places[0] if moves else place, precision)
        queued = [f"--rdzv-id=round-{seed}"] if chance.random() < 0.5 and not moves else []
        faults = chance.choices([*FAULTS], k=chance.randint(2, 5))
        while not has_ended(disk):
            resume = ["--resume"] if can_resume(disk) else []
            here = Start(chance, place, disk, f"precision={precision}", *resume, flags=queued)
            self.used[str(place)] += 1
            words.append(f"[{place}]" if moves or not words else "again")
            try:
                must_end = False
                while faults and not must_end and not here.is_over:
                    words.append(fault := faults.pop())
                    must_end = here.strike(fault, len(faults))
                    words[-1] += f" at {last_step(disk)}"
                    self.struck[fault] += 1
                told.append(here.end())
            except BaseException:
                log.error("\n".join([*told, ", ".join(words)]))
                raise
            finally:
                here.server.stop()
            place = chance.choice(places) if moves else place
        error = largest_error(tensors_of(disk), expected)
        assert error <= bound, "\n".join([*told, ", ".join(words), f"error {error}"])
        seconds = time.monotonic() - began
        return f"seed {seed}  {precision}  {', '.join(words)}: error {error:.0e}, {seconds:.0f} s"

    def run(self, seed, minutes):
        """Rounds with ``seed`` and those after it until the time is over; one at least."""
        until = time.monotonic() + 60 * minutes
        for number in count(seed):
            with small_disk(self.folder / f"disk-{number}", ROOM) as disk:
                try:
                    log.info(self.play(number, disk))
                except BaseException:
                    log.exception("round failed; again: %s --minutes 0 --seed %d", PROGRAM, number)
                    raise
                finally:
                    for pid in processes_mentioning(f"SOAK={disk}"):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    wait_until(lambda: not processes_mentioning(f"SOAK={disk}"))
            if time.monotonic() > until:
                break
        rounds = number - seed + 1
        log.info("%d rounds, all exact; struck: %s", rounds, dict(self.struck.most_common()))
        log.info("starts by placement: %s", dict(self.used.most_common()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--log", type=Path, default="soak.log")
    arguments = parser.parse_args()
    log.addHandler(logging.StreamHandler(sys.stdout))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", filename=arguments.log
    )
    with tempfile.TemporaryDirectory() as folder:
        Soak(Path(folder)).run(arguments.seed, arguments.minutes)


if __name__ == "__main__":
    main()
