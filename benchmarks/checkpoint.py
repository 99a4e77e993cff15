"""What checkpoints cost a run: written while training goes on, beside written before it goes on.

The paper's two-tower net on two ranks at the default job's size, with a checkpoint after every 20
steps, far more than a run would make.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.contest import Contestant, Row, contest, parser, report
from benchmarks.step import make_trainer
from recording.snapshots import CheckpointWriter
from recording.totals import Totals

BATCH, SIZE, EVERY = 256, 96, 20


def steps_and_checkpoint(folder: Path | None, *, wait: bool) -> Callable[[], float]:
    """Some steps and a checkpoint; gives the seconds that training stood still for it."""
    trainer, batches = make_trainer("paper", 2, BATCH, SIZE)
    writer = CheckpointWriter(folder, trainer, None) if folder else None

    def run() -> float:
        for _ in range(EVERY):
            trainer.train_step(next(batches))
        began = time.perf_counter()
        if writer:
            writer.save(Totals())
            if wait:
                writer.finish()
        return time.perf_counter() - began

    return run


def without() -> Callable[[], float]:
    """No checkpoints."""
    return steps_and_checkpoint(None, wait=False)


def behind(folder: Path) -> Callable[[], float]:
    """As the trainer saves."""
    return steps_and_checkpoint(folder / "behind", wait=False)


def waited_for(folder: Path) -> Callable[[], float]:
    """Training goes on once all is on the disk."""
    return steps_and_checkpoint(folder / "waited for", wait=True)


def main() -> None:
    """Checkpoints lie in the folder for temporary files meanwhile."""
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


if __name__ == "__main__":
    main()
