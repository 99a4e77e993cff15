"""Local response normalisation, forward and backward, on one thread.

Beside ``nn.LocalResponseNorm``, and beside the product of two maps of the same size, which is
about what memory allows. ``plain`` is the form used where there is no C++ compiler.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.contest import Contestant, contest, parser, report
from distributed.device import keep_freed_memory
from model import normalization
from model.normalization import LocalResponseNorm

BATCH = 64
MAPS = {"after conv1": (96, 55), "after conv2": (256, 27)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


def make(form: str, place: str, dtype: str, layout: str) -> Callable[[], None]:
    """A forward and a backward pass of ``form``."""
    torch.set_num_threads(1)
    if form != "nn":
        keep_freed_memory()
    if form == "plain":
        normalization._has_kernel = lambda x, towers: False
    channels, side = MAPS[place]
    torch.manual_seed(0)
    x, grad = (
        torch.randn(BATCH, channels, side, side).to(DTYPES[dtype], memory_format=LAYOUTS[layout])
        for _ in range(2)
    )
    x.requires_grad_(form != "product")
    norms: dict[str, Callable[[Tensor], Tensor]] = {
        "nn": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
        "plain": LocalResponseNorm(towers=2),
        "kernel": LocalResponseNorm(towers=2),
    }

    def both_ways() -> None:
        if form == "product":
            torch.mul(x, grad)
            torch.mul(x, grad)
        else:
            x.grad = None
            norms[form](x).backward(grad)

    return both_ways


def main() -> None:
    """Every map, precision and layout."""
    arguments = parser(__doc__).parse_args()
    rows = []
    for place in MAPS:
        for dtype in DTYPES:
            for layout in LAYOUTS:
                # PyTorch's has no bf16 on the CPU; autocast runs it in fp32.
                peers = {"nn": "fp32", "plain": dtype, "kernel": dtype, "product": dtype}
                timings = contest(
                    [
                        Contestant(form, make, (form, place, precision, layout))
                        for form, precision in peers.items()
                    ],
                    arguments.rounds,
                    seconds=0.5,
                )
                kernel = timings["kernel"]
                rows.append(
                    {
                        "map": place,
                        "precision": dtype,
                        "layout": layout,
                        **{f"{form}, ms": 1e3 * t.seconds for form, t in timings.items()},
                        "kernel × nn": kernel.times_faster_than(timings["nn"]),
                        "plain × nn": timings["plain"].times_faster_than(timings["nn"]),
                        "kernel / product": timings["product"].times_faster_than(kernel),
                    }
                )
    report("lrn", {f"{BATCH} maps, forward and backward": rows}, arguments.json)


if __name__ == "__main__":
    main()
