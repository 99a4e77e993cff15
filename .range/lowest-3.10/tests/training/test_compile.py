"""torch.compile changes nothing but the speed, on every placement."""

import json

import pytest

from recording.metrics import read_metrics
from tests.programs import ranks, run

SETTINGS = (
    *("name=run", "data.name=synthetic", "data.size=64", "data.stored_size=64", "batch_size=4"),
    *("data.mean=100.0", "data.std=20.0", "max_steps=3", "tracking.mode=disabled"),
    *("variant=paper", "precision=fp32", "schedule.name=constant"),
    *("init=released", "optimizer.learning_rate=0.006"),
)


def _losses(folder, world, *arguments):
    status, out, err = run(
        *ranks(world), "train.py", *SETTINGS, f"runs={folder}", *arguments, timeout=500
    )
    assert status == 0, err
    assert "left off" not in out
    assert json.loads((folder / "run" / "summary.json").read_text())["steps"] == 3
    return [
        line["train/loss"]
        for line in read_metrics(folder / "run" / "metrics.jsonl")
        if "train/loss" in line
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "placement"), [(0, "local"), (2, "split"), (2, "local")], ids=str
)
def test_compiled_training_has_the_same_losses(tmp_path, world, placement):
    plain = _losses(tmp_path / "plain", world, f"placement={placement}")
    compiled = _losses(tmp_path / "compiled", world, f"placement={placement}", "compile=true")
    assert compiled == pytest.approx(plain, rel=1e-4)
