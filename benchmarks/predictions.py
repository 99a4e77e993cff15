"""Predicted steps beside measured ones, on this machine.

The speed of a machine drifts, and a prediction is only as good as what was measured. So in every
round, for every batch, check.py measures the machine anew; then each plan that train.py can run is
trained for some steps. ``error`` is predicted over measured time, less 1; all figures are medians
of the rounds. The second table says how good the choice is: ``regret`` is the time of the plan that
was predicted to be the best over that of the best measured, less 1; ``order`` is the part of all
pairs of plans whose order was predicted right, where they differ by more than 2 %.

With --links, two ranks stand for two hosts that a cable of each rate joins (see benchmarks.link):
python -m benchmarks.predictions --links 1gbit 10gbit --batches 128

Interrupted, it goes on where it was when started again with the same --folder.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import combinations, product
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from launch.program import run_program

from tqdm import tqdm

from benchmarks import link
from benchmarks.contest import Row, plain_parser, report
from common.arguments import whole
from common.files import home_path, read_objects
from comparison.measure import TrainingError, steady_speed, train
from launch.children import ROOT, run_launcher
from planning.job import job_of
from planning.machine import Machine, read_machine
from planning.prediction import predict
from planning.search import Candidate, candidates
from training.settings import load_config

CONFIG = ROOT / "configs" / "compare.yaml"
CHANNELS, CLASSES = 3, 10
WARMUP, APART = 2, 1.02


class Place(NamedTuple):
    """Ranks of this machine or, with the rate of a ``link``, two of two hosts that it joins."""

    ranks: int
    link: str | None = None

    @property
    def name(self) -> str:
        """Such as 2 ranks, or 2 ranks at 1gbit."""
        return f"{self.ranks} ranks" + (f" at {self.link}" if self.link else "")

    def machine(self, path: Path) -> Machine:
        """The machine as check.py measures it now, or did before an interruption."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            program = [str(ROOT / "check.py"), "--only", "speed", "--folder", str(path.parent)]
            program += ["--machine", str(path)]
            if self.link:
                link.run(program)
            elif run_launcher(["--nproc-per-node", str(self.ranks), *program], quietly=True)[0]:
                sys.exit(f"{' '.join(program)} failed on {self.ranks} ranks")
        return read_machine(path)

    def measure(self, candidate: Candidate, batch: int, steps: int) -> dict[str, Any]:
        """Train for some steps; returns ``steady_speed``'s keys."""
        settings = [*candidate.overrides, f"batch_size={batch}", "keep_checkpoints=0"]
        settings += [f"data.synthetic_length={batch * (WARMUP + steps)}"]
        if self.link:
            return link.train(settings, WARMUP + steps)
        settings.append(f"max_steps={WARMUP + steps}")
        with tempfile.TemporaryDirectory() as runs:
            try:
                return steady_speed(train(CONFIG, self.ranks, settings, "run", Path(runs)), WARMUP)
            except TrainingError as failure:
                sys.exit(f"{candidate.name}: {failure}")


def block(place: Place, batch: int, steps: int, folder: Path, bar: "tqdm[Any]") -> list[Row]:
    """Measure the machine and then every plan, unless ``folder`` holds it; returns their rows."""
    bar.set_description(f"{place.name}, batch {batch}: the machine")
    machine, path = place.machine(folder.resolve() / "machine.json"), folder / "measured.jsonl"
    config, rows = load_config(CONFIG, []), []
    found = {each["plan"]: each for each in read_objects(path) if each["steps"] == steps}
    for candidate in candidates(place.ranks, config.towers, config.form, compress=False):
        bar.set_description(f"{place.name}, batch {batch}: {candidate.name}")
        if candidate.name not in found:
            measured = {
                "plan": candidate.name,
                "steps": steps,
                **place.measure(candidate, batch, steps),
            }
            found[candidate.name] = measured
            with path.open("a") as file:
                file.write(json.dumps(measured) + "\n")
        rows.append(row_of(place, candidate, batch, found[candidate.name], machine))
    return rows


