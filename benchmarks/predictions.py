"""Predicted steps beside measured ones, on this machine.

For each number of ranks, check.py first measures the machine. Then every plan that train.py can run
is trained for some steps, in rounds of A B C D, and its median step compared with the prediction.
``error`` is predicted over measured time, less 1. For each number of ranks and batch the second
table says how good the choice is: ``regret`` is the time of the plan that was predicted to be the
best over that of the best measured, less 1; ``order`` is the part of all pairs of plans whose order
was predicted right, where they differ by more than 2 %.

Interrupted, it goes on where it was when started again with the same --folder.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.contest import Row, plain_parser, report
from common.errors import ReportedError
from common.files import home_path
from comparison.placements import Placement
from comparison.session import Comparison
from launch.children import ROOT, run_launcher
from planning.job import job_of
from planning.machine import Machine, read_machine
from planning.search import Candidate, candidates, cost
from training.settings import load_config

CONFIG = ROOT / "configs" / "compare.yaml"
CHANNELS, CLASSES = 3, 10
APART = 1.02


def machine_of(ranks: int, folder: Path) -> Machine:
    """This machine with so many ranks, measured unless the folder holds it."""
    path = folder / f"machine-{ranks}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--nproc-per-node", str(ranks), "check.py", "--only", "speed"]
        status, _ = run_launcher([*arguments, "--machine", str(path)], quietly=False)
        if status:
            raise ReportedError("check.py failed, see above", retry=True)
    return read_machine(path)


def rows_of(ranks: int, batches: list[int], rounds: int, steps: int, folder: Path) -> list[Row]:
    """Predicted and measured steps of all plans on so many ranks."""
    config, machine = load_config(CONFIG, []), machine_of(max(2, ranks), folder)
    plans = {
        each.name: each for each in candidates(ranks, config.towers, config.form, compress=False)
    }
    session = Comparison(
        config,
        CONFIG,
        [],
        [Placement(name, ranks, tuple(each.overrides)) for name, each in plans.items()],
        batches,
        rounds,
        steps,
        warmup=2,
    )
    own = folder / f"ranks-{ranks}"
    own.mkdir(parents=True, exist_ok=True)
    measured = [each for each in session.measure(own.resolve()) if "error" not in each]
    return [
        row_of(plans[name], batch, [each for each in measured if _is(each, batch, name)], machine)
        for batch in batches
        for name in plans
        if any(_is(each, batch, name) for each in measured)
    ]


def _is(measurement: dict[str, Any], batch: int, name: str) -> bool:
    return measurement["global_batch"] == batch and measurement["placement"] == name


def row_of(
    candidate: Candidate, batch: int, measured: list[dict[str, Any]], machine: Machine
) -> Row:
    """A plan's row at one batch."""
    job = job_of(load_config(CONFIG, []), batch, CHANNELS, CLASSES)
    found = cost(candidate, job, machine)
    seconds = median(batch / each["images_per_second"] for each in measured)
    waited = ("seconds_activation_communication", "seconds_gradient_communication")
    waits = median(sum(each[name] for name in waited) for each in measured)
    return {
        "ranks": candidate.plan.world_size,
        "batch": batch,
        "": candidate.name,
        "measured, ms": 1e3 * seconds,
        "predicted": 1e3 * found.seconds,
        "error, %": 100 * (found.seconds / seconds - 1),
        "waits, ms": 1e3 * waits,
        "predicted waits": 1e3 * (found.activations + found.gradients),
        "peak, GiB": max(each["peak_memory_bytes"] for each in measured) / 2**30,
        "predicted GiB": found.memory / 2**30,
    }


def choices(rows: list[Row]) -> Iterator[Row]:
    """The quality of the choice for each number of ranks and batch."""
    for ranks, batch in sorted({(row["ranks"], row["batch"]) for row in rows}):
        here = [row for row in rows if (row["ranks"], row["batch"]) == (ranks, batch)]
        chosen, best = (min(here, key=lambda r: r[key]) for key in ("predicted", "measured, ms"))
        pairs = [pair for pair in combinations(here, 2) if _apart(*pair)]
        right = [
            (a["predicted"] < b["predicted"]) == (a["measured, ms"] < b["measured, ms"])
            for a, b in pairs
        ]
        yield {
            "ranks": ranks,
            "batch": batch,
            "mean |error|, %": mean(abs(row["error, %"]) for row in here),
            "chosen": chosen[""],
            "best": best[""],
            "regret, %": 100 * (chosen["measured, ms"] / best["measured, ms"] - 1),
            "order": mean(right) if right else None,
        }


def _apart(a: Row, b: Row) -> bool:
    low, high = sorted(row["measured, ms"] for row in (a, b))
    return high > APART * low


def main() -> None:
    """Measure, predict and compare."""
    add = plain_parser(__doc__)
    add.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], metavar="K")
    add.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512], metavar="B")
    add.add_argument("--rounds", type=int, default=2, metavar="N", help="default: %(default)s")
    add.add_argument("--steps", type=int, default=4, metavar="N", help="default: %(default)s")
    add.add_argument(
        "--folder", type=home_path, default=Path("runs", "predictions"), metavar="FOLDER"
    )
    arguments = add.parse_args()
    rows: list[Row] = []
    for ranks in arguments.ranks:
        rows += rows_of(
            ranks, arguments.batches, arguments.rounds, arguments.steps, arguments.folder
        )
    overall = {
        "steps": len(rows),
        "mean |error|, %": mean(abs(row["error, %"]) for row in rows),
        "mean regret, %": mean(row["regret, %"] for row in choices(rows)),
    }
    tables = {"steps": rows, "choices": list(choices(rows)), "overall": [overall]}
    report("predictions", tables, arguments.json)


if __name__ == "__main__":
    main()
