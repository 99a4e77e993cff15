"""The index of a folder of packed images, ``index.json``.

Beside the index lie, for each split, shards ``SPLIT-00000.npy`` of images (N, size, size, 3) uint8
and the labels of all shards ``SPLIT-labels.npy`` (N,) int64, and for both the mean training image
``mean-image.npy`` (size, size, 3) float32. All are plain NumPy files in one folder.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import ReportedError
from common.files import open_plain
from data import Split

FORMAT: Literal[1] = 1
INDEX = "index.json"
MOST_BYTES = 2**28
"""Limit for an index; one that names every image of ImageNet as skipped is smaller."""
UNFINISHED = ".unfinished"
"""A folder inside the target that exists until everything is packed."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.npy$")]
"""Name of a file; it has no separator, so it cannot lead out of the folder."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 sum in hexadecimal."""
Count = Annotated[int, Field(ge=0)]
Channels = tuple[float, float, float]
"""Numbers for red, green and blue."""


class Part(BaseModel):
    """A part of a JSON file; unknown keys and values of other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StoredFile(Part):
    """A file of the folder."""

    file: FileName
    sha256: Digest


class Shard(StoredFile):
    """A file of neighbouring images of a split."""

    images: Annotated[int, Field(gt=0)]


class Skipped(Part):
    """A file that could not be decoded, named by its path in the source."""

    file: str
    reason: str


class SplitIndex(Part):
    """One split: its shards in order, and counts of unusual files.

    ``grey`` and ``cmyk`` images were converted to RGB, ``skipped`` files could not be decoded.
    """

    images: Annotated[int, Field(gt=0)]
    labels: StoredFile
    shards: list[Shard]
    grey: Count
    cmyk: Count
    skipped: list[Skipped]

    @model_validator(mode="after")
    def _adds_up(self) -> "SplitIndex":
        if self.images != (held := sum(shard.images for shard in self.shards)):
            raise ValueError(f"the shards hold {held} images, not {self.images}")
        return self


class Splits(Part):
    """Both splits."""

    train: SplitIndex
    test: SplitIndex

    def __getitem__(self, split: Split) -> SplitIndex:
        return self.train if split == "train" else self.test


class Statistics(Part):
    """Statistics of the training pixels, from 0 to 255.

    ``mean`` and ``covariance`` of the channels are taken over all images and places, with the
    number of pixels as divisor; ``mean_image`` holds the mean at each place.
    """

    mean: Channels
    covariance: tuple[Channels, Channels, Channels]
    mean_image: StoredFile


class Plan(Part):
    """The settings that determine every byte of a folder.

    ``source`` is the digest of the list of source files.
    """

    format: Literal[1] = FORMAT
    size: Annotated[int, Field(gt=0)]
    shard_images: Annotated[int, Field(gt=0)]
    source: Digest


class PackedIndex(Part):
    """The content of ``index.json``."""

    plan: Plan
    classes: Annotated[list[str], Field(min_length=1)]
    splits: Splits
    statistics: Statistics

    @model_validator(mode="after")
    def _distinct(self) -> "PackedIndex":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        return self

    @property
    def files(self) -> list[StoredFile]:
        """All files of the folder except the index."""
        splits = self.splits.train, self.splits.test
        stored = [each for split in splits for each in (*split.shards, split.labels)]
        return [*stored, self.statistics.mean_image]


def read_index(folder: Path) -> PackedIndex:
    """Read the index of ``folder``; raises ReportedError when it is missing or not valid."""
    path = folder / INDEX
    try:
        with open_plain(path, MOST_BYTES) as file:
            return PackedIndex.model_validate_json(file.read())
    except OSError as error:
        if (folder / UNFINISHED).is_dir():
            raise ReportedError(
                f"{folder} is not finished: run prepare.py again with the same arguments, which "
                "continues from the finished shards"
            ) from None
        raise ReportedError(
            f"{path} cannot be read ({error.strerror}): name a folder that prepare.py made"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ReportedError(
            f"{path} is not a valid index ({place}: {first['msg']}): prepare the folder again with "
            "prepare.py"
        ) from None
