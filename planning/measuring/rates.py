"""What a device does at best: matrix products, copies in memory, and calls of almost no work."""

import time
from collections.abc import Callable

import torch

from distributed.device import allow_tf32

SIDE = {"cpu": 2048, "cuda": 8192}
COPIED = {"cpu": 2**27, "cuda": 2**30}
"""Bytes."""
CALLS = 1000
SECONDS = 1.5


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """The fastest of many matrix products in FLOP/s."""
    if device.type == "cuda":
        allow_tf32()
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _fastest(lambda: torch.mm(a, b), device)


def memory_rate(device: torch.device) -> float:
    """Bytes/s read and written in the fastest of many copies."""
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def call_seconds(device: torch.device) -> float:
    """The time of an operation that has almost nothing to do."""
    number = torch.zeros(1, device=device)

    def calls() -> None:
        for _ in range(CALLS):
            number.add_(1)

    return _fastest(calls, device) / CALLS


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
