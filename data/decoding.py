"""Decodes image files to squares of 8-bit pixels."""

import contextlib
import logging
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from common.errors import ReportedError
from common.files import open_plain

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""The formats that are decoded, whatever a file's suffix, with the suffixes of files to list. PIL
has other formats, such as EPS, for which it would start Ghostscript."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
DEEP = ("I", "F")
"""First letters of PIL's modes for grey images of more than 8 bits."""
FACTORS = {1: 65535 / 256, 255: 1, 65535: 1 / 256, 2**32 - 1: 1 / 2**24}
"""The largest number of a deep image's range, and the factor from it to 8 bits."""
RANGES = {"I": (255, 65535, 2**32 - 1), "F": tuple(FACTORS)}
"""Ranges that PIL's modes of 32 bits may hold; the others have 16 bits."""
SAMPLE_FORMAT, UNSIGNED = 339, (1,)
"""A tag of TIFF, and its default."""
# PIL does not name the file that it warns of; what it cannot read is an error, which does.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def has_image_suffix(path: str) -> bool:
    """True if the file's name ends as that of a decoded format."""
    return path.lower().endswith(SUFFIXES)


def decode(path: str, size: int, channels: int = 3) -> Tensor:
    """Decode an image to (channels, size, size) uint8: resize its shorter side, crop the centre.

    One channel is grey, three are RGB. The image is turned as its EXIF data say. Raises
    ReportedError for any error of the decoder.
    """
    return decode_with_mode(path, size, channels)[0]


def decode_with_mode(path: str, size: int, channels: int = 3) -> tuple[Tensor, str]:
    """Decode an image as ``decode`` does; also return PIL's mode of the file: RGB, L, CMYK, …

    Raises ReportedError for any error of the decoder, which is its ``__cause__``.
    """
    try:
        with open_plain(path) as file, _open_image(file) as image:
            mode = image.mode
            image.load()
            with contextlib.suppress(Exception):  # of damaged EXIF data; the pixels are whole
                ImageOps.exif_transpose(image, in_place=True)
            plain = _of_8_bits(image)
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
        image = Image.open(file, formats=tuple(FORMATS))
    except UnidentifiedImageError:
        raise ValueError(f"it is not one of {', '.join(FORMATS)}") from None
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit and pixels > limit:
        raise Image.DecompressionBombError(f"its {pixels} pixels exceed the limit of {limit}")
    return image


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Reduce grey images of 16 and 32 bits to 8; PIL would clip values above 255.

    PIL's modes of 32 bits, I and F, also hold images of fewer: their range is the smallest in
    ``FACTORS`` that has all their numbers. Raises ValueError if none has, as for infinity.
    """
    if not image.mode.startswith(DEEP):
        return image
    numbers = np.asarray(image)
    if image.mode == "I" and not _is_signed(image):
        numbers = numbers.view(np.uint32)
    highest = numbers.max()
    for top in RANGES.get(image.mode, (65535,)):
        if highest <= top:
            return Image.fromarray((numbers * FACTORS[top]).clip(0, 255).astype(np.uint8))
    raise ValueError(f"its largest number is {highest}")


def _is_signed(image: Image.Image) -> bool:
    """True for signed integers of a TIFF; PIL holds unsigned ones of 32 bits as signed."""
    return getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, UNSIGNED) != UNSIGNED
