"""What a run has come to so far."""

from dataclasses import dataclass, field
from typing import Any

from distributed.timer import PARTS


@dataclass
class Totals:
    """What training has come to so far, without evaluations and checkpoints."""

    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    test: dict[str, float] = field(default_factory=dict)
    test_step: int = 0
    best_top1: float = -1.0
    best_step: int = 0
    run_id: str | None = None

    def add(self, images: int, seconds: float, metrics: dict[str, float]) -> None:
        """Count one optimiser step."""
        self.images += images
        self.steps += 1
        self.seconds += seconds
        self.bytes_sent += int(metrics["train/bytes_sent"])
        for part in PARTS:
            self.parts[part] += metrics[f"time/{part}"]

    def tested(self, step: int, metrics: dict[str, float]) -> None:
        """Note the evaluation after ``step``."""
        self.test, self.test_step = metrics, step
        if metrics["test/top1"] > self.best_top1:
            self.best_top1, self.best_step = metrics["test/top1"], step

    def summary(self) -> dict[str, Any]:
        """The outcome as flat keys; parts (in seconds) and bytes are those of a mean step."""
        steps = max(self.steps, 1)
        best = {"best_top1": self.best_top1, "best_step": self.best_step} if self.best_step else {}
        return {
            **{key.replace("/", "_"): value for key, value in self.test.items()},
            "test_step": self.test_step,
            **best,
            "images_per_second": self.images / self.seconds if self.seconds else 0.0,
            "train_seconds": self.seconds,
            "images_seen": self.images,
            "bytes_exchanged_per_step": self.bytes_sent // steps,
            **{f"seconds_{part}": seconds / steps for part, seconds in self.parts.items()},
        }
