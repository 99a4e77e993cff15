"""Check that what this repository promises holds on this machine, in minutes.

Says what is there, and proves on these devices that every placement which fits the ranks takes the
steps of one process, that gradients are summed right while a rank is late, and that a run goes on
from a checkpoint bit for bit; on GPUs also that logits equal the CPU's and that the host waits for
no step. Then measures each layer and each link, for plan.py. It needs no data, no network, no
compiler and no W&B.

  ./launch.sh check.py                     on every GPU, or on two CPU processes
  ./launch.sh --nproc 4 check.py           on four; more placements fit
  ./launch.sh --nproc 4 check.py --share-devices
                                           four ranks on fewer GPUs, over gloo
  python check.py                          one process: all but the placements
  ./launch.sh check.py --only speed        measure for plan.py: runs/machine.json
  ./launch.sh check.py --faults            also kills and stops a rank in launches of their own

Exit status 1 if something that is promised does not hold. report.txt and report.json name no host,
no user and no path: attach them to a bug report.
"""

import argparse
import logging
import traceback
from pathlib import Path

from launch.program import ArgumentParser, run_program
from launch.signals import held_signals

from checking.equality import EXACT, STEPS, check_placements
from checking.faults import check_faults
from checking.gpu import check_host_is_free, check_logits
from checking.gradients import check_gradients
from checking.machine import describe
from checking.report import Report
from checking.resume import check_resume
from checking.speed import measure_speed
from checking.steps import Trainings, small_config
from common.errors import ReportedError
from common.files import check_writable, home_path
from distributed.device import exactly
from distributed.mesh import Mesh
from launch.world import launched_world
from planning.machine import MACHINE
from training.settings import load_config

log = logging.getLogger(__name__)

CONFIG = Path(__file__).parent / "configs" / "compare.yaml"


def main() -> int:
    """Check everything; returns the exit status."""
    arguments = parse_arguments()
    config, ranks = load_config(arguments.config, arguments.overrides), launched_world().size
    arguments.folder = arguments.folder or config.runs / "check"
    arguments.machine = arguments.machine or config.runs / MACHINE
    plan = small_config(ranks, "fp32", placement="ddp").plan(ranks)
    mesh = Mesh.start(plan, share_devices=arguments.share_devices or config.share_devices)
    report = Report()
    mesh.from_main(lambda: refuse_early(report, arguments))
    try:
        report.begin("what is there")
        report.describe(describe(mesh))
        if arguments.only != "speed":
            prove(Trainings(mesh), report, arguments.folder, faults=arguments.faults)
        if arguments.only != "proofs":
            report.begin(f"speed, for {arguments.machine}")
            report.describe(measure_speed(config, mesh, arguments.machine))
    except BaseException:
        report.keep(traceback.format_exc())
        with held_signals():  # another rank's end has the launcher end this one
            if mesh.is_main:
                report.write(arguments.folder)
        raise
    mesh.from_main(lambda: report.write(arguments.folder))
    summary = f"{report.summary()}\n" if report.outcomes else ""
    log.info("\n%sreport in %s", summary, arguments.folder)
    if report.failed:
        raise ReportedError(
            f"what is promised does not hold here: {', '.join(report.failed)}; please report it "
            "with the report attached",
            retry=True,
        )
    return 0


def refuse_early(report: Report, arguments: argparse.Namespace) -> None:
    """Raise ReportedError if the disk refuses the results, before the work for them."""
    report.write(arguments.folder)
    if arguments.only != "proofs":
        check_writable(arguments.machine)


def prove(trainings: Trainings, report: Report, folder: Path, *, faults: bool) -> None:
    """Prove all claims; every rank must call it, and its outcomes are equal on each."""
    mesh = trainings.mesh
    precision, tolerance = EXACT[mesh.device.type]
    with exactly(mesh.device):
        report.begin(f"{STEPS} steps equal those of one process ({precision}, to {tolerance})")
        report.take(check_placements(trainings))
        report.begin("a resumed run equals one that never stopped")
        report.take(check_resume(trainings, folder))
        report.begin("summed gradients equal a sum by hand")
        report.take(check_gradients(trainings))
        report.begin("GPUs")
        report.take(check_logits(trainings))
    report.take(check_host_is_free(trainings))
    if faults:
        report.begin("lost ranks are reported")
        report.take(mesh.from_main(lambda: list(check_faults())))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--share-devices",
        action="store_true",
        help="have several ranks use one GPU, where there are fewer GPUs than ranks",
    )
    add("--faults", action="store_true", help="also kill and stop ranks; takes a minute more")
    add(
        "--folder",
        type=home_path,
        metavar="FOLDER",
        help="where the report is written, which all ranks must see (default: runs/check)",
    )
    add("--only", choices=("proofs", "speed"), help="leave out the other part")
    add(
        "--machine",
        type=home_path,
        metavar="FILE",
        help="where the speed is written (default: runs/machine.json)",
    )
    add(
        "--config",
        type=home_path,
        default=CONFIG,
        metavar="FILE",
        help="the net whose layers are timed (default: configs/compare.yaml)",
    )
    add("overrides", nargs="*", metavar="key.sub=value", help="change a setting of that net")
    arguments = parser.parse_intermixed_args()
    if arguments.faults and arguments.only == "speed":
        parser.error("--faults is one of the proofs, which --only speed leaves out")
    return arguments


if __name__ == "__main__":
    run_program(main)
