"""Small folders of real files: good ones, odd ones and broken ones."""

import json

import numpy as np
import torch
from PIL import Image

from data.image_folder import decode
from data.packed.source import list_source
from data.packed.writer import prepare

SIZE = 16
SHARD = 4
ODD = ("cmyk.jpg", "grey.jpg", "one-pixel.png", "png-inside.JPEG", "rotated.jpg")
BROKEN = ("empty.jpg", "text.jpg", "truncated.jpg")


def noise(seed, width=30, height=20):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save_noise(path, seed, **shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, **shape).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def make_tree(root, images=5):
    """Two classes with ``images`` training and two test images each."""
    for number in range(images):
        for name in ("ant", "bee"):
            seed = 100 * number + len(name) + (name == "bee")
            save_noise(root / "train" / name / f"{number}.jpg", seed)
            if number < 2:
                save_noise(root / "val" / name / f"v{number}.jpg", seed + 50)
    return root


def add_odd_files(root):
    """Put odd files as in ImageNet, and worse ones, into the training folder of ants."""
    folder = root / "train" / "ant"
    noise(1).convert("CMYK").save(folder / "cmyk.jpg")
    noise(2).convert("L").save(folder / "grey.jpg")
    noise(3, 1, 1).save(folder / "one-pixel.png")
    noise(4).save(folder / "png-inside.JPEG", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    noise(5, 40, 20).save(folder / "rotated.jpg", exif=exif)
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("this is no picture")
    content = save_noise(folder / "truncated.jpg", 6, width=90, height=90).read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    return root


def pack_tree(root, target, **settings):
    """``target``, packed, and its index."""
    target.mkdir(exist_ok=True)
    settings = {"size": SIZE, "shard_images": SHARD, "workers": 2, **settings}
    return target, prepare(list_source(root), target, **settings)


def expected(root, split):
    """The images (N, SIZE, SIZE, 3) that should be stored, and their labels, in that order."""
    files = [
        each
        for each in list_source(root).splits[split]
        if not any(each.path.endswith(name) for name in BROKEN)
    ]
    images = [decode(str(root / each.path), SIZE) for each in files]
    return torch.stack(images).permute(0, 2, 3, 1).numpy(), [each.label for each in files]


def contents(folder):
    """The bytes of each file in a folder, by its path there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def change_index(folder, change):
    """Rewrite an index after ``change`` was called with its content."""
    path = folder / "index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
