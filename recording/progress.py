"""Shows the progress of a run: a live line on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

PLAIN_EVERY = 15.0
"""Seconds between plain lines."""


class Progress:
    """Shows the training steps from ``done`` to ``total``, and the evaluations."""

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self.first: int | None = None
        self.started = self.spoke = 0.0
        self.live = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, unit="step", dynamic_ncols=True, disable=not self.live
        )

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Show one training step or evaluation."""
        if "test/top1" in metrics:
            log.info(
                "epoch %.2f  test loss %.4f  top-1 %.4f  top-5 %.4f",
                *(metrics[key] for key in ("epoch", "test/loss", "test/top1", "test/top5")),
            )
            return
        if "train/loss" not in metrics:
            return
        said = (
            f"epoch {metrics['epoch']:.2f}  loss {metrics['train/loss']:.4f}  "
            f"{metrics['step/images_per_second']:.1f} images/s"
        )
        now = time.monotonic()
        if self.live:
            self.bar.set_postfix_str(said, refresh=False)
            self.bar.update()
        elif self.first is None:  # too slow to estimate the time of the others
            self.first, self.started, self.spoke = step, now, now
            log.info("step %d/%d  %s", step, self.total, said)
        elif now - self.spoke >= PLAIN_EVERY:
            self.spoke = now
            left = (now - self.started) / (step - self.first) * (self.total - step)
            log.info("step %d/%d  %s  %s left", step, self.total, said, tqdm.format_interval(left))

    def close(self) -> None:
        """End the live line and leave it on the terminal."""
        self.bar.close()
