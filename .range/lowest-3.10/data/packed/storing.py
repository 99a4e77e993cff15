"""Write the files of a packed folder, each complete or absent."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.files import replacing
from data.packed.index import UNFINISHED, Part

CONTINUE = "run the same command again, which continues from the finished shards"
"""Advice to a user whose command ended early."""


@contextmanager
def storing(target: Path, name: str) -> Iterator[BinaryIO]:
    """Open ``target``/``name`` for writing; it appears there when the block has ended well.

    Raises ReportedError when the disk refuses.
    """
    with (
        replacing(target / name, target / UNFINISHED, CONTINUE) as part,
        part.open("wb") as file,
    ):
        yield file


def store_array(target: Path, name: str, array: "np.ndarray[Any, Any]") -> None:
    """Write an array; raises ReportedError when the disk refuses."""
    with storing(target, name) as file:
        np.save(file, array)


def store_json(target: Path, name: str, content: Part) -> None:
    """Write ``content`` as JSON; raises ReportedError when the disk refuses."""
    with storing(target, name) as file:
        file.write(json.dumps(content.model_dump(mode="json"), indent=1).encode() + b"\n")


def remove_partial(target: Path) -> None:
    """Remove the files that killed processes left half written."""
    for part in (target / UNFINISHED).glob(".*.part*"):
        part.unlink()
