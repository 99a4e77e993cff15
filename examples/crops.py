"""Cut crops from photographs, a class for each, to learn first-layer kernels from (figure 3).

  python examples/crops.py photos pieces
  ./launch.sh --config configs/photographs.yaml

Test crops come from the right fifth of a picture, and training crops from the rest of it. Small,
transparent, drawn and flat pictures are passed over, and so are copies of another one, links, and
maps of normals, gloss or skies, which packages of games name by endings such as _norm.
"""

import logging
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import ReportedError
from common.files import home_path, writing

log = logging.getLogger(__name__)

SIDE, HEIGHT, LEAST = 96, 720, 480
"""In pixels: the side of a crop, the height of a shrunk picture, and the least of its sides."""
TRAIN, TEST = 36, 4
"""Crops of a picture."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tga", ".webp")
NO_PHOTOGRAPH = re.compile(
    r"particles/|(/normals?|_(n|nm|norm|normal|gloss|glow|bump|s|sm|spec|local|mask|h|icon|pants"
    r"|shirt|up|dn|rt|lf|ft|bk))\."
)


def main() -> int:
    """Cut the crops of all pictures; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=home_path, help="a folder with pictures, at any depth")
    parser.add_argument("pieces", type=home_path, help="the folder to write, for data.folder")
    arguments = parser.parse_args()
    if arguments.pieces.exists():
        raise ReportedError(f"{arguments.pieces} is there already: name a new folder")
    try:
        with writing(arguments.pieces):
            found = sum(1 for _ in write_crops(arguments.photos, arguments.pieces))
    except BaseException:
        shutil.rmtree(arguments.pieces, ignore_errors=True)
        raise
    if not found:
        raise ReportedError(f"{arguments.photos} has no photograph of {LEAST} pixels or more")
    log.info("%d classes in %s", found, arguments.pieces)
    return 0


def write_crops(photos: Path, pieces: Path) -> Iterator[Path]:
    """Write the crops of each photograph; yields the folder of its training crops."""
    chance = random.Random(0)
    for number, photo in enumerate(photographs(photos)):
        edge = photo.width * 4 // 5
        for split, count, left, right in (
            ("train", TRAIN, 0, edge),
            ("test", TEST, edge, photo.width),
        ):
            folder = pieces / split / f"{number:04}"
            folder.mkdir(parents=True)
            for crop in range(count):
                x = chance.randint(min(left, right - SIDE), right - SIDE)
                y = chance.randint(0, photo.height - SIDE)
                piece = photo.crop((x, y, x + SIDE, y + SIDE))
                piece.save(folder / f"{crop:02}.jpg", quality=90)
        yield pieces / "train" / f"{number:04}"


def photographs(folder: Path) -> Iterator[Image.Image]:
    """The photographs and photographic textures in a folder, shrunk to ``HEIGHT``, as RGB."""
    seen = set()
    for path in tqdm(sorted(folder.rglob("*"), key=str), unit=" files", disable=None):
        is_picture = path.suffix.lower() in SUFFIXES and not path.is_symlink()
        if not is_picture or NO_PHOTOGRAPH.search(str(path)):
            continue
        photo = shrunk(path)
        if photo is None or not is_photographic(photo):
            continue
        thumb = photo.convert("L").resize((8, 8), Image.Resampling.BOX)
        look = (np.asarray(thumb) >> 4).tobytes()
        if look not in seen:
            seen.add(look)
            yield photo


def shrunk(path: Path) -> Image.Image | None:
    """A picture shrunk to ``HEIGHT``; None for what is no picture, too small, or transparent."""
    try:
        photo = Image.open(path)
        photo.load()
    except (OSError, SyntaxError, Image.DecompressionBombError):  # no image, or a hostile one
        return None
    if min(photo.size) < LEAST:
        return None
    if photo.mode in ("LA", "P", "RGBA"):
        alpha = np.asarray(photo.convert("RGBA"))[..., 3]
        if (alpha < 250).mean() > 0.02:
            return None
    small = photo.convert("RGB")
    small.thumbnail((10**6, HEIGHT), Image.Resampling.LANCZOS)
    return small if min(small.size) >= LEAST else None


def is_photographic(photo: Image.Image) -> bool:
    """True if an RGB picture has fine grain, and many colors or none, unlike most drawings."""
    pixels = np.asarray(photo).astype(int)  # (H, W, 3)
    colors = len(np.unique(pixels[::4, ::4].reshape(-1, 3) @ (1, 256, 65536)))
    small = np.asarray(photo.resize((64, 64), Image.Resampling.BOX)).astype(int)
    grain = np.abs(np.diff(pixels.mean(2), axis=1)).mean()
    return bool(grain >= 2 and (colors >= 3000 or np.ptp(small, axis=2).mean() <= 8))


if __name__ == "__main__":
    run_program(main, most_ranks=1)
