"""Metrics as a reporter tells them, and checkpoints that were changed."""

import hashlib
import json

from distributed.timer import PARTS, StepCost


def step_cost(seconds=0.01, sent=1000):
    """Each part of a step took ``seconds``."""
    return StepCost(**{f"seconds_{part}": seconds for part in PARTS}, bytes_sent=sent)


def step_metrics(loss=1.25, sent=1000, seconds=0.01):
    """The metrics of a training step, each part of which took ``seconds``."""
    return {
        "train/loss": loss,
        "train/top1": 0.5,
        "train/learning_rate": 0.01,
        **{f"step/{name}": value for name, value in step_cost(seconds, sent).flat().items()},
    }


def evaluation_metrics(top1=0.75):
    """The metrics of an evaluation."""
    return {"test/loss": 0.5, "test/top1": top1, "test/top5": 0.875}


def correct_manifest(checkpoint):
    """Make the sums of a checkpoint right whose files were changed."""
    files = [path for path in checkpoint.iterdir() if path.name != "manifest.json"]
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (checkpoint / "manifest.json").write_text(json.dumps(sums))
