"""The overlapped gather beside the plain one: traffic that work does not hide, per step.

Two ranks train the split net. The plain form gathers the other tower's channels, then gives all of
them to the layer; in backward it sends when every gradient is computed. The overlapped form lets
them travel while a layer works on its own half (``overlap_communication``, the default).
"""

from statistics import median

from benchmarks.contest import Contestant, Row, contest, parser, report
from benchmarks.step import ours


def main() -> None:
    """Compare both at a small and a large batch."""
    arguments = parser(__doc__).parse_args()
    rows: list[Row] = []
    for batch in (32, 128):
        timings = contest(
            [
                Contestant(name, ours, ("paper", 2, batch, overlap), ranks=2)
                for name, overlap in (("plain", False), ("overlapped", True))
            ],
            arguments.rounds,
        )
        for name, timing in timings.items():
            waits = median(
                result.cost.seconds_activation_communication for result in timing.results
            )
            rows.append(
                {
                    "batch": batch,
                    "": name,
                    "step, ms": 1e3 * timing.seconds,
                    "not hidden, ms": 1e3 * waits,
                    "× plain": timing.times_faster_than(timings["plain"]),
                }
            )
    report("overlap", {"paper, split over two ranks, 224 px, bf16": rows}, arguments.json)


if __name__ == "__main__":
    main()
