"""Where a step's time goes, and how much memory a rank has used."""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("data", "forward", "exchange", "backward", "averaging", "optimizer")


class Stopwatch:
    """Seconds of the current step by part; on a GPU each part ends with a synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name] += self.now() - start

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count ``seconds`` measured inside ``source`` as ``target`` instead."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def take(self) -> dict[str, float]:
        """The parts since the last call."""
        taken = {name: self.seconds[name] for name in PARTS}
        self.seconds.clear()
        return taken


def peak_memory(device: torch.device) -> int:
    """Most bytes this process has held: on the GPU if it has one, else resident in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
