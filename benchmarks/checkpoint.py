"""The cost of checkpoints: written during training, beside written while training waits.

The paper's two-tower net on two ranks at the default job's size, with a checkpoint every 20 steps,
which is far more often than in a real run.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from launch.program import run_program

from benchmarks.contest import Contestant, Row, contest, parser, report
from benchmarks.step import make_trainer
from recording.snapshots import CheckpointWriter
from recording.totals import Totals

BATCH, SIZE, EVERY = 256, 96, 20


def steps_and_checkpoint(folder: Path | None, *, wait: bool) -> Callable[[], float]:
    """``EVERY`` steps and a checkpoint; returns the seconds that training stood still for it."""
    trainer, batches = make_trainer("paper", 2, BATCH, SIZE)
    writer = CheckpointWriter(folder, trainer, None) if folder else None

    def run() -> float:
        for _ in range(EVERY):
            trainer.train_step(next(batches)).result()
        began = time.perf_counter()
        if writer:
            writer.save(Totals())
            if wait:
                writer.finish()
        return time.perf_counter() - began

    return run


def without() -> Callable[[], float]:
    """Train without checkpoints."""
    return steps_and_checkpoint(None, wait=False)


def behind(folder: Path) -> Callable[[], float]:
    """Save as the trainer does, in the background."""
    return steps_and_checkpoint(folder / "behind", wait=False)


def waited_for(folder: Path) -> Callable[[], float]:
    """Wait until the checkpoint is on the disk."""
    return steps_and_checkpoint(folder / "waited for", wait=True)


def main() -> int:
    """Compare the three; checkpoints go to a temporary folder."""
    arguments = parser(__doc__).parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        timings = contest(
            [
                Contestant("no checkpoints", without, ranks=2),
                Contestant("while training", behind, (folder,), ranks=2),
                Contestant("waited for", waited_for, (folder,), ranks=2),
            ],
            arguments.rounds,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plain = timings["no checkpoints"]
    rows: list[Row] = [
        {
            "checkpoints": name,
            "step, ms": 1e3 * timing.seconds / EVERY,
            "standstill for one, ms": 1e3 * median(timing.results),
            "costs in steps": EVERY * (1 / timing.times_faster_than(plain) - 1),
        }
        for name, timing in timings.items()
    ]
    report("checkpoint", {f"one every {EVERY} steps": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
