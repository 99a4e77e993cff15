"""The folder of packed images: begun, gone on with, and finished by its index."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from common.errors import ReportedError
from common.files import replacing, sha256
from data import Split
from data.packed.index import (
    INDEX,
    UNFINISHED,
    PackedIndex,
    Part,
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

log = logging.getLogger(__name__)

PLAN = "plan.json"
SETTINGS = {"size": "--size", "shard_images": "--shard-images"}


def prepare(
    source: Source, target: Path, *, size: int, shard_images: int, workers: int
) -> PackedIndex:
    """Pack ``source`` into the existing folder ``target``, or go on with that; gives its index.

    Nothing in the result depends on ``workers``, or on how often it was interrupted. Raises
    ReportedError when ``target`` holds anything else, or a disk refuses.
    """
    plan = Plan(size=size, shard_images=shard_images, source=source.digest)
    if (target / INDEX).exists():
        index = read_index(target)
        _check_same(target, index.plan, plan)
        log.info("%s is finished already", target)
    else:
        _begin(target, plan)
        tasks = {split: _tasks(source, target, plan, split) for split in source.splits}
        _check_room(target, source, tasks["train"] + tasks["test"], size)
        records = finish_all(tasks["train"] + tasks["test"], workers)
        trained = len(tasks["train"])
        index = _finish(
            target,
            plan,
            source,
            {"train": records[:trained], "test": records[trained:]},
            tasks,
        )
    shutil.rmtree(target / UNFINISHED, ignore_errors=True)
    return index


def _begin(target: Path, plan: Plan) -> None:
    """Write the plan into a new target, or find the same one there."""
    aside = target / UNFINISHED
    if aside.is_dir() and (aside / PLAN).exists():
        try:
            begun = Plan.model_validate_json((aside / PLAN).read_bytes())
        except (OSError, ValidationError):
            raise ReportedError(
                f"{aside / PLAN} cannot be read: delete {target}, or name another folder"
            ) from None
        _check_same(target, begun, plan)
    elif others := [path.name for path in target.iterdir() if path.name != UNFINISHED]:
        raise ReportedError(
            f"{target} holds other files, such as {others[0]}: name a new or an empty folder"
        )
    try:
        aside.mkdir(exist_ok=True)
        for part in aside.glob(".*.part*"):  # of a run that was killed
            part.unlink()
    except OSError as error:
        raise ReportedError(
            f"cannot write to {target} ({error.strerror}): make it possible"
        ) from None
    _write_json(aside / PLAN, aside, plan)


def _check_same(target: Path, found: Plan, plan: Plan) -> None:
    """Raise ReportedError if the target is another source's or of other settings."""
    for key, option in SETTINGS.items():
        if (was := getattr(found, key)) != (asked := getattr(plan, key)):
            raise ReportedError(
                f"{target} was begun with {option} {was}, and this asks for {asked}: say the same, "
                "delete it, or name another folder"
            )
    if found != plan:
        raise ReportedError(
            f"{target} was begun from other files (names, lengths, classes or labels differ): "
            "restore those, delete it, or name another folder"
        )


def _tasks(source: Source, target: Path, plan: Plan, split: Split) -> list[Task]:
    files = source.splits[split]
    return [
        Task(
            name=f"{split}-{number:05d}",
            source=source.folder,
            files=files[first : first + plan.shard_images],
            target=target,
            size=plan.size,
            with_sums=split == "train",
        )
        for number, first in enumerate(range(0, len(files), plan.shard_images))
    ]


def _check_room(target: Path, source: Source, tasks: Sequence[Task], size: int) -> None:
    """Raise ReportedError if what is missing certainly does not fit on the disk."""
    finished = sum(len(task.files) for task in tasks if task.record.exists())
    needed = (source.images - finished) * size * size * 3
    free = shutil.disk_usage(target).free
    if needed > free:
        raise ReportedError(
            f"{target} needs {needed / 1e9:.1f} GB more, and its disk has {free / 1e9:.1f} GB: "
            "make room, or name a folder on another disk"
        )


# --- The index ------------------------------------------------------------------------------------


def _finish(
    target: Path,
    plan: Plan,
    source: Source,
    records: dict[Split, Sequence[Record]],
    tasks: dict[Split, list[Task]],
) -> PackedIndex:
    """Write what is made of all shards, the index last: it says that the rest is there."""
    train, test = (_split_index(target, source, split, records[split]) for split in _SPLITS)
    index = PackedIndex(
        plan=plan,
        classes=[name.encode(errors="backslashreplace").decode() for name in source.classes],
        splits=Splits(train=train, test=test),
        statistics=_statistics(target, plan.size, records["train"], tasks["train"]),
    )
    _write_json(target / INDEX, target / UNFINISHED, index)
    return index


_SPLITS: tuple[Split, ...] = ("train", "test")


def _split_index(
    target: Path, source: Source, split: Split, records: Sequence[Record]
) -> SplitIndex:
    labels = [label for record in records for label in record.labels]
    if not labels:
        raise ReportedError(f"no file of the {split} images in {source.folder} can be decoded")
    return SplitIndex(
        images=len(labels),
        labels=_write_array(target, f"{split}-labels.npy", np.array(labels, np.int64)),
        shards=[
            Shard(file=f"{split}-{number:05d}.npy", sha256=record.sha256, images=record.images)
            for number, record in enumerate(records)
            if record.sha256
        ],
        grey=sum(record.grey for record in records),
        cmyk=sum(record.cmyk for record in records),
        skipped=[skipped for record in records for skipped in record.skipped],
    )


def _statistics(
    target: Path, size: int, records: Sequence[Record], tasks: Sequence[Task]
) -> Statistics:
    images = sum(record.images for record in records)
    products = [[0] * 3 for _ in range(3)]
    places = np.zeros((size, size, 3), np.int64)
    for record, task in zip(records, tasks, strict=True):
        products = added(products, record.products)
        places += np.load(task.sums, allow_pickle=False)
    sums = places.sum((0, 1)).tolist()
    mean, covariance = mean_and_covariance(sums, products, images * size * size)
    mean_image = _write_array(target, "mean-image.npy", (places / images).astype(np.float32))
    return Statistics(mean=mean, covariance=covariance, mean_image=mean_image)


def _write_array(target: Path, name: str, array: Array) -> StoredFile:
    with replacing(target / name, target / UNFINISHED) as part, part.open("wb") as file:
        np.save(file, array)
    return StoredFile(file=name, sha256=sha256(target / name))


def _write_json(path: Path, aside: Path, content: Part) -> None:
    with replacing(path, aside) as part, part.open("wb") as file:
        file.write(json.dumps(content.model_dump(mode="json"), indent=1).encode() + b"\n")
