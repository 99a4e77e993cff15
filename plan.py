"""Predict the step of every placement on a machine, and name the best with its command.

  ./launch.sh plan.py                                  this machine, measured first if need be
  ./launch.sh plan.py --ranks 8 --batches 128,1024     eight such ranks
  ./launch.sh plan.py --machine node.json --ranks 64 --link 12.5GB/s --latency 20us
  ./launch.sh plan.py --device a100 --ranks 16 --ranks-per-node 8 --between infiniband
  ./launch.sh plan.py --html plan.html                 a page with sliders, for a browser
  ./launch.sh plan.py --charts plots                   pictures of the same

A machine's file is written by check.py; without one, and without --device, plan.py has it measure
this machine. --device takes a GPU of a small table instead: its rate is a published one for a net
like this, its links are nominal, so measure where you can.

Tables: images/s; ms of a step, and of its parts: computing, waiting for activations and for
gradients of other ranks, optimiser; MB that a rank sends; GiB of its tensors. Efficiency is the
speed-up over one rank, per rank. Plans are named by ranks × copies: split 4×2 is two copies of the
net, each on four ranks; split+hybrid 2×8 8×2 has eight copies of the convolutions and two of the
classifier. A plan that does not fit says so, and is never the best. docs/planning.md has each
formula, its source and its limits.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from launch.program import ArgumentParser, run_program

from common.arguments import listed, whole
from common.errors import ReportedError
from common.files import check_writable, home_path, writing
from launch.children import run_launcher
from planning.charts import draw_charts
from planning.devices import DEVICES, WIRES, known_machine
from planning.job import Job, planned
from planning.machine import MACHINE, Machine, read_machine
from planning.page import write_page
from planning.quantities import duration, rate, size
from planning.sweep import (
    Space,
    batch_changes,
    link_changes,
    scaled,
    scaling,
    with_links,
)
from planning.tables import (
    changes_in_words,
    command,
    machine_in_words,
    placements_table,
    scaling_table,
)
from training.config import Config
from training.settings import load_config

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent
CONFIG = Path("configs/compare.yaml")
MOST_RANKS = 2**16
PLACES = ("placement", "shards", "classifier_ranks", "classifier_scheme")
"""Settings of train.py that are the planner's to choose."""
NO_LINKS = (
    "the machine's file has no links, since one rank was measured: measure with as many ranks as "
    "devices (./launch.sh check.py)"
)


def main() -> int:
    """Print the predictions; returns the exit status."""
    arguments = parse_arguments()
    source = arguments.config or CONFIG
    config = load_config(arguments.config or ROOT / CONFIG, arguments.overrides)
    if config.optimizer.classifier_updates == "turn":
        raise ReportedError(
            "optimizer.classifier_updates=turn is another training on each placement, and plan.py "
            "compares placements of the same one: set optimizer.classifier_updates=step"
        )
    job = planned(config)
    net, machine = job.net, changed(choose_machine(arguments, config, job), arguments)
    space = Space(job, machine, ranks_of(arguments, machine), arguments.compress)
    check_ranks(space, arguments.batches)

    for path in filter(None, (arguments.html, arguments.json)):
        check_writable(path)

    log.info("%s, %d tower(s), %d px", net.name, net.towers, net.size)
    log.info("%s\n", machine_in_words(machine))
    if config.compile:
        log.info("compile=true is not predicted: the layers are taken as they are without it\n")
    how = ["--config", str(source), *settings_of(arguments, config)]
    answers = [answer(space.with_batch(batch), how) for batch in arguments.batches]
    tell_changes(space.with_batch(arguments.batches[0]))
    if arguments.charts:
        draw_charts(space.with_batch(arguments.batches[0]), arguments.batches, arguments.charts)
    if arguments.html:
        write_page(space.with_batch(arguments.batches[0]), how, arguments.html)
    if arguments.json:
        with writing(arguments.json):
            arguments.json.write_text(json.dumps(answers, indent=1) + "\n")
    if unfit := [each["batch"] for each in answers if each["best"] is None]:
        raise ReportedError(
            f"no placement of batch {min(unfit)} on {space.ranks} ranks fits in "
            f"{space.machine.memory / 2**30:.3g} GiB: use a smaller batch or more ranks"
        )
    return 0


def choose_machine(arguments: argparse.Namespace, config: Config, job: Job) -> Machine:
    """The machine of the command line; without one, this machine.

    Raises ReportedError if its file cannot be read, or if its precision is not the configuration's.
    """
    if arguments.device:
        per_node = arguments.ranks_per_node or 8
        wires = arguments.within or "nvlink", arguments.between or "100gbe"
        return known_machine(arguments.device, config.precision, job, per_node, *wires)
    if arguments.within or arguments.between:
        raise ReportedError("--within and --between are for --device; use --link for a machine")
    path = arguments.machine or config.runs / MACHINE
    if not (path.exists() or arguments.machine):
        measure_here(path, arguments)
    return read_machine(path, config.precision)


def measure_here(path: Path, arguments: argparse.Namespace) -> None:
    """Have check.py measure this machine; raises ReportedError if it fails."""
    log.info("measuring this machine, which takes minutes; check.py does it with more ranks, too\n")
    config = arguments.config or ROOT / CONFIG
    command = [str(ROOT / "check.py"), "--only", "speed", "--machine", str(path.resolve())]
    command += ["--config", str(config.resolve()), *arguments.overrides]
    status, _ = run_launcher(command, quietly=False)
    if status:
        raise ReportedError("this machine could not be measured, see above", retry=True)


