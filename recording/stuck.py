"""Notices a loss that does not move: AlexNet's best-known way to fail."""

import logging
import math
from typing import Any

log = logging.getLogger(__name__)

WINDOW = 100
"""Steps of which the mean loss is looked at, once, after as many to warm up."""


class StuckLoss:
    """Warns when the loss is still that of guessing among ``classes`` after some steps."""

    def __init__(self, classes: int) -> None:
        self.guessing = math.log(classes)
        self.losses: list[float] = []

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Look at one training step."""
        if "train/loss" not in metrics or len(self.losses) == 2 * WINDOW:
            return
        self.losses.append(metrics["train/loss"])
        mean = sum(self.losses[-WINDOW:]) / WINDOW
        if len(self.losses) == 2 * WINDOW and abs(mean / self.guessing - 1) < 0.01:
            log.warning(
                "the loss is stuck at that of guessing, %.3f: with the paper's initial values the "
                "pixels must keep their range of 0 to 255 (data.std near 1), and "
                "init=text is narrower than what the authors used; a higher "
                "optimizer.learning_rate may help too",
                self.guessing,
            )
