"""Local response normalisation, forward and backward, on one thread.

Beside ``nn.LocalResponseNorm``, and beside the product of two maps of the same size, which is
about what memory allows. ``plain`` is the form used where there is no C++ compiler. Then the
same with a ReLU before and overlapping max pooling after it, as the net has them: in one pass over
memory, beside one after the other, and beside PyTorch's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.contest import Contestant, Row, contest, parser, report
from distributed.device import keep_freed_memory
from model import normalization
from model.normalization import LocalResponseNorm
from model.pooling import ActivatedPool

BATCH = 64
MAPS = {"after conv1": (96, 55), "after conv2": (256, 27)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


def make(form: str, place: str, dtype: str, layout: str) -> Callable[[], None]:
    """A forward and a backward pass of ``form``."""
    norms: dict[str, Callable[[Tensor], Tensor]] = {
        "nn": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
        "plain": LocalResponseNorm(towers=2),
        "kernel": LocalResponseNorm(towers=2),
    }
    if form == "plain":
        normalization._has_kernel = lambda x, towers: False
    x, grad = _maps(form, MAPS[place], DTYPES[dtype], LAYOUTS[layout], count=2)
    x.requires_grad_(form != "product")

    def both_ways() -> None:
        if form == "product":
            torch.mul(x, grad)
            torch.mul(x, grad)
        else:
            x.grad = None
            norms[form](x).backward(grad)

    return both_ways


def make_pooled(form: str, place: str, dtype: str) -> Callable[[], None]:
    """The same with ReLU and pooling, of channels-last maps."""
    pool = nn.MaxPool2d(3, 2)
    forms = {
        "nn": nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(5, alpha=1e-4, k=2.0), pool),
        "in turn": nn.Sequential(nn.ReLU(), LocalResponseNorm(towers=2), pool),
        "one pass": ActivatedPool(LocalResponseNorm(towers=2)),
    }
    (x,) = _maps(form, MAPS[place], DTYPES[dtype], torch.channels_last, count=1)
    grad = torch.randn_like(pool(x))
    x.requires_grad_()

    def both_ways() -> None:
        x.grad = None
        forms[form](x).backward(grad)

    return both_ways


def _maps(
    form: str, shape: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format, count: int
) -> list[Tensor]:
    torch.set_num_threads(1)
    if form != "nn":
        keep_freed_memory()
    channels, side = shape
    torch.manual_seed(0)
    maps = (torch.randn(BATCH, channels, side, side) for _ in range(count))
    return [each.to(dtype, memory_format=layout) for each in maps]


def compared(place: str, dtype: str, layout: str, rounds: int) -> Row:
    """The normalisation alone."""
    # PyTorch's has no bf16 on the CPU; autocast runs it in fp32.
    peers = {"nn": "fp32", "plain": dtype, "kernel": dtype, "product": dtype}
    contestants = [
        Contestant(form, make, (form, place, precision, layout))
        for form, precision in peers.items()
    ]
    timings = contest(contestants, rounds, seconds=0.5)
    kernel = timings["kernel"]
    return {
        "map": place,
        "precision": dtype,
        "layout": layout,
        **{f"{form}, ms": 1e3 * t.seconds for form, t in timings.items()},
        "kernel × nn": kernel.times_faster_than(timings["nn"]),
        "plain × nn": timings["plain"].times_faster_than(timings["nn"]),
        "kernel / product": timings["product"].times_faster_than(kernel),
    }


def compared_pooled(place: str, dtype: str, rounds: int) -> Row:
    """With ReLU and pooling."""
    peers = {"nn": "fp32", "in turn": dtype, "one pass": dtype}
    contestants = [
        Contestant(form, make_pooled, (form, place, precision)) for form, precision in peers.items()
    ]
    timings = contest(contestants, rounds, seconds=0.5)
    fast = timings["one pass"]
    return {
        "map": place,
        "precision": dtype,
        **{f"{form}, ms": 1e3 * t.seconds for form, t in timings.items()},
        "one pass × nn": fast.times_faster_than(timings["nn"]),
        "one pass × in turn": fast.times_faster_than(timings["in turn"]),
    }


def main() -> None:
    """Every map, precision and layout."""
    arguments = parser(__doc__).parse_args()
    alone = [
        compared(place, dtype, layout, arguments.rounds)
        for place in MAPS
        for dtype in DTYPES
        for layout in LAYOUTS
    ]
    pooled = [compared_pooled(place, dtype, arguments.rounds) for place in MAPS for dtype in DTYPES]
    title = f"{BATCH} maps, forward and backward"
    tables = {title: alone, f"{title}, with ReLU and pooling, channels-last": pooled}
    report("lrn", tables, arguments.json)


if __name__ == "__main__":
    main()
