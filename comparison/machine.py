"""A description of this machine, and its peak rate of matrix products."""

import os
import platform
import time
from typing import Any

import torch

from distributed.device import allow_tf32, cpu_name

SIDE = {"cpu": 2048, "cuda": 8192}
SECONDS = 1.5


def describe_machine() -> dict[str, Any]:
    """The facts about the machine that go with every result."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def in_words(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    gpus = f", {len(machine['gpus'])} × {machine['gpus'][0]}" if machine["gpus"] else ", no GPU"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpus}, "
        f"torch {machine['torch']}"
    )


def measure_peak(dtype: torch.dtype) -> float:
    """The fastest of many matrix products in GFLOP/s, on all CPU cores or on one GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        allow_tf32()
    side = SIDE[device]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9
