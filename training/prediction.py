"""The classes that a trained net gives single images."""

from typing import NamedTuple

from common.errors import ReportedError
from data.decoding import decode
from distributed.device import take_device
from training.batches import make_preprocess
from training.config import Config
from training.inference import predict
from training.precision import PRECISIONS
from weights.net import Weights


class Guess(NamedTuple):
    """A class, by its number and its name, and its probability."""

    number: int
    name: str
    probability: float


class Predictor:
    """A net on this process's device, with images preprocessed as ``config`` says.

    Raises ReportedError unless the net reads grey or RGB images.
    """

    def __init__(self, weights: Weights, config: Config) -> None:
        if weights.channels not in (1, 3):
            raise ReportedError(
                f"{weights.source} reads images of {weights.channels} channels, and a picture has "
                "1 (grey) or 3: name other weights"
            )
        self.weights, self.config, self.device = weights, config, take_device(0, 1)
        self.preprocess = make_preprocess(config, weights.channels)
        self.model = weights.model().to(self.device, PRECISIONS[config.precision].weights)

    def top(self, path: str, count: int) -> list[Guess]:
        """The ``count`` most probable classes of the picture at ``path``, most probable first.

        Raises ReportedError when the picture cannot be read, or its probabilities are not numbers.
        """
        image = decode(path, self.config.data.image_side, self.weights.channels).to(self.device)
        [logarithms] = predict(self.model, self.preprocess, self.config, image[None])  # (classes,)
        if logarithms.isnan().any():
            raise ReportedError(
                f"the probabilities of {path} are NaN in {self.config.precision}: name a "
                f"configuration with precision: fp32, or other weights than {self.weights.source}"
            )
        best = logarithms.exp().topk(min(count, len(logarithms)))
        names = self.weights.class_names
        return [
            Guess(number, names[number] if names else str(number), probability)
            for probability, number in zip(*(each.tolist() for each in best), strict=True)
        ]
