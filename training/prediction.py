"""What a trained net takes single images for."""

from pathlib import Path
from typing import NamedTuple

from common.errors import ReportedError
from data.image_folder import decode
from distributed.device import take_device
from recording.source import Source
from training.batches import make_preprocess
from training.inference import predict
from training.precision import PRECISIONS


class Guess(NamedTuple):
    """A class, by its number and its name, and how probable it is."""

    number: int
    name: str
    probability: float


class Predictor:
    """The net of ``source`` on this process's device, with the images prepared as in training.

    A configuration at ``config`` may say otherwise. Raises ReportedError when nobody knows how the
    images are prepared, or they are neither grey nor RGB.
    """

    def __init__(self, source: Source, config: Path | None = None) -> None:
        self.config = source.config(config, ["data.folder=."])  # which is not opened
        weights = source.check_fits(self.config)
        if weights.channels not in (1, 3):
            raise ReportedError(
                f"{weights.source} reads images of {weights.channels} channels: a picture has 1 "
                "(grey) or 3"
            )
        self.preprocess = make_preprocess(self.config, weights.channels)
        self.weights, self.device = weights, take_device(0, 1)
        self.model = weights.model().to(self.device, PRECISIONS[self.config.precision].weights)

    def top(self, path: str, count: int) -> list[Guess]:
        """The ``count`` most probable classes of the picture at ``path``, the best one first.

        Raises ReportedError when it cannot be read.
        """
        image = decode(path, self.config.data.image_side, self.weights.channels).to(self.device)
        [logarithms] = predict(self.model, self.preprocess, self.config, image[None])
        best = logarithms.exp().topk(min(count, len(logarithms)))
        names = self.weights.class_names
        return [
            Guess(number, names[number] if names else str(number), probability)
            for probability, number in zip(*(each.tolist() for each in best), strict=True)
        ]
