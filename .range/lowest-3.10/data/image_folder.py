"""Images in folders named after their classes, as in torchvision's ImageFolder."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension
from torchvision.transforms.v2.functional import pil_to_tensor

from common.errors import ReportedError
from common.files import open_plain
from data import Split

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
"""The formats that are decoded, whatever a file's suffix. PIL has others, such as EPS, for which it
would start Ghostscript."""
DEEP = ("I", "F")
"""First letters of PIL's modes for grey images of more than 8 bits."""
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # an error here


class ImageFolder:
    """RGB images of ``folder``/train/CLASS, or of ``folder``/test/CLASS or ``folder``/val/CLASS.

    Each is resized so that its shorter side has ``size`` pixels, then the central square is
    cropped. The classes are those of train/ where that exists.

    Images may lie in subfolders of their class. Links are followed, also out of ``folder``, but no
    folder is read twice for one class.

    Raises ReportedError when a folder is missing, unreadable or reached twice, a class has no
    image, or training and test classes differ.
    """

    channels = 3
    decodes = True
    block = 0

    def __init__(self, split: Split, folder: Path | None, size: int) -> None:
        if folder is None:
            raise ReportedError(
                "data.name=image_folder needs data.folder: name the folder with train/ and test/"
            )
        self.height = self.width = size
        alone = split == "test" and not os.path.exists(folder / "train")
        self.classes: Sequence[str] = _classes(_split_folder(folder, split if alone else "train"))
        root = _split_folder(folder, split)
        _check_same_classes(root, self.classes)
        self.samples = _samples(root, self.classes)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Decode images (B, 3, size, size) uint8, with labels (B,) int64, at ``indices`` (B,).

        Raises ReportedError for a file that is not an image or exceeds PIL's limit of pixels.
        """
        samples = [self.samples[index] for index in indices.tolist()]
        shape = (len(samples), self.channels, self.height, self.width)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        for image, (path, _) in zip(images, samples, strict=True):
            image.copy_(decode(path, self.height))
        return images, torch.tensor([label for _, label in samples], dtype=torch.int64)


def decode(path: str, size: int, channels: int = 3) -> Tensor:
    """Decode an image to (channels, size, size) uint8: resize its shorter side, crop the centre.

    One channel is grey, three are RGB. Raises ReportedError for any error of the decoder.
    """
    return decode_with_mode(path, size, channels)[0]


def decode_with_mode(path: str, size: int, channels: int = 3) -> tuple[Tensor, str]:
    """Decode an image as ``decode`` does; also return PIL's mode of the file: RGB, L, CMYK, …

    Raises ReportedError for any error of the decoder, which is its ``__cause__``.
    """
    try:
        with open_plain(path) as file, _open_image(file) as image:
            mode, plain = image.mode, _of_8_bits(image)
            if plain.mode != (wanted := "L" if channels == 1 else "RGB"):
                plain = plain.convert(wanted)
            square = ImageOps.fit(plain, (size, size), Image.Resampling.BILINEAR)
        return pil_to_tensor(square), mode
    except Image.DecompressionBombError as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ReportedError(
            f"{path} has more pixels than the limit of {limit}: shrink or remove it"
        ) from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise ReportedError(
            f"{path} cannot be read as an image ({reason}): replace or remove it"
        ) from error


def _open_image(file: BinaryIO) -> Image.Image:
    """Open an image without decoding it.

    Raises DecompressionBombError at PIL's limit; PIL itself does so at twice the limit.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is not one of {', '.join(FORMATS)}") from None
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit and pixels > limit:
        raise Image.DecompressionBombError(f"its {pixels} pixels exceed the limit of {limit}")
    return image


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Reduce grey images of 16 bits to their upper byte, as PIL does for color images.

    PIL would clip values above 255. Raises ValueError for other grey images of more than 8 bits.
    """
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value * (1 / 256))
    if image.mode.startswith(DEEP):
        raise ValueError(f"its pixels have the mode {image.mode}, not 8 or 16 bits")
    return image


def _split_folder(folder: Path, split: Split) -> Path:
    """The folder of a split; raises ReportedError if there is none."""
    for name in SPLIT_FOLDERS[split]:
        if os.path.isdir(folder / name):
            return folder / name
    places = " nor ".join(str(folder / name) for name in SPLIT_FOLDERS[split])
    raise ReportedError(f"there is no folder {places}: make one with a folder for each class")


def _classes(root: Path) -> list[str]:
    """Sorted names of the class folders in ``root``; raises ReportedError if there are none."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    except OSError as error:
        _refuse(error)
    visible = sorted(name for name in names if not name.startswith("."))
    if not visible:
        raise ReportedError(f"{root} has no class folders: make a folder for each class there")
    return visible


def _check_same_classes(root: Path, classes: Sequence[str]) -> None:
    if differing := sorted(set(_classes(root)) ^ set(classes)):
        raise ReportedError(
            f"the class folders of {root} differ from those of training in "
            f"{', '.join(differing[:5])}{', …' * (len(differing) > 5)}: make both the same"
        )


def _samples(root: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Paths and labels in the order of the classes; raises ReportedError for an empty class."""
    samples = []
    for label, name in enumerate(classes):
        paths = _images_below(str(root / name))
        if not paths:
            raise ReportedError(f"{root / name} has no images: add some or remove the folder")
        samples += [(path, label) for path in paths]
    return samples


def _images_below(folder: str) -> list[str]:
    """Sorted paths of the images in a folder and its subfolders.

    Raises ReportedError when a folder cannot be listed or is reached twice.
    """
    found, known = [], set()
    for place, _, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in known:
            raise ReportedError(
                f"{place} leads to {real}, whose images are already listed for this class: remove "
                "the link"
            )
        known.add(real)
        found.append((place, sorted(names)))
    paths = (os.path.join(place, name) for place, names in sorted(found) for name in names)
    return [path for path in paths if has_file_allowed_extension(path, IMG_EXTENSIONS)]


def _refuse(error: OSError) -> NoReturn:
    raise ReportedError(f"{error.filename} cannot be listed ({error.strerror}): make it readable")
