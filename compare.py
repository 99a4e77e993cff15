"""Compare the placements of the net on this machine: speed, bytes sent and memory.

Trains the same net on the same images under each placement in turn, in several rounds of A B C D,
so that a drift of the machine's speed affects all alike. Each measurement runs the real training
program through the launcher. Figures are medians with their range; speedups are ratios within a
round.

  python compare.py                                  the placements for this machine's devices
  python compare.py --placements split,ddp --batches 32,128,512 --rounds 5
  python compare.py --placements single,dense-split,dense-ddp,dense-hybrid
  python compare.py --resume                         continue after an interruption
  python compare.py --train --seeds 5                compare what forms of the net learn
  python compare.py --train --forms activations      ReLU against tanh, figure 1 of the paper
  python compare.py --train --forms towers,meetings  two sets; what they share is trained once

  single        the dense single-stream net, in one process
  local         all towers in one process
  split         one tower on each rank
  ddp           the whole net on each of as many ranks
  hybrid        the convolutions on each of as many ranks, the fully connected layers divided
  split+ddp     two replicas of split, on twice as many ranks
  hybrid+ddp    two groups of hybrid, such as nodes, which sum their gradients
  split+hybrid  the convolutions split, the fully connected layers divided over twice as many ranks
  dense-split, dense-ddp, dense-hybrid
                the single-stream net on as many ranks

Those on twice as many ranks are compared if there are as many GPUs, or if they are named; the last
three if they are named. × local holds the net fixed for all that have towers, × single for the
single stream.

--train trains each form to the end, with each seed. The learning rate of a form is the best of some
trials, each as long as a training, which are tested on training images held out, never on the test
set.

With a machine's file (check.py writes runs/machine.json) each measurement stands beside its
prediction. The results are in runs/NAME: results.json, .csv and .md, charts, and W&B runs of one
group.
"""

import argparse
import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from launch.program import ArgumentParser, run_program

import torch

from common.arguments import listed, whole
from common.files import check_writable, home_path, writing
from comparison.forms import FORMS, forms_of
from comparison.learning import Learning, Study
from comparison.learning_report import write_learning
from comparison.machine import describe_machine, in_words
from comparison.outcomes import by_set
from comparison.placements import chosen
from comparison.predicted import usable_machine, with_prediction
from comparison.report import track_learning, track_results, write_results
from comparison.results import make_row
from comparison.session import Comparison
from launch.console import log_to_file
from planning.job import job_of
from planning.measuring.rates import matrix_rate
from recording.folder import RunFolder
from recording.tracking import check_tracking
from training.config import Config
from training.precision import PRECISIONS
from training.settings import load_config

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"
MOST_HELD_OUT = 5000
"""Training images on which learning rates are compared; a tenth of them, if there are fewer."""


def main() -> int:
    """Compare speed or learning; returns the exit status."""
    arguments = parse_arguments()
    compare = compare_forms if arguments.train else compare_speeds
    try:
        return compare(arguments)
    except KeyboardInterrupt:
        log.info("interrupted; measurements are kept, and --resume continues with them")
        raise


def compare_speeds(arguments: argparse.Namespace) -> int:
    """Time every placement; returns the exit status."""
    source = arguments.config or CONFIGS / "compare.yaml"
    config = load_config(source, arguments.overrides)
    check_tracking(config.tracking.mode)
    devices = torch.cuda.device_count() or 1
    comparison = Comparison(
        config,
        source,
        arguments.overrides,
        chosen(arguments.placements, config.towers, torch.cuda.device_count()),
        arguments.batches,
        arguments.rounds,
        arguments.steps,
        arguments.warmup,
    )
    configs = comparison.configs()
    ranks = max(placement.ranks for placement in comparison.placements)
    known = usable_machine(arguments.machine, config, ranks)
    if arguments.json:
        check_writable(arguments.json)
    folder = open_folder(config.runs, config.name, resume=arguments.resume)
    measurements = comparison.measure(folder)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matrix_rate(PRECISIONS[config.precision].dtype, device) / 1e9
    images = config.data.open("train")
    rows = []
    for batch, placement in itertools.product(comparison.batches, comparison.placements):
        own = configs[placement.name]
        job = job_of(own, batch, images.channels, len(images.classes))
        row = make_row(
            placement, measurements, job=job, config=own, peak_gflops=peak, devices=devices
        )
        plan = own.plan(placement.ranks)
        rows.append(with_prediction(row, job, plan, known) if known else row)
    machine = describe_machine()
    charts = write_results(folder, machine, peak, rows)
    if arguments.json:
        with writing(arguments.json):
            shutil.copy(folder / "results.json", arguments.json)
    place = track_results(folder, config.tracking, machine, rows, charts)
    log.info("\nresults in %s, W&B: %s", folder, place)
    return 0 if any("images_per_second" in row for row in rows) else 1


