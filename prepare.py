"""Pack a folder of images: decode and resize them once, so that training reads plain pixels.

  python prepare.py imagenet packed              SOURCE/train/CLASS/* and SOURCE/val/CLASS/*
  python prepare.py ILSVRC/Data/CLS-LOC packed --val-labels ILSVRC/LOC_val_solution.csv
  python prepare.py --verify packed              check the files against their sums
  python train.py --config configs/paper.yaml data.name=packed data.folder=packed

SOURCE has train/CLASS/FILES, and the same classes in test/, val/ or validation/. If the validation
images lie in one folder, as ImageNet's 50,000 do, --val-labels names a text file with a line for
each image in SOURCE/val, in one of these forms (with or without the suffix of the image's name):

  ILSVRC2012_val_00000001,n01751748 111 108 441 193      Kaggle's LOC_val_solution.csv
  val_0.JPEG n03444034 0 32 44 62                        Tiny ImageNet's val_annotations.txt
  ILSVRC2012_val_00000001.JPEG n01751748

The devkit's ILSVRC2012_validation_ground_truth.txt has numbers only, and is refused.

Each image is turned as its EXIF data say and resized so that its shorter side has --size pixels,
then the central square is cropped, as data.name=image_folder does. TARGET then holds index.json and
NumPy files: shards of images (N, size, size, 3) uint8, labels, and the mean training image. The
index lists SHA-256 sums, the mean and covariance of the training pixels, and the files that were
skipped because they cannot be decoded. An image takes size × size × 3 bytes, ImageNet 262 GB.

After an interruption the same command continues: finished shards are verified and kept. Training
images are stored in a random order, always the same, so that neighbours are of different classes.
"""

import argparse
import json
import logging
import math
from pathlib import Path

from launch.program import ArgumentParser, run_program

from common.arguments import whole
from common.errors import ReportedError, printable
from common.files import home_path, writing
from data.packed.index import PackedIndex
from data.packed.source import list_source
from data.packed.statistics import MOST_IMAGES
from data.packed.storing import CONTINUE
from data.packed.verify import verify
from data.packed.writer import prepare
from launch.threads import share_of_cores
from recording.folder import RunFolder

log = logging.getLogger(__name__)


def main() -> int:
    """Pack or verify; returns the exit status."""
    arguments = parse_arguments()
    try:
        if arguments.verify:
            files = verify(arguments.verify, arguments.workers)
            log.info("all %d files of %s have the sums in the index", files, arguments.verify)
        else:
            pack_images(arguments)
    except KeyboardInterrupt:
        log.info("interrupted: %s", CONTINUE)
        raise
    return 0


def pack_images(arguments: argparse.Namespace) -> None:
    """Pack SOURCE into TARGET and report the outcome."""
    source = list_source(arguments.source, arguments.val_labels)
    counts = [f"{len(files):,} {split}" for split, files in source.splits.items()]
    log.info("%s images in %d classes", " and ".join(counts), len(source.classes))
    with writing(arguments.target):
        arguments.target.mkdir(parents=True, exist_ok=True)
    RunFolder(arguments.target).claim()
    index = prepare(
        source,
        arguments.target,
        size=arguments.size,
        shard_images=arguments.shard_images,
        workers=arguments.workers,
    )
    report(index, arguments.target)


def report(index: PackedIndex, target: Path) -> None:
    """Print the counts, the skipped files, and the settings for training on them."""
    for split in ("train", "test"):
        packed = index.splits[split]
        log.info(
            "%s: %s images (%d grey and %d CMYK converted to RGB), %d files skipped",
            *(split, f"{packed.images:,}", packed.grey, packed.cmyk, len(packed.skipped)),
        )
        for skipped in packed.skipped:
            log.info("  skipped %s", printable(f"{skipped.file}: {skipped.reason}"))
    covariance = index.statistics.covariance
    std = [math.sqrt(covariance[channel][channel]) for channel in range(3)]
    log.info(
        "train with data.name=packed data.folder=%s data.stored_size=%d 'data.mean=%s' "
        "'data.std=%s'",
        *(target, index.plan.size, _short(index.statistics.mean), _short(std)),
    )
    log.info(
        "for the color changes of section 4.1, add data.color_noise=0.1 'data.color_covariance=%s'",
        json.dumps([[round(value, 6) for value in row] for row in covariance]),
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add, cores, number = parser.add_argument, share_of_cores(1), whole(1, MOST_IMAGES)
    add("source", type=home_path, nargs="?", metavar="SOURCE", help="the folder with train/")
    add(
        "target",
        type=home_path,
        nargs="?",
        metavar="TARGET",
        help="the folder of the packed images",
    )
    add("--size", type=number, default=256, metavar="N", help="side of the images, default: 256")
    add("--workers", type=number, default=cores, metavar="N", help="processes, default: one a core")
    add(
        "--shard-images",
        type=number,
        default=1024,
        metavar="N",
        help="images in a file, default: 1024",
    )
    add("--val-labels", type=home_path, metavar="FILE", help="a list of the classes of SOURCE/val")
    add("--verify", type=home_path, metavar="TARGET", help="only check its files")
    arguments = parser.parse_args()
    if (arguments.target is None) is (arguments.verify is None):
        raise ReportedError("name SOURCE and TARGET, or --verify TARGET: see --help")
    if arguments.verify and arguments.source:
        raise ReportedError("--verify takes TARGET alone: see --help")
    return arguments


def _short(values: tuple[float, ...] | list[float]) -> str:
    return f"[{', '.join(f'{value:.2f}' for value in values)}]"


if __name__ == "__main__":
    run_program(main, most_ranks=1)
