"""Small runs of train.py, as a user starts them, and what they leave."""

import json

from recording.metrics import read_metrics
from tests.programs import ranks, run

STEPS = 8
SETTINGS = (
    *("data.name=synthetic", "data.size=64", "data.stored_size=72", "data.resize=72"),
    *("data.synthetic_length=40", "data.mean=100.0", "data.std=20.0", "data.mirror=true"),
    *("data.test_views=1", "variant=d2l", "net.hidden=64", "init=xavier", "precision=fp32"),
    *("batch_size=8", "epochs=2", f"max_steps={STEPS}", "optimizer.learning_rate=0.006"),
    *("schedule.name=one_cycle", "checkpoint_every=2", "keep_best=false"),
    *("tracking.mode=disabled", "name=run"),
)
"""Five steps an epoch: the second begins with the sixth."""


def train(world, runs, *arguments, **environment):
    """(exit status, standard output, standard error) of ``train.py`` on ``world`` ranks."""
    return run(*ranks(world), "train.py", *SETTINGS, f"runs={runs}", *arguments, **environment)


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
    """The steps of the run's checkpoints."""
    return [int(path.name.split("-")[1]) for path in sorted((folder / "checkpoints").iterdir())]


def summary_of(folder):
    """The run's summary.json."""
    return json.loads((folder / "summary.json").read_text())
