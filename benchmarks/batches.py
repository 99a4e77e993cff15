"""Accuracy against the batch, as in table 1 of Krizhevsky 2014: fewer, larger steps.

  linear    SGD at a rate in proportion to the batch, after a warm-up (Goyal et al. 2017)
  variable  the same, but a hybrid's classifier is updated after each rank's turn, with half of the
            batch and half of the rate (Krizhevsky 2014, section 4.2)
  searched  SGD at the best rate of some trials on held-out training images, each as long as a
            training
  lars      LARS at the best rate of such trials (You et al. 2017)

All see the same images, on two ranks, in fp32. A method that fails at a batch has a row without
an accuracy. Interrupted, it goes on where it was when started again with the same --folder.
"""

import argparse
import logging
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from launch.program import run_program

from matplotlib.figure import Figure

from benchmarks.contest import Row, plain_parser, report
from common.arguments import whole
from common.colors import COLORS
from common.files import home_path, writing
from comparison.learning import FormFailedError, Learning, Outcome, Study
from launch.children import ROOT
from training.settings import load_config

log = logging.getLogger(__name__)

CONFIG = ROOT / "configs" / "fashion.yaml"
BATCHES = (256, 512, 1024, 2048, 4096, 8192)
BASE_BATCH, BASE_RATE, BASE_LARS = 256, 0.02, 0.5
SMALLER = ["net.hidden=1024", "data.size=64"]  # so that more trainings can be afforded
OVERRIDES = [*SMALLER, "schedule.name=cosine", "schedule.warmup=0.2", "precision=fp32"]
KNOWN, HELD_OUT = 60_000, 5000


def linear(batch: int) -> list[str]:
    """SGD at a rate in proportion to the batch."""
    return [f"optimizer.learning_rate={BASE_RATE * batch / BASE_BATCH:g}"]


def variable(batch: int) -> list[str]:
    """The same in a hybrid of two ranks, whose classifier takes two steps for one."""
    half = BASE_RATE * batch / BASE_BATCH / 2
    updates = ["optimizer.classifier_updates=turn", f"optimizer.classifier_learning_rate={half:g}"]
    return [*linear(batch), "placement=hybrid", "classifier_scheme=b", *updates]


def searched(batch: int) -> list[str]:
    """SGD; the search for its rate begins at that of the smallest batch."""
    return [f"optimizer.learning_rate={BASE_RATE}"]


def lars(batch: int) -> list[str]:
    """LARS; the search for its rate begins at the same for every batch."""
    return ["optimizer.name=lars", f"optimizer.learning_rate={BASE_LARS}"]


Method = Callable[[int], list[str]]
STATED: dict[str, Method] = {"linear": linear, "variable": variable}
SEARCHED: dict[str, Method] = {"searched": searched, "lars": lars}


def forms(methods: dict[str, Method], batches: Iterable[int]) -> dict[str, list[str]]:
    """The overrides of every method at every batch, by METHOD BATCH."""
    return {
        f"{name} {batch}": [f"batch_size={batch}", *method(batch)]
        for batch in batches
        for name, method in methods.items()
    }


def train_all(
    methods: dict[str, Method],
    trial_images: int | None,
    arguments: argparse.Namespace,
    folder: Path,
) -> list[Outcome]:
    """The outcomes of all methods at all batches, with every seed; ``folder`` keeps them.

    A method that fails at a batch has none.
    """
    study = Study(
        forms(methods, arguments.batches),
        load_config(CONFIG, OVERRIDES),
        CONFIG,
        OVERRIDES,
        processes=2,
        seeds=arguments.seeds,
        known=KNOWN,
        images=arguments.images,
        trial_images=trial_images,
        held_out=HELD_OUT,
    )
    folder.mkdir(parents=True, exist_ok=True)
    learning, outcomes = Learning(study, folder), []
    for form in study.forms:
        try:
            outcomes += [each for each in learning.run([form]) if each["form"] == form]
        except FormFailedError as failure:
            log.info("%s", failure)
    return outcomes


def rows_of(outcomes: list[Outcome], batches: Iterable[int]) -> list[Row]:
    """A row for each method and batch; one that failed has no accuracy."""
    rows = []
    for name, batch in product([*STATED, *SEARCHED], batches):
        own = [each for each in outcomes if each["form"] == f"{name} {batch}"]
        accuracy = [100 * each["test_top1"] for each in own]
        speeds = [each["images"] / each["seconds"] for each in own]
        rows.append(
            {
                "method": name,
                "batch": batch,
                "rate": own[0]["learning_rate"] if own else None,
                "accuracy, %": mean(accuracy) if own else None,
                "±": stdev(accuracy) if len(own) > 1 else None,
                "images/s": mean(speeds) if own else None,
                "seeds": len(own),
            }
        )
    return rows


def draw(rows: list[Row], path: Path) -> None:
    """Draw each method's accuracy against the batch, with the standard deviation over seeds."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, color in zip([*STATED, *SEARCHED], COLORS, strict=False):
        own = [row for row in rows if row["method"] == name and row["seeds"]]
        xs, ys = [row["batch"] for row in own], [row["accuracy, %"] for row in own]
        errors = [row["±"] or 0.0 for row in own]
        axes.errorbar(xs, ys, errors, marker="o", capsize=3, color=color, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches := sorted({row["batch"] for row in rows}), [f"{b:,}" for b in batches])
    axes.set(xlabel="images in a step", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    with writing(path):
        figure.savefig(path, dpi=100)


def main() -> int:
    """Train every method at every batch with every seed."""
    made = plain_parser(__doc__)
    add = made.add_argument
    add(
        "--batches",
        type=whole(),
        nargs="+",
        default=BATCHES,
        metavar="N",
        help="default: %(default)s",
    )
    add("--images", type=whole(), default=240_000, metavar="N", help="default: %(default)s")
    add("--seeds", type=whole(), default=3, metavar="N", help="default: %(default)s")
    add("--folder", type=home_path, default=Path("runs", "benchmarks", "batches"), metavar="DIR")
    arguments = made.parse_args()
    folder = arguments.folder
    outcomes = train_all(STATED, 0, arguments, folder / "stated")
    outcomes += train_all(SEARCHED, None, arguments, folder / "searched")
    rows = rows_of(outcomes, arguments.batches)
    draw(rows, folder / "batches.png")
    title = f"Fashion-MNIST at 64 px, 1,024 hidden units, {arguments.images:,} images, two ranks"
    report("batches", {title: rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
