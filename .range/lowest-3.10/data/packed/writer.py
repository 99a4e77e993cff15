"""Write a folder of packed images, or continue one; its index comes last."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from common.errors import ReportedError
from common.files import sha256
from data import Split
from data.packed.index import (
    INDEX,
    UNFINISHED,
    PackedIndex,
    Plan,
    Shard,
    SplitIndex,
    Splits,
    Statistics,
    StoredFile,
    read_index,
)
from data.packed.pool import finish_all
from data.packed.shards import Record, Task
from data.packed.source import Source
from data.packed.statistics import Array, added, mean_and_covariance
from data.packed.storing import remove_partial, store_array, store_json

log = logging.getLogger(__name__)

PLAN = f"{UNFINISHED}/plan.json"
OPTIONS = {"size": "--size", "shard_images": "--shard-images"}
"""The options of prepare.py for fields of the plan."""


def prepare(
    source: Source, target: Path, *, size: int, shard_images: int, workers: int
) -> PackedIndex:
    """Pack ``source`` into the existing folder ``target``, or continue that; return its index.

    The result does not depend on ``workers`` or on interruptions. Raises ReportedError when
    ``target`` holds anything else, or a disk refuses.
    """
    plan = Plan(size=size, shard_images=shard_images, source=source.digest)
    if (target / INDEX).exists():
        index = read_index(target)
        _check_same(target, index.plan, plan)
        log.info("%s is finished already", target)
    else:
        _begin(target, plan)
        tasks = _tasks(source, target, plan)
        _check_room(target, source, tasks)
        try:
            records = finish_all(tasks, workers)
        finally:
            remove_partial(target)
        index = _make_index(source, target, plan, list(zip(tasks, records, strict=True)))
        store_json(target, INDEX, index)
    shutil.rmtree(target / UNFINISHED, ignore_errors=True)
    return index


def _begin(target: Path, plan: Plan) -> None:
    """Write the plan into a new target, or find the same plan there."""
    if (target / PLAN).exists():
        try:
            begun = Plan.model_validate_json((target / PLAN).read_bytes())
        except (OSError, ValidationError):
            raise ReportedError(
                f"{target / PLAN} cannot be read: delete {target}, or name another folder"
            ) from None
        _check_same(target, begun, plan)
    elif others := [path.name for path in target.iterdir() if path.name != UNFINISHED]:
        raise ReportedError(
            f"{target} holds other files, such as {others[0]}: name a new or an empty folder"
        )
    try:
        (target / UNFINISHED).mkdir(exist_ok=True)
        remove_partial(target)
    except OSError as error:
        raise ReportedError(
            f"cannot write to {target} ({error.strerror}): make it writable"
        ) from None
    store_json(target, PLAN, plan)


def _check_same(target: Path, found: Plan, plan: Plan) -> None:
    """Raise ReportedError when the target was begun from another source or with other options."""
    for key, option in OPTIONS.items():
        if (was := getattr(found, key)) != (asked := getattr(plan, key)):
            raise ReportedError(
                f"{target} was begun with {option} {was}, not {asked}: give {option} {was}, delete "
                "the folder, or name another one"
            )
    if found != plan:
        raise ReportedError(
            f"{target} was begun from other files (names, lengths, classes or labels differ): "
            "restore them, delete the folder, or name another one"
        )


def _tasks(source: Source, target: Path, plan: Plan) -> list[Task]:
    length = plan.shard_images
    return [
        Task(split, number, source.folder, files[first : first + length], target, plan.size)
        for split, files in source.splits.items()
        for number, first in enumerate(range(0, len(files), length))
    ]


def _check_room(target: Path, source: Source, tasks: Sequence[Task]) -> None:
    """Raise ReportedError when the unfinished shards cannot fit on the disk."""
    finished = sum(len(task.files) for task in tasks if (target / task.record).exists())
    needed = (source.images - finished) * tasks[0].size ** 2 * 3
    free = shutil.disk_usage(target).free
    if needed > free:
        raise ReportedError(
            f"{target} needs {needed / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB: "
            "free some space, or name a folder on another disk"
        )


# --- The index ------------------------------------------------------------------------------------

Finished = Sequence[tuple[Task, Record]]


def _make_index(source: Source, target: Path, plan: Plan, finished: Finished) -> PackedIndex:
    """Write labels and the mean image; return the index that names them and the shards."""
    train = [each for each in finished if each[0].split == "train"]
    test = [each for each in finished if each[0].split == "test"]
    return PackedIndex(
        plan=plan,
        classes=[name.encode(errors="backslashreplace").decode() for name in source.classes],
        splits=Splits(
            train=_split_index(source, target, "train", train),
            test=_split_index(source, target, "test", test),
        ),
        statistics=_statistics(target, plan.size, train),
    )


def _split_index(source: Source, target: Path, split: Split, finished: Finished) -> SplitIndex:
    records = [record for _, record in finished]
    labels = [label for record in records for label in record.labels]
    if not labels:
        raise ReportedError(
            f"no file of the {split} images in {source.folder} can be decoded: replace them"
        )
    return SplitIndex(
        images=len(labels),
        labels=_stored(target, f"{split}-labels.npy", np.array(labels, np.int64)),
        shards=[
            Shard(file=task.shard, sha256=record.sha256, images=record.images)
            for task, record in finished
            if record.sha256
        ],
        grey=sum(record.grey for record in records),
        cmyk=sum(record.cmyk for record in records),
        skipped=[skipped for record in records for skipped in record.skipped],
    )


def _statistics(target: Path, size: int, finished: Finished) -> Statistics:
    """Statistics of the training images, from the sums of each shard."""
    images = sum(record.images for _, record in finished)
    products = [[0] * 3 for _ in range(3)]
    places = np.zeros((size, size, 3), np.int64)
    for task, record in finished:
        products = added(products, record.products)
        places += np.load(target / str(task.sums), allow_pickle=False)
    sums = places.sum((0, 1)).tolist()
    mean, covariance = mean_and_covariance(sums, products, images * size * size)
    mean_image = _stored(target, "mean-image.npy", (places / images).astype(np.float32))
    return Statistics(mean=mean, covariance=covariance, mean_image=mean_image)


def _stored(target: Path, name: str, array: Array) -> StoredFile:
    store_array(target, name, array)
    return StoredFile(file=name, sha256=sha256(target / name))
