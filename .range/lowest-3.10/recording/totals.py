"""The state of a run so far."""

from dataclasses import dataclass, field, fields
from typing import Any

from typing_extensions import Self


@dataclass
class Totals:
    """Sums over the training steps, without evaluations and checkpoints, and the scores so far."""

    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    test: dict[str, float] = field(default_factory=dict)
    test_step: int = 0
    best_top1: float = -1.0
    best_step: int = 0
    run_id: str | None = None

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """The totals of a checkpoint; other keys, which older versions wrote, are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def add(self, images: int, seconds: float) -> None:
        """Count one optimiser step."""
        self.images += images
        self.steps += 1
        self.seconds += seconds

    def tested(self, step: int, metrics: dict[str, float]) -> None:
        """Note the evaluation after ``step``."""
        self.test, self.test_step = metrics, step
        if metrics["test/top1"] > self.best_top1:
            self.best_top1, self.best_step = metrics["test/top1"], step

    def summary(self) -> dict[str, Any]:
        """The totals and scores as flat keys."""
        best = {"best_top1": self.best_top1, "best_step": self.best_step} if self.best_step else {}
        return {
            **{key.replace("/", "_"): value for key, value in self.test.items()},
            "test_step": self.test_step,
            **best,
            "train_seconds": self.seconds,
            "images_seen": self.images,
        }