def compare_forms(arguments: argparse.Namespace) -> int:
    """Train every form of the net on the same budget; returns the exit status."""
    source = arguments.config or CONFIGS / "fashion.yaml"
    config = load_config(source, arguments.overrides)
    check_tracking(config.tracking.mode)
    study = study_of(arguments, config, source)
    folder = open_folder(config.runs, f"learn-{config.name}", resume=arguments.resume)
    learning = Learning(study, folder)
    sets = by_set(learning.run(), arguments.forms)
    trials = by_set(learning.trials, arguments.forms)
    title = f"{config.data.name} at {config.data.size} px on {in_words(describe_machine())}"
    charts = write_learning(folder, title, sets, trials)
    place = track_learning(folder, config.tracking, sets, charts)
    log.info("\nresults in %s, W&B: %s", folder, place)
    return 0


def study_of(arguments: argparse.Namespace, config: Config, source: Path) -> Study:
    """The study that --train asks for."""
    known = len(config.data.open("train"))
    return Study(
        forms_of(arguments.forms),
        config,
        source,
        arguments.overrides,
        torch.cuda.device_count() or 2,
        seeds=arguments.seeds,
        known=known,
        images=arguments.images,
        trial_images=arguments.trial_images,
        held_out=min(MOST_HELD_OUT, max(1, known // 10)),
        evaluations=arguments.evaluations,
    )


def open_folder(runs: Path, name: str, *, resume: bool) -> Path:
    """Create a folder for the comparison, or open the newest one; also logs to it."""
    folder = RunFolder.newest(runs, name) if resume else RunFolder.create(runs, name)
    folder.claim()
    log_to_file(folder.log)
    return folder.path


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description=__doc__, epilog="Overrides are train.py's: see python train.py --help."
    )
    add = parser.add_argument
    add(
        "--config",
        type=home_path,
        metavar="FILE",
        help="default: configs/compare.yaml or fashion.yaml",
    )
    add("--resume", action="store_true", help="continue the newest comparison")
    add("--train", action="store_true", help="compare learning instead of speed")
    add("overrides", nargs="*", metavar="key.sub=value", help="change a setting")
    speed = _add_speed(parser.add_argument_group("comparing speed").add_argument)
    group = parser.add_argument_group("comparing learning, with --train")
    learning = _add_learning(group.add_argument)
    arguments = parser.parse_intermixed_args()
    for each in speed if arguments.train else learning:
        if getattr(arguments, each.dest) != each.default:
            word = "compares learning" if arguments.train else "is not given"
            parser.error(f"{each.option_strings[0]} changes nothing here, since --train {word}")
    return arguments


def _add_speed(add: Callable[..., argparse.Action]) -> list[argparse.Action]:
    return [
        add(
            "--placements",
            type=listed(str),
            default=[],
            metavar="A,B",
            help="default: those for the devices",
        ),
        add(
            "--batches",
            type=listed(whole()),
            default=[32, 128],
            metavar="N,N",
            help="default: 32,128",
        ),
        add("--rounds", type=whole(), default=3, metavar="N", help="default: %(default)s"),
        add("--steps", type=whole(), default=6, metavar="N", help="timed, default: %(default)s"),
        add(
            "--warmup",
            type=whole(0),
            default=3,
            metavar="N",
            help="steps before, default: %(default)s",
        ),
        add("--json", type=home_path, metavar="FILE", help="copy results.json to FILE"),
        add(
            "--machine",
            type=home_path,
            metavar="FILE",
            help="predict with this file of check.py, default: runs/machine.json if it is there",
        ),
    ]


def _add_learning(add: Callable[..., argparse.Action]) -> list[argparse.Action]:
    return [
        add(
            "--forms",
            type=listed(set_of_forms),
            default=["towers"],
            metavar="A,B",
            help=f"sets of forms, of {', '.join(FORMS)}; default: towers; --resume can name others",
        ),
        add(
            "--evaluations",
            type=whole(),
            default=8,
            metavar="N",
            help="evaluations in each training, default: %(default)s",
        ),
        add(
            "--seeds",
            type=whole(),
            default=1,
            metavar="N",
            help="trainings of each form, default: %(default)s; --resume can add more",
        ),
        add(
            "--images",
            type=whole(),
            metavar="N",
            help="length of each training, default: the config's epochs",
        ),
        add(
            "--trial-images",
            type=whole(0),
            metavar="N",
            help="length of each trial of a learning rate; 0: none, default: that of a training",
        ),
    ]


def set_of_forms(text: str) -> str:
    """The name of a set; raises ArgumentTypeError for one that is not there."""
    if text not in FORMS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FORMS)}")
    return text


if __name__ == "__main__":
    run_program(main, most_ranks=1)
