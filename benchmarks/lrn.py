"""ReLU, local response normalisation and max pooling, forward and backward, on one thread.

``nn`` is PyTorch's three layers. ``plain`` is ours in PyTorch, used on GPUs and where there is no
C++ compiler. ``fused`` is ours in one pass over memory, used on the CPU.
"""

from collections.abc import Callable

from launch.program import run_program

import torch
from torch import Tensor, nn

from benchmarks.contest import Contestant, Row, contest, parser, report
from distributed.device import keep_freed_memory
from model.normalization import LocalResponseNorm
from model.pooling import ActivatedPool

BATCH = 64
MAPS = {"after conv1": (96, 55), "after conv2": (256, 27)}
"""Channels and side."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def make(form: str, place: str, dtype: str) -> Callable[[], None]:
    """A forward and a backward pass of ``form``, on channels-last maps."""
    torch.set_num_threads(1)
    if form != "nn":
        keep_freed_memory()
    ours = ActivatedPool(LocalResponseNorm(towers=2))
    layers = nn.ReLU(), nn.LocalResponseNorm(5, alpha=1e-4, k=2.0), nn.MaxPool2d(3, 2)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "nn": nn.Sequential(*layers),
        "plain": ours.plain,
        "fused": ours,
    }
    channels, side = MAPS[place]
    torch.manual_seed(0)
    x = torch.randn(BATCH, channels, side, side)
    x = x.to(DTYPES[dtype], memory_format=torch.channels_last)
    grad = torch.randn_like(ours(x))
    x.requires_grad_()

    def both_ways() -> None:
        x.grad = None
        forms[form](x).backward(grad)

    return both_ways


def compared(place: str, dtype: str, rounds: int) -> Row:
    """A row of the table: the three forms on one map in one precision."""
    # nn.LocalResponseNorm has no bf16 on the CPU; autocast runs it in fp32.
    precisions = {"nn": "fp32", "plain": dtype, "fused": dtype}
    contestants = [
        Contestant(form, make, (form, place, precision)) for form, precision in precisions.items()
    ]
    timings = contest(contestants, rounds, seconds=0.5)
    return {
        "map": place,
        "precision": dtype,
        **{f"{form}, ms": 1e3 * t.seconds for form, t in timings.items()},
        "plain × nn": timings["plain"].times_faster_than(timings["nn"]),
        "fused × nn": timings["fused"].times_faster_than(timings["nn"]),
        "fused × plain": timings["fused"].times_faster_than(timings["plain"]),
    }


def main() -> int:
    """Time every map in every precision."""
    arguments = parser(__doc__).parse_args()
    rows = [compared(place, dtype, arguments.rounds) for place in MAPS for dtype in DTYPES]
    report("lrn", {f"{BATCH} channels-last maps, forward and backward": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
