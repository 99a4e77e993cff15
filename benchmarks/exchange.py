"""Meetings beside gather-then-compute: what of the exchange is not hidden, per step.

Two ranks train the split net. The peer first gathers the other tower's channels, then gives all of
them to the layer; in backward it sends when everything is computed. Ours lets them travel while a
layer works on its own half.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.contest import Contestant, Row, contest, parser, report
from benchmarks.step import ours
from distributed.split import SplitTowers
from distributed.timer import StepTimer

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, timer: StepTimer) -> Tensor:
        ctx.group, ctx.timer = group, timer
        with timer.part("exchange"):
            own = x.movedim(1, -1).contiguous()
            parts = own.new_empty(group.size(), *own.shape)
            _all_gather(parts.flatten(0, 1), own, group=group)
            return parts.movedim(0, -2).flatten(-2).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        group, timer = ctx.group, ctx.timer
        with timer.part("exchange"):
            by_rank = grad.movedim(1, -1).unflatten(-1, (group.size(), -1))
            parts = by_rank.movedim(-2, 0).contiguous()
            own = torch.empty_like(parts[0])
            _reduce_scatter(own, parts.flatten(0, 1), group=group)
            return own.movedim(-1, 1), None, None


def gather_first(batch: int) -> Callable[[], dict[str, float]]:
    """Our step, but for the meetings."""

    def meet(self: SplitTowers, layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        out: Tensor = layer(_Gather.apply(x, self.group, self.timer))
        return out

    SplitTowers.meet = meet  # type: ignore[method-assign]
    return ours("paper", 2, batch)


def main() -> None:
    """At a small and a large batch."""
    add = parser(__doc__)
    arguments = add.parse_args()
    rows: list[Row] = []
    for batch in (32, 128):
        timings = contest(
            [
                Contestant("gather first", gather_first, (batch,), ranks=2),
                Contestant("meet while computing", ours, ("paper", 2, batch), ranks=2),
            ],
            arguments.rounds,
        )
        for name, timing in timings.items():
            rows.append(
                {
                    "batch": batch,
                    "": name,
                    "step, ms": 1e3 * timing.seconds,
                    "exchange not hidden, ms": 1e3
                    * median(result["time/exchange"] for result in timing.results),
                    "× gather first": timing.times_faster_than(timings["gather first"]),
                }
            )
    report("exchange", {"paper, split over two ranks, 224 px, bf16": rows}, arguments.json)


if __name__ == "__main__":
    main()