def row_of(
    place: Place, candidate: Candidate, batch: int, measured: dict[str, Any], machine: Machine
) -> Row:
    """A plan's row at one batch, from one round."""
    job = job_of(load_config(CONFIG, []), batch, CHANNELS, CLASSES)
    found = predict(candidate.job(job), candidate.plan, machine)
    seconds = batch / measured["images_per_second"]
    waits = sum(measured[f"seconds_{what}_communication"] for what in ("activation", "gradient"))
    return {
        "": place.name,
        "batch": batch,
        "plan": candidate.name,
        "measured, ms": 1e3 * seconds,
        "predicted": 1e3 * found.seconds,
        "error, %": 100 * (found.seconds / seconds - 1),
        "waits, ms": 1e3 * waits,
        "predicted waits": 1e3 * (found.activations + found.gradients),
        "peak, GiB": measured["peak_memory_bytes"] / 2**30,
        "predicted GiB": found.memory / 2**30,
    }


KEYS = ("", "batch", "plan")


def medians(rows: list[Row]) -> list[Row]:
    """One row for each plan at a place and batch: the medians of its rounds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    return [
        {
            key: group[0][key] if key in KEYS else median(row[key] for row in group)
            for key in group[0]
        }
        for group in groups.values()
    ]


def choices(rows: list[Row]) -> Iterator[Row]:
    """The quality of the choice at each place and batch."""
    for place, batch in dict.fromkeys((row[""], row["batch"]) for row in rows):
        here = [row for row in rows if (row[""], row["batch"]) == (place, batch)]
        chosen, best = (min(here, key=lambda r: r[key]) for key in ("predicted", "measured, ms"))
        pairs = [pair for pair in combinations(here, 2) if _apart(*pair)]
        right = [
            (a["predicted"] < b["predicted"]) == (a["measured, ms"] < b["measured, ms"])
            for a, b in pairs
        ]
        yield {
            "": place,
            "batch": batch,
            "mean |error|, %": mean(abs(row["error, %"]) for row in here),
            "chosen": chosen["plan"],
            "best": best["plan"],
            "regret, %": (
                100 * (chosen["measured, ms"] / best["measured, ms"] - 1) if len(here) > 1 else None
            ),
            "order": mean(right) if right else None,
        }


def _apart(a: Row, b: Row) -> bool:
    low, high = sorted(row["measured, ms"] for row in (a, b))
    return high > APART * low


def main() -> int:
    """Measure, predict and compare."""
    add = plain_parser(__doc__)
    where = add.add_mutually_exclusive_group()
    where.add_argument("--ranks", type=whole(), nargs="+", default=[1, 2, 4], metavar="K")
    where.add_argument("--links", nargs="+", metavar="RATE", help="as tc writes it, such as 1gbit")
    add.add_argument("--batches", type=whole(), nargs="+", default=[32, 128, 512], metavar="B")
    add.add_argument("--rounds", type=whole(), default=2, metavar="N", help="default: %(default)s")
    add.add_argument("--steps", type=whole(), default=5, metavar="N", help="default: %(default)s")
    add.add_argument(
        "--folder", type=home_path, default=Path("runs", "predictions"), metavar="FOLDER"
    )
    arguments = add.parse_args()
    if arguments.links and (reason := link.why_not()):
        print(f"skipped: this machine does not allow a slow link: {reason}")
        return 0
    places = [Place(2, rate) for rate in arguments.links or ()]
    places = places or [Place(ranks) for ranks in arguments.ranks]
    rounds, rows = range(1, arguments.rounds + 1), []
    for number, place, batch in (
        bar := tqdm(list(product(rounds, places, arguments.batches)), disable=None)
    ):
        folder = arguments.folder / place.name.replace(" ", "-") / f"batch-{batch}-round-{number}"
        with link.slow_link(place.link) if place.link else nullcontext():
            rows += block(place, batch, arguments.steps, folder, bar)
    steps = medians(rows)
    chosen = list(choices(steps))
    orders = [row["order"] for row in chosen if row["order"] is not None]
    regrets = [row["regret, %"] for row in chosen if row["regret, %"] is not None]
    overall = {
        "steps": len(steps),
        "mean |error|, %": mean(abs(row["error, %"]) for row in steps),
        "mean regret, %": mean(regrets) if regrets else None,
        "mean order": mean(orders) if orders else None,
    }
    report("predictions", {"steps": steps, "choices": chosen, "overall": [overall]}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
