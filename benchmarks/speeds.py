"""Reads tables of speeds, in images/s, of systems of one device and more."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import ReportedError, printable
from common.files import open_plain
from training.fields import OneOf

LARGEST_FILE = 2**24
PARAMETERS = 61.84e6
BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
"""A gradient's bytes for each parameter. tf_cnn_benchmarks sums fp16 gradients as fp16."""
BATCH = 128
"""Images of a device where the table has 0, not given: the batch of the papers of 2012 and 2014."""
MOST = 10**9


class Key(NamedTuple):
    """A system, a precision and a batch, which are fitted by themselves."""

    system: str
    precision: str
    batch: int

    @property
    def payload(self) -> float:
        """The gradients' bytes."""
        return PARAMETERS * BYTES[self.precision]

    def step(self, devices: int, speed: float) -> float:
        """Seconds of a step at that many images/s."""
        return devices * (self.batch or BATCH) / speed


Speeds = dict[Key, dict[int, float]]
"""Images/s by number of devices."""


class Line(BaseModel):
    """A line of a table; other columns are passed over."""

    model_config = ConfigDict(str_strip_whitespace=True)

    source: str
    system: str
    precision: Annotated[str, OneOf(BYTES)]
    batch_per_device: Annotated[int, Field(ge=0, le=MOST)]
    devices: Annotated[int, Field(ge=1, le=MOST)]
    images_per_second: Annotated[float, Field(ge=1e-6, le=MOST)]

    @property
    def key(self) -> Key:
        """The system, precision and batch of the line's speed."""
        return Key(printable(self.system), self.precision, self.batch_per_device)


COLUMNS = list(Line.model_fields)


def read_speeds(path: Path) -> Speeds:
    """Read a table; lines of the same devices give their median. Raises ReportedError."""
    try:
        with open_plain(path, LARGEST_FILE) as handle:
            text = handle.read().decode("utf-8-sig")
        lines = list(_lines(path, io.StringIO(text, newline="")))
    except OSError as error:
        raise ReportedError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReportedError(f"{path} is no CSV file in UTF-8: {error}") from None
    if not lines:
        raise ReportedError(f"{path} has no rows: use {','.join(COLUMNS)}")
    found: dict[Key, dict[int, list[float]]] = {}
    for line in lines:
        found.setdefault(line.key, {}).setdefault(line.devices, []).append(line.images_per_second)
    return {
        key: {devices: median(speeds) for devices, speeds in sorted(row.items())}
        for key, row in found.items()
    }


def _lines(path: Path, text: Iterable[str]) -> Iterator[Line]:
    rows = csv.DictReader(text, strict=True)
    names = [name.strip() for name in rows.fieldnames or []]
    if missing := [name for name in COLUMNS if name not in names]:
        raise ReportedError(f"{path} lacks the column {missing[0]}: use {','.join(COLUMNS)}")
    rows.fieldnames = names
    for row in rows:
        place = f"{path}, line {rows.line_num}"
        if None in row or None in row.values():
            raise ReportedError(f"{place} has more or fewer values than the header")
        try:
            yield Line.model_validate(row)
        except ValidationError as error:
            fault = error.errors()[0]
            name = str(fault["loc"][0])
            raise ReportedError(f"{place}: {name} is {row[name]!r}: {fault['msg']}") from None
