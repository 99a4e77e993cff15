"""How far a run is: a live line on a terminal, a plain line now and then elsewhere."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

PLAIN_EVERY = 15.0
"""Seconds between plain lines."""


class Progress:
    """Shows training steps ``done`` to ``total``."""

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
        said = (
            f"epoch {metrics['epoch']:.2f}  loss {metrics['train/loss']:.4f}  "
            f"{metrics['step/images_per_second']:.1f} images/s"
        )
        now = time.monotonic()
        if self.live:
            self.bar.set_postfix_str(said, refresh=False)
            self.bar.update()
        elif self.first is None:  # it is slower than the others, and tells nothing of their time
            self.first, self.started, self.spoke = step, now, now
            log.info("step %d/%d  %s", step, self.total, said)
        elif now - self.spoke >= PLAIN_EVERY:
            self.spoke = now
            left = (now - self.started) / (step - self.first) * (self.total - step)
            log.info("step %d/%d  %s  %s left", step, self.total, said, tqdm.format_interval(left))

    def close(self) -> None:
        """Leave the line as it is."""
        self.bar.close()
