"""Image files to augmented batches, on one thread or with two workers, beside torchvision.

torchvision's reference training uses ImageFolder, RandomResizedCrop or RandomCrop, flip, ToTensor
and Normalize in a DataLoader. Ours packs the same files once with ``prepare.py``, then reads
pixels, crops 224 of 256, mirrors and standardizes a batch at once; or it decodes the files each
time, as torchvision does. Workers are processes there and threads here. The JPEG files are
synthetic, 500 by 375 pixels and about as long as ImageNet's. All files are in the page cache and
exceed the processor's cache, as does a cropped batch of 128 (38 MB); one of 32 may fit.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from launch.program import run_program

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from tqdm import trange

from benchmarks.contest import Contestant, contest, parser, report
from benchmarks.data import stream
from data.datasets import open_dataset
from data.loading import Loader, epoch_order
from data.packed.source import list_source
from data.packed.writer import prepare
from data.preprocess import Preprocess
from distributed.device import keep_freed_memory
from launch.threads import share_of_cores
from model.keyed_random import image_keys

Make = Callable[..., Callable[[], Tensor]]

BATCH, SMALL, WORKERS = 128, 32, 2
PICTURES, IMAGES = 256, 4096
"""The number of files, and of names (hard links) for them: 805 MB packed."""
STORED, SIZE = 256, 224
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

CROPS: dict[str, list[Callable[[Image.Image], Image.Image]]] = {
    "RandomResizedCrop": [transforms.RandomResizedCrop(SIZE)],
    "Resize, RandomCrop": [transforms.Resize(STORED), transforms.RandomCrop(SIZE)],
}


def make_files(folder: Path) -> Path:
    """Write noisy smooth images to ``folder``/images; each file has several names."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "images" / split / "any").mkdir(parents=True)
    for number in trange(PICTURES, desc="making files", disable=None):
        coarse = generator.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noise = generator.integers(-12, 13, (375, 500, 3))
        pixels = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
        path = folder / "images" / "train" / "any" / f"{number}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        for name in range(number + PICTURES, IMAGES, PICTURES):
            os.link(path, path.with_name(f"{name}.jpg"))
    os.link(path, folder / "images" / "val" / "any" / "0.jpg")
    return folder


def torchvisions(
    folder: Path, crop: str, workers: int, batch: int, batches: int
) -> Callable[[], Tensor]:
    """The reference's loader."""
    torch.set_num_threads(1)
    normalize = transforms.Normalize(*([v / 255 for v in each] for each in (MEAN, STD)))
    flip = transforms.RandomHorizontalFlip()
    transform = transforms.Compose([*CROPS[crop], flip, transforms.ToTensor(), normalize])
    images = ImageFolder(str(folder / "images" / "train"), transform)
    loader = DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=workers)
    return stream(lambda number: (read for read, _ in loader), batches)


def ours(
    folder: Path, name: str, crop: bool, workers: int, batch: int, batches: int
) -> Callable[[], Tensor]:
    """Read the data set ``name`` as the trainer does; without ``crop`` only read the images."""
    torch.set_num_threads(1)
    keep_freed_memory()
    images = open_dataset(name, "train", folder / ("packed" if name == "packed" else "images"))
    preprocess = Preprocess(SIZE, STORED, MEAN, STD, mirror=True, dtype=torch.bfloat16)

    def epoch(number: int) -> Iterator[Tensor]:
        order = epoch_order(0, number, len(images), images.block).split(batch)
        for read in Loader(images, order, workers):
            keys = image_keys(0, number, read.indices)
            yield preprocess(read.images, keys) if crop else read.images

    return stream(epoch, batches)


def contestants(folder: Path) -> dict[str, tuple[Contestant, int]]:
    """By name, with the images that a call reads."""
    *_, crop = CROPS
    decoding, two = ("image_folder", True), f"{WORKERS} workers"
    rows: list[tuple[str, Make, tuple[str | int, ...], int, int]] = [
        *((f"torchvision, {crop}", torchvisions, (crop, 0), BATCH, BATCH) for crop in CROPS),
        ("ours, image_folder", ours, (*decoding, 0), BATCH, BATCH),
        (f"torchvision, {crop}, {two}", torchvisions, (crop, WORKERS), BATCH, IMAGES),
        (f"ours, image_folder, {two}", ours, (*decoding, WORKERS), BATCH, IMAGES),
        ("ours, packed", ours, ("packed", True, 0), BATCH, IMAGES),
        (f"ours, packed, batches of {SMALL}", ours, ("packed", True, 0), SMALL, IMAGES),
        ("ours, packed, reading alone", ours, ("packed", False, 0), BATCH, IMAGES),
    ]
    return {
        name: (Contestant(name, make, (folder, *arguments, batch, images // batch)), images)
        for name, make, arguments, batch, images in rows
    }


def main() -> int:
    """Everyone on the same files."""
    arguments = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_files(Path(scratch))
        (folder / "packed").mkdir()
        source = list_source(folder / "images")
        prepare(
            source, folder / "packed", size=STORED, shard_images=1024, workers=share_of_cores(1)
        )
        entries = contestants(folder)
        timings = contest([each for each, _ in entries.values()], arguments.rounds)
    speeds = {
        name: [images / seconds for seconds in timings[name].rounds]
        for name, (_, images) in entries.items()
    }
    first = next(iter(speeds.values()))
    rows = [
        {
            "loader": name,
            "images/s": float(np.median(speed)),
            "× the first": float(np.median(np.divide(speed, first))),
        }
        for name, speed in speeds.items()
    ]
    report("packed", {"500 × 375 JPEG to batches of 128 at 224": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
