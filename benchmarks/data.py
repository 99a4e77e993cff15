"""Stored Fashion-MNIST images to augmented batches, on all cores, beside the D2L chapter's loader.

That loader resizes PIL images one by one in four worker processes, converts them to float tensors
and stacks them. Ours resizes, mirrors and standardizes a batch at once.
"""

from collections.abc import Callable, Iterator

from launch.program import run_program

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.contest import Contestant, contest, parser, report
from data.datasets import open_dataset
from data.loading import Loader, epoch_order
from data.preprocess import Preprocess
from distributed.device import keep_freed_memory
from model.keyed_random import image_keys

BATCH, WORKERS = 128, 4
BATCHES = 40
"""Batches per call: many more than workers read ahead."""


class _Images(Dataset[tuple[Tensor, int]]):
    """Transformed PIL images by index, like torchvision's FashionMNIST."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.labels = open_dataset("fashion_mnist", "train").read(torch.arange(60000))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index, 0].numpy())
        return self.transform(image), int(self.labels[index])


def stream(epoch: Callable[[int], Iterator[Tensor]], batches: int) -> Callable[[], Tensor]:
    """A function that reads the next ``batches``, epoch after epoch."""

    def forever() -> Iterator[Tensor]:
        number = 0
        while True:
            yield from epoch(number)
            number += 1

    images = forever()

    def read() -> Tensor:
        for _ in range(batches):
            last = next(images)
        return last[:, 0, 0, 0]  # small to send, and depends on the images

    return read


def d2l(size: int) -> Callable[[], Tensor]:
    """Read with the chapter's loader."""
    images = _Images(transforms.Compose([transforms.Resize(size), transforms.ToTensor()]))
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS)
    return stream(lambda _: (images for images, _ in loader), BATCHES)


def ours(size: int) -> Callable[[], Tensor]:
    """Read with the trainer's loader and preprocessing."""
    keep_freed_memory()
    images = open_dataset("fashion_mnist", "train")
    preprocess = Preprocess(size, size, [73.0], [1.0], mirror=True, dtype=torch.bfloat16)

    def epoch(number: int) -> Iterator[Tensor]:
        order = epoch_order(0, number, len(images)).split(BATCH)[:-1]
        for batch in Loader(images, order):
            yield preprocess(batch.images, image_keys(0, number, batch.indices))

    return stream(epoch, BATCHES)


def main() -> int:
    """Compare at the chapter's image size and at the default job's."""
    arguments = parser(__doc__).parse_args()
    rows = []
    for size in (96, 224):
        timings = contest(
            [Contestant("D2L's", d2l, (size,)), Contestant("ours", ours, (size,))],
            arguments.rounds,
            seconds=4.0,
        )
        for name, timing in timings.items():
            rows.append(
                {
                    "size": size,
                    "loader": name,
                    "images/s": BATCHES * BATCH / timing.seconds,
                    "× D2L's": timing.times_faster_than(timings["D2L's"]),
                }
            )
    report("data", {"Fashion-MNIST in batches of 128": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
