"""Metrics as a trainer gives them."""

from distributed.timer import PARTS


def step_metrics(loss=1.25, sent=1000, seconds=0.01):
    """Of one training step, each part of which took ``seconds``."""
    return {
        "train/loss": loss,
        "train/top1": 0.5,
        "train/bytes_sent": sent,
        "train/learning_rate": 0.01,
        **{f"time/{part}": seconds for part in PARTS},
    }


def evaluation_metrics(top1=0.75):
    """Of one evaluation."""
    return {"test/loss": 0.5, "test/top1": top1, "test/top5": 0.875}
