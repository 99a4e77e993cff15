"""Detects a loss that does not fall: AlexNet's best-known way to fail."""

import logging
import math
from typing import Any

log = logging.getLogger(__name__)

WINDOW = 100
"""The mean loss of this many steps is checked once, after as many steps of warm-up."""
CLOSE = 0.01


class StuckLoss:
    """Warns if the loss after 2 × ``WINDOW`` steps is still that of guessing among ``classes``."""

    def __init__(self, classes: int) -> None:
        self.guessing = math.log(classes)
        self.losses: list[float] = []

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Take the loss of one training step."""
        if "train/loss" not in metrics or len(self.losses) == 2 * WINDOW:
            return
        self.losses.append(metrics["train/loss"])
        mean = sum(self.losses[-WINDOW:]) / WINDOW
        if len(self.losses) == 2 * WINDOW and abs(mean - self.guessing) < CLOSE * self.guessing:
            log.warning(
                "the loss is stuck at %.3f, that of guessing: the paper's initial weights need "
                "pixels from 0 to 255 (data.std near 1), init=text starts narrower than the "
                "authors' own program did, and a higher optimizer.learning_rate may help",
                self.guessing,
            )
