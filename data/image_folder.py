"""Images in folders named after their classes, the layout of torchvision's ImageFolder."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from data import Split
from model.errors import InputError

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}


class ImageFolder:
    """RGB images of ``folder``/train/CLASS, or of ``folder``/test/CLASS or ``folder``/val/CLASS.

    Each is resized so that its shorter side has ``size`` pixels, and cut to the central square.
    The classes are those of training, where ``folder`` has images for it.

    Raises InputError when a folder is missing, a class has no image, or the test classes are not
    those of training.
    """

    channels = 3
    decodes = True
    block = 0

    def __init__(self, split: Split, folder: Path | None, size: int) -> None:
        if folder is None:
            raise InputError("image_folder needs data.folder, the folder with train/ and test/")
        self.height = self.width = size
        alone = split == "test" and not (folder / "train").exists()
        self.classes: Sequence[str] = _classes(_split_folder(folder, split if alone else "train"))
        root = _split_folder(folder, split)
        _check_same_classes(root, self.classes)
        self.samples = _samples(root, self.classes)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Decode images (B, 3, size, size) uint8, with labels (B,) int64, at ``indices`` (B,).

        Raises InputError for a file that is no image, or has more pixels than PIL finds safe.
        """
        samples = [self.samples[index] for index in indices.tolist()]
        shape = (len(samples), self.channels, self.height, self.width)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        for image, (path, _) in zip(images, samples, strict=True):
            image.copy_(decode(path, self.height))
        return images, torch.tensor([label for _, label in samples], dtype=torch.int64)


def decode(path: str, size: int, channels: int = 3) -> Tensor:
    """The image at ``path`` as (channels, size, size) uint8: shorter side resized, centre cut out.

    One channel is grey, three are RGB. Raises InputError, whatever the decoder raised.
    """
    return decode_with_mode(path, size, channels)[0]


def decode_with_mode(path: str, size: int, channels: int = 3) -> tuple[Tensor, str]:
    """What ``decode`` gives, and PIL's name for how the file keeps its colours: RGB, L, CMYK, …

    Raises InputError, whatever the decoder raised, which is its ``__cause__``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode, plain = image.mode, image.convert("L" if channels == 1 else "RGB")
        square = ImageOps.fit(plain, (size, size), Image.Resampling.BILINEAR)
        return pil_to_tensor(square), mode
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise InputError(
            f"{path} has more pixels than the {limit} that are safe: shrink or remove it"
        ) from error
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}): replace or remove it"
        ) from error


def _split_folder(folder: Path, split: Split) -> Path:
    """The folder of a split; InputError if there is none."""
    for name in SPLIT_FOLDERS[split]:
        if (folder / name).is_dir():
            return folder / name
    places = " nor ".join(str(folder / name) for name in SPLIT_FOLDERS[split])
    raise InputError(f"there is no folder {places}: put one folder of images per class there")


def _classes(root: Path) -> list[str]:
    """The names of the class folders in ``root``, sorted; InputError if there are none."""
    names = [path.name for path in root.iterdir() if path.is_dir()]
    visible = sorted(name for name in names if not name.startswith("."))
    if not visible:
        raise InputError(f"{root} has no class folders: put one folder of images per class there")
    return visible


def _check_same_classes(root: Path, classes: Sequence[str]) -> None:
    if differing := sorted(set(_classes(root)) ^ set(classes)):
        raise InputError(
            f"the class folders of {root} are not those of training: make both the same, they "
            f"differ in {', '.join(differing[:5])}{' …' * (len(differing) > 5)}"
        )


def _samples(root: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Paths and labels, in the order of the classes; InputError for a class without images."""
    numbers = {name: number for number, name in enumerate(classes)}
    samples: list[tuple[str, int]] = make_dataset(
        str(root), numbers, extensions=IMG_EXTENSIONS, allow_empty=True
    )
    filled = {label for _, label in samples}
    if empty := [name for name in classes if numbers[name] not in filled]:
        raise InputError(f"{root / empty[0]} holds no images: put some there or remove the folder")
    return samples