def changed(machine: Machine, arguments: argparse.Namespace) -> Machine:
    """The machine with the node, the memory and the slowest links of the command line."""
    if arguments.ranks_per_node:
        machine = machine.in_nodes_of(arguments.ranks_per_node)
    if arguments.memory:
        machine = machine.model_copy(update={"memory": arguments.memory})
    if (arguments.link or arguments.latency is not None) and not (
        machine.within or machine.between
    ):
        raise ReportedError(f"--link and --latency have nothing to change: {NO_LINKS}")
    ranks = ranks_of(arguments, machine)
    if ranks > machine.ranks_per_node and not machine.between:
        machine = machine.model_copy(update={"between": machine.within})
    if arguments.link:
        machine = with_links(
            machine, ranks, lambda old: scaled(arguments.link / old.bandwidth)(old)
        )
    if arguments.latency is not None:
        latency = {"latency": arguments.latency}
        machine = with_links(machine, ranks, lambda old: old.model_copy(update=latency))
    return machine


def ranks_of(arguments: argparse.Namespace, machine: Machine) -> int:
    """The ranks to plan for: those asked for, or a node's."""
    return arguments.ranks or machine.ranks_per_node


def check_ranks(space: Space, batches: list[int]) -> None:
    """Raise ReportedError if the ranks cannot be planned for on the machine with the batches."""
    ranks, here = space.ranks, space.machine.ranks_per_node
    if min(batches) < ranks:
        raise ReportedError(
            f"batch {min(batches)} is smaller than {ranks} ranks: use a larger one of --batches"
        )
    if ranks > here and ranks % here:
        raise ReportedError(
            f"{ranks} ranks are no whole number of nodes of {here}: change --ranks or "
            "--ranks-per-node"
        )
    if not space.machine.connects(ranks):
        raise ReportedError(NO_LINKS)


def answer(space: Space, source: list[str]) -> dict[str, Any]:
    """Print the placements for a batch and the best one's command; returns them for JSON.

    ``best`` is None if none fits.
    """
    batch, ranked = space.job.batch, space.ranked()
    best = ranked[0]
    log.info("%s", placements_table(ranked, batch, space.ranks))
    run = command(best.candidate, batch, space.machine, source) if best.fits else None
    log.info("\nThe best: %s\n  %s\n", best.candidate.name if run else "none fits", run or "")
    rows = [
        {
            "placement": each.candidate.name,
            "overrides": each.candidate.overrides,
            "fits": each.fits,
            "seconds": each.prediction.seconds,
            "images_per_second": batch / each.prediction.seconds,
            **{f"seconds_{name}": s for name, s in each.prediction.parts.items()},
            "bytes_at": each.prediction.bytes_at,
            "memory": each.prediction.memory,
        }
        for each in ranked
    ]
    return {"batch": batch, "ranks": space.ranks, "best": run, "placements": rows}


def tell_changes(space: Space) -> None:
    """Print what would change the best placement, and how it scales."""
    batch, ranks = space.job.batch, space.ranks
    if ranks > 1:
        log.info(
            "The best on %d ranks with another batch, or with other links at %d:", ranks, batch
        )
        log.info("%s\n", changes_in_words(space, batch_changes(space), link_changes(space)))
    log.info(
        "Other numbers of ranks, global batch %d\n%s\n",
        batch,
        scaling_table(scaling(space, lambda ranks: batch)),
    )
    each = max(1, batch // ranks)
    log.info(
        "Other numbers of ranks, %d images on each\n%s",
        each,
        scaling_table(scaling(space, lambda ranks: each * ranks)),
    )


def settings_of(arguments: argparse.Namespace, config: Config) -> list[str]:
    """The overrides with which train.py runs a plan's job, but for those that choose the plan."""
    given = dict(override.split("=", 1) for override in arguments.overrides)
    kept = [f"{key}={value}" for key, value in given.items() if key not in PLACES]
    if arguments.device and "precision" not in given:
        kept.append(f"precision={config.precision}")  # auto is another on another machine
    return kept + [
        f"{name}=null" for name in ("shards", "classifier_ranks") if getattr(config, name)
    ]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description=__doc__, epilog="Overrides are train.py's: see python train.py --help."
    )
    add = parser.add_argument
    add("--config", type=home_path, metavar="FILE", help=f"default: {CONFIG}")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--machine", type=home_path, metavar="FILE", help="a file of check.py")
    chosen.add_argument("--device", choices=DEVICES, help="a known GPU, by published rates")
    add("--within", choices=WIRES, help="links in a node of --device; default: nvlink")
    add("--between", choices=WIRES, help="links between nodes of --device; default: 100gbe")
    add("--ranks", type=whole(1, MOST_RANKS), metavar="N", help="default: those of a node")
    add("--ranks-per-node", type=whole(1, MOST_RANKS), metavar="N", help="default: the machine's")
    add(
        "--batches",
        type=listed(whole()),
        default=[32, 128, 512],
        metavar="N,N",
        help="global batches",
    )
    add("--link", type=rate, metavar="RATE", help="of a rank on the slowest links: 12.5GB/s")
    add("--latency", type=duration, metavar="TIME", help="of the slowest links: 20us")
    add("--memory", type=size, metavar="SIZE", help="of a rank: 40GB, 16GiB")
    add("--compress", action="store_true", help="also plan with gradients sent as bf16")
    add("--charts", type=home_path, metavar="FOLDER", help="draw pictures into FOLDER")
    add("--html", type=home_path, metavar="FILE", help="write a page with sliders")
    add("--json", type=home_path, metavar="FILE", help="write the predictions to FILE")
    add("overrides", nargs="*", metavar="key.sub=value", help="change a setting")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_program(main, most_ranks=1)
