"""The layers of a net in the order in which a step runs through them."""

from collections import Counter
from functools import partial
from typing import Any

from torch import Tensor

from model.alexnet import CLASSIFIER, FEATURES
from training.trainer import Trainer


class Diary:
    """A line for each pass of a layer, with the bytes that this rank sent since the last line."""

    def __init__(self, trainer: Trainer) -> None:
        self.sent, self.before = trainer.mesh.timer.sent, Counter[str]()
        self.lines: list[tuple[str, ...]] = []
        for name in (*FEATURES, *CLASSIFIER):
            layer = getattr(trainer.model, name)
            layer.register_forward_hook(partial(self.forward, name))
            if name != "conv1":
                layer.register_full_backward_hook(partial(self.backward, name))
        # The images need no gradient, so conv1 has none to give.
        trainer.model.conv1.register_full_backward_pre_hook(
            lambda conv1, of_output: self.backward("conv1", conv1, (None,), of_output)
        )

    def forward(self, name: str, layer: Any, inputs: Any, output: Tensor) -> None:
        """Note a layer's forward pass, which begins with this rank's own inputs."""
        self.note("forward", name, inputs[0], layer.weight, output)

    def backward(self, name: str, layer: Any, of_inputs: Any, of_output: Any) -> None:
        """Note a layer's backward pass: from the gradient of its output to that of its inputs."""
        self.note("backward", name, of_output[0], layer.weight, of_inputs[0])

    def end(self, sent: dict[str, int]) -> None:
        """Note the end of the step, in which ``sent`` bytes were sent by boundary."""
        self.sent = Counter(sent)
        self.note("end", "", None, None, None)

    def note(self, kind: str, layer: str, *tensors: Tensor | None) -> None:
        """Add a line with the shapes of what is read, of the weight, and of what is given."""
        shapes = ["" if each is None else "×".join(map(str, each.shape)) for each in tensors]
        new = (self.sent - self.before).items()
        sent = ", ".join(f"{n:,.0f} at {at}" for at, n in new if round(n))  # a sum may be uneven
        self.lines.append((kind, layer, *shapes, sent))
        self.before = self.sent.copy()
