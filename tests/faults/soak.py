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

import torch
from safetensors.torch import load_file

from common.errors import ReportedError
from distributed.plan import PLACEMENTS
from recording.checkpoint import MODEL, OPTIMIZER, list_checkpoints
from tests.disks import small_disk
from tests.faults.strikes import FAULTS, PATIENCE, SMALL, Place, Start, newest_run, train
from tests.programs import finish, processes_mentioning, wait_until
from tests.runs import losses
from training.settings import resolve_config

log = logging.getLogger("soak")

ROOM = "200m"


def list_places():
    """Every placement of the small net on up to four ranks, each once."""
    found: dict[tuple[object, ...], Place] = {}
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


class Soak:
    """Rounds; ``folder`` holds the undisturbed runs that they are compared to."""

    def __init__(self, folder):
        self.folder, self.places = folder, list_places()
        self.words: list[str] = []
        self.told: list[str] = []
        self.struck: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()

    def run(self, seed, minutes):
        """Rounds with ``seed`` and those after it until the time is over; returns their number."""
        until = time.monotonic() + 60 * minutes
        for number in count(seed):
            with small_disk(self.folder / f"disk-{number}", ROOM) as disk:
                self.words, self.told, began = [], [], time.monotonic()
                try:
                    error = self.play(random.Random(number), disk)
                    outcome = f"error {error:.0e}, {time.monotonic() - began:.0f} s"
                except BaseException as error:
                    outcome = "\n".join([type(error).__name__, *self.told, str(error)])
                    raise
                finally:
                    self.clear(disk)
                    log.info("seed %d  %s: %s", number, ", ".join(self.words), outcome)
            if time.monotonic() > until:
                break
        rounds = number - seed + 1
        log.info("%d rounds, all exact; %s; %s", rounds, dict(self.struck), dict(self.starts))
        return rounds

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
            again = [f"precision={precision}", *resume]
            self.disturb(Start(chance, place, disk, *again, flags=queued), faults)
            place = chance.choice(places)
        error = largest_error(tensors_of(disk), expected)
        assert error <= bound, f"error {error}"
        return error

    def disturb(self, here, faults):
        """Strike with the next faults until the start ends; takes them from the list."""
        self.words.append(f"[{here.place}]")
        self.starts[str(here.place)] += 1
        must_end = False
        try:
            while faults and not must_end and not here.is_over:
                fault = faults.pop()
                name = fault.__name__.replace("_", " ")
                self.words.append(f"{name} after step {here.wait(len(faults))}")
                self.struck[name] += 1
                must_end = here.strike(fault)
            self.told.append(here.end())
        finally:
            here.server.stop()

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
