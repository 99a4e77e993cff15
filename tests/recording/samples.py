"""Metrics as a reporter tells them."""

from dataclasses import asdict

from distributed.timer import PARTS, StepCost


def step_cost(seconds=0.01, sent=1000):
    """Each part of a step took ``seconds``."""
    return StepCost(**{f"seconds_{part}": seconds for part in PARTS}, bytes_sent=sent)


def step_metrics(loss=1.25, sent=1000, seconds=0.01):
    """Of one training step, each part of which took ``seconds``."""
    return {
        "train/loss": loss,
        "train/top1": 0.5,
        "train/learning_rate": 0.01,
        **{f"step/{name}": value for name, value in asdict(step_cost(seconds, sent)).items()},
    }


def evaluation_metrics(top1=0.75):
    """Of one evaluation."""
    return {"test/loss": 0.5, "test/top1": top1, "test/top5": 0.875}
