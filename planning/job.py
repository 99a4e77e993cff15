"""What is to be trained, wherever it is placed."""

from dataclasses import dataclass

from distributed.plan import Plan
from planning.formulas import Net, bytes_sent
from training.config import Config, OptimizerConfig
from training.precision import PRECISIONS


@dataclass(frozen=True)
class Job:
    """A net trained on a global ``batch``, with bytes of an activation and a gradient that travel.

    A weight has ``weight_size`` bytes, as has each of the ``moments`` that the optimiser keeps of
    it. ``scheme`` is the hybrid's. With ``overlaps`` traffic travels while layers compute. The
    batch is worked on in ``parts``, whose gradients accumulate.
    """

    net: Net
    batch: int
    activation_size: int = 4
    gradient_size: int = 4
    weight_size: int = 4
    moments: int = 1
    scheme: str = "a"
    overlaps: bool = True
    parts: int = 1

    @property
    def part_batch(self) -> int:
        """Global images of a part, of the largest where they are not even."""
        return -(-self.batch // self.parts)

    def turns(self, plan: Plan) -> int:
        """The turns in which a plan's classifier works on a part."""
        return plan.feeds if self.scheme != "a" else 1

    def bytes_sent(self, plan: Plan) -> dict[str, int]:
        """Bytes that rank 0 sends in a step, by boundary (see ``planning.formulas``)."""
        return bytes_sent(self.net, plan, self.batch, self.activation_size, self.gradient_size)


def job_of(config: Config, batch: int, channels: int, classes: int) -> Job:
    """The training of a configuration on a global batch of images with such a shape."""
    precision = PRECISIONS[config.precision]
    size = config.data.size
    return Job(
        Net(config.variant, config.towers, channels, size, classes, config.net.changes),
        batch,
        precision.dtype.itemsize,
        2 if config.compress_gradients else precision.weights.itemsize,
        precision.weights.itemsize,
        moments_of(config.optimizer),
        config.classifier_scheme,
        config.overlap_communication,
        config.optimizer.gradient_accumulation,
    )


def moments_of(config: OptimizerConfig) -> int:
    """The numbers that an optimiser keeps for each parameter from step to step."""
    return 2 if config.name == "adamw" else int(config.momentum > 0)


def planned(config: Config) -> Job:
    """The training of a configuration, on its data."""
    images = config.data.open("train")
    return job_of(config, config.batch_size, images.channels, len(images.classes))
