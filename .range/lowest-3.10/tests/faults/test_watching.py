"""Faults that a run notices in itself."""

import pytest

from recording.metrics import read_metrics
from tests.faults.runs import train_with
from tests.runs import STEPS, losses, steps_saved

pytestmark = pytest.mark.programs


@pytest.mark.parametrize(("world", "rank"), [(0, 0), (2, 1)])
def test_a_loss_that_is_no_number_is_never_trained_on(tmp_path, happened, world, rank):
    status, _, err = train_with(f"nan:{rank}:6", world, tmp_path)
    assert status == 2
    assert "the loss became nan in step 6, and that step was not taken" in err
    assert err.count("\n") == 1, err
    assert len(losses(tmp_path / "run")) == 5
    assert steps_saved(tmp_path / "run") == [2, 4]
    happened(
        f"inputs that are NaN on rank {rank} of {max(world, 1)}",
        "all ranks stopped before the update; the checkpoint before it is kept",
    )


def test_replicas_that_drift_apart_are_noticed(tmp_path, happened):
    settings = ["placement=ddp", "compare_ranks_every=3"]
    status, _, err = train_with("drift:1:5", 2, tmp_path, *settings)
    assert status == 1
    assert "ranks 0 and 1 should hold the same fc6.weight, and do not" in err
    assert "Traceback" not in err
    assert steps_saved(tmp_path / "run") == [2, 4]
    happened("one weight of one replica changed", "noticed at the next check: tensor and ranks")


def test_a_slow_rank_is_named(tmp_path, happened):
    status, out, err = train_with(
        "slow:1:2", 2, tmp_path, "compare_ranks_every=4", f"max_steps={STEPS - 1}"
    )
    assert status == 0, err
    assert "rank 1 is slow: its own work takes" in out
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    slowest = {line["step"]: line for line in lines if "ranks/slowest" in line}
    assert list(slowest) == [4, STEPS - 1], "every 4 steps, and after the last"
    assert all(line["ranks/slowest"] == 1 for line in slowest.values())
    assert slowest[STEPS - 1]["ranks/slowest_seconds"] > 0.95, "a second in each of the last three"
    happened("a rank whose data comes late", "named, with its time and the others'")
