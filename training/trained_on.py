"""What a run is trained on: kept in its checkpoints, and compared before it is resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import ReportedError
from common.files import sha256
from data.datasets import Dataset
from training.config import DataConfig

SHOWN = 5
"""Classes that a message names."""
DIFFERENCES = {
    "train_images": "there were {:,} training images and are {:,} now",
    "train_fingerprint": "there are as many training images, and not the same (by their files' "
    "names, lengths or sums)",
    "test_images": "there were {:,} test images and are {:,} now",
    "test_fingerprint": "there are as many test images, and not the same (by their files' names, "
    "lengths or sums)",
    "mean_image": "data.mean_image is another one",
    "total_steps": "the run had {:,} steps and has {:,} now",
}
"""What the values of a description mean, the plainest first."""


def describe_data(data: DataConfig, train_set: Dataset, test_set: Dataset) -> dict[str, Any]:
    """Plain values that are equal for the same images, wherever they lie."""
    return {
        "train_images": len(train_set),
        "train_fingerprint": train_set.fingerprint(),
        "test_images": len(test_set),
        "test_fingerprint": test_set.fingerprint(),
        "mean_image": data.mean_image and sha256(data.mean_image),
    }


def check_same_data(run: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ReportedError if the state ``now`` is of other data than that ``saved`` in ``run``.

    Both hold ``classes`` and ``data``, from ``describe_data`` and with ``total_steps``. What a
    state saved by an older version lacks is not compared.
    """
    if difference := _difference(saved, now):
        raise ReportedError(
            f"cannot resume on other data: {difference}; restore the data, or start a new run from "
            f"these weights with weights={run} and without --resume"
        )


def _difference(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs, in words; None if nothing does."""
    if (names := saved.get("classes") or now["classes"]) != now["classes"]:
        return _other_classes(names, now["classes"])
    before, after = saved.get("data", {}), now["data"]
    for key, words in DIFFERENCES.items():
        if key in before and before[key] != after[key]:
            return words.format(before[key], after[key])
    return None


def _other_classes(before: Sequence[str], now: Sequence[str]) -> str:
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    if not gone and not new:
        return "the classes are in another order"
    changes = [f"{_listed(names)} {how}" for how, names in (("gone", gone), ("new", new)) if names]
    return f"of the classes, {' and '.join(changes)}"


def _listed(names: Sequence[str]) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names[:SHOWN])}{', …' * (len(names) > SHOWN)} {verb}"
