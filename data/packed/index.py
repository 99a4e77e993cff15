"""What a folder of packed images holds: ``index.json``, and its types.

The folder has no subfolders. Beside the index lie, for each split, shards ``SPLIT-00000.npy`` of
images (N, size, size, 3) uint8 and ``SPLIT-labels.npy`` (all N,) int64, and the mean training image
``mean-image.npy`` (size, size, 3) float32. All are plain NumPy files.
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
"""Of an index; one that names every image of ImageNet as skipped has fewer."""
UNFINISHED = ".unfinished"
"""The folder, inside of a target, that is there until all is packed."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.npy$")]
"""Of a file in the folder itself: without separators, it cannot lead out."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 sum."""
Count = Annotated[int, Field(ge=0)]
Channels = tuple[float, float, float]
"""One number each for red, green and blue."""


class Part(BaseModel):
    """A piece of JSON: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StoredFile(Part):
    """A file of the folder."""

    file: FileName
    sha256: Digest


class Shard(StoredFile):
    """Neighbouring images of a split, in one file."""

    images: Annotated[int, Field(gt=0)]


class Skipped(Part):
    """A file that could not be decoded, by its path in the source."""

    file: str
    reason: str


class SplitIndex(Part):
    """One split: its images in the order of the shards, and what became of unusual files."""

    images: Annotated[int, Field(gt=0)]
    labels: StoredFile
    shards: list[Shard]
    grey: Count
    cmyk: Count
    skipped: list[Skipped]

    @model_validator(mode="after")
    def _adds_up(self) -> "SplitIndex":
        if self.images != (held := sum(shard.images for shard in self.shards)):
            raise ValueError(f"the shards hold {held} images instead of {self.images}")
        return self


class Splits(Part):
    """Both splits."""

    train: SplitIndex
    test: SplitIndex

    def __getitem__(self, split: Split) -> SplitIndex:
        return self.train if split == "train" else self.test


class Statistics(Part):
    """Of the stored training images' pixels, from 0 to 255, over all images and places.

    ``covariance`` is that of the channels red, green and blue, the sum divided by the number of
    pixels. ``mean_image`` is the mean at each place.
    """

    mean: Channels
    covariance: tuple[Channels, Channels, Channels]
    mean_image: StoredFile


class Plan(Part):
    """What decides every byte of a folder; ``source`` is the digest of the listing of files."""

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
            raise ValueError("two classes have one name")
        return self

    @property
    def files(self) -> list[StoredFile]:
        """Every file of the folder but the index itself."""
        splits = self.splits.train, self.splits.test
        stored = [each for split in splits for each in (*split.shards, split.labels)]
        return [*stored, self.statistics.mean_image]


def read_index(folder: Path) -> PackedIndex:
    """The index of ``folder``; raises ReportedError when there is none that can be used."""
    path = folder / INDEX
    try:
        with open_plain(path, MOST_BYTES) as file:
            return PackedIndex.model_validate_json(file.read())
    except OSError as error:
        if (folder / UNFINISHED).is_dir():
            raise ReportedError(
                f"{folder} is not finished: run prepare.py again with the same arguments, it goes "
                "on where it stopped"
            ) from None
        raise ReportedError(
            f"{path} cannot be read ({error.strerror}): name a folder that prepare.py made"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ReportedError(
            f"{path} is no index that this program knows ({place}: {first['msg']}): make the "
            "folder anew with prepare.py"
        ) from None
