"""Small runs for the fault suite, disturbed or not, and what they come to."""

import json
from pathlib import Path

from recording.metrics import read_metrics
from tests.programs import ranks, run, start

STEPS = 8
SETTINGS = (
    *("data.name=synthetic", "data.size=64", "data.stored_size=72", "data.resize=72"),
    *("data.synthetic_length=40", "data.mean=100.0", "data.std=20.0", "data.mirror=true"),
    *("batch_size=8", "epochs=2", f"max_steps={STEPS}", "checkpoint_every=2", "variant=d2l"),
    "net.hidden=64",
    *("precision=fp32", "schedule.name=one_cycle", "tracking.mode=disabled", "name=run"),
    *("optimizer.learning_rate=0.006", "data.test_views=1", "keep_best=false"),
)
"""Five steps an epoch: the second begins with the sixth."""
INJECTED = Path("tests") / "faults" / "injected.py"


def train(world, runs, *arguments, **environment):
    """(exit status, standard output, standard error) of an undisturbed ``train.py``."""
    return run(*ranks(world), "train.py", *SETTINGS, f"runs={runs}", *arguments, **environment)


def train_with(fault, world, runs, *arguments, timeout=150, **environment):
    """The same with a fault, ``KIND:RANK:STEP``."""
    return run(*_with(world, runs, arguments), FAULT=fault, timeout=timeout, **environment)


def start_with(fault, world, runs, *arguments, **environment):
    """Its process."""
    return start(*_with(world, runs, arguments), FAULT=fault, **environment)


def _with(world, runs, arguments):
    return [*ranks(world), INJECTED, *SETTINGS, f"runs={runs}", *arguments]


def losses(folder):
    """(step, loss) of each step, in full precision."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def last_digests(folder):
    """The SHA-256 sums of the last step's weights and momentum."""
    manifest = folder / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json"
    digests = json.loads(manifest.read_text())
    return [digests[f"{part}.safetensors"] for part in ("model", "optimizer")]


def steps_saved(folder):
    """Of the run's checkpoints."""
    return [int(path.name.split("-")[1]) for path in sorted((folder / "checkpoints").iterdir())]
