"""Overlapped traffic beside plain: what work does not hide of it, per step, on two ranks.

The plain form of a gather brings the other rank's activations, then gives all of them to the layer;
in backward it sends when every gradient is computed. The overlapped form lets them travel while a
layer works on its own part (``overlap_communication``, the default). In the hybrid's schemes (b)
and (c) the next turn's features travel, too, while the classifier works on this one's.
"""

from functools import partial
from statistics import median
from typing import Any

from launch.program import run_program

from benchmarks.contest import Contestant, Row, contest, parser, report
from benchmarks.step import PRECISION, ours
from common.arguments import whole

PLACEMENTS: dict[str, dict[str, Any]] = {
    "split": {"placement": "split"},
    **{
        f"hybrid ({scheme})": {"placement": "hybrid", "classifier_scheme": scheme}
        for scheme in "abc"
    },
}
FORMS = {"plain": False, "overlapped": True}


def compared(placement: str, batch: int, rounds: int) -> list[Row]:
    """The rows of a placement: both forms at one batch."""
    contestants = [
        Contestant(
            form,
            partial(ours, overlap_communication=overlaps, **PLACEMENTS[placement]),
            ("paper", 2, batch),
            ranks=2,
        )
        for form, overlaps in FORMS.items()
    ]
    timings = contest(contestants, rounds)
    return [
        {
            "placement": placement,
            "batch": batch,
            "": form,
            "step, ms": 1e3 * timing.seconds,
            "not hidden, ms": 1e3
            * median(result.cost.seconds_activation_communication for result in timing.results),
            "× plain": timing.times_faster_than(timings["plain"]),
        }
        for form, timing in timings.items()
    ]


def main() -> int:
    """Compare both forms of every placement at a small and a large batch."""
    add = parser(__doc__)
    add.add_argument(
        "--batches", type=whole(), nargs="+", default=[32, 128], metavar="B", help="default: 32 128"
    )
    arguments = add.parse_args()
    rows = [
        row
        for placement in PLACEMENTS
        for batch in arguments.batches
        for row in compared(placement, batch, arguments.rounds)
    ]
    title = f"paper, 2 towers, 224 px, {PRECISION}, two ranks"
    report("overlap", {title: rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
