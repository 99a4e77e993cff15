"""The time of each layer, of the input and of the optimiser on this rank, as lines."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import mean, median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.loading import Batch
from data.preprocess import Preprocess
from distributed.device import Mark, mark_time, seconds_between
from distributed.placement import MeshPlacement
from distributed.plan import Plan
from model.alexnet import CLASSIFIER, FEATURES, AlexNet
from model.initialization import initialize
from model.keyed_random import image_keys
from planning.formulas import Net
from planning.machine import LayerWork
from planning.measuring.imitation import imitated_mesh
from planning.measuring.lines import fit
from planning.work import parts_of
from training.config import Config
from training.inference import compute, compute_logits
from training.optimization import make_optimizer
from training.precision import PRECISIONS

WARMUP = 2


class StepTimes(NamedTuple):
    """The median times of a step on ``images`` own images, by layer, and of its other parts."""

    images: int
    forward: dict[str, float]
    backward: dict[str, float]
    input: float
    optimizer: float
    parameters: int


class Rehearsal:
    """One rank's work under a plan, without the other ranks."""

    def __init__(
        self, config: Config, plan: Plan, net: Net, preprocess: Preprocess, device: torch.device
    ) -> None:
        self.config, self.plan, self.preprocess, self.device = config, plan, preprocess, device
        self.net = net
        placement = MeshPlacement(imitated_mesh(plan, device), overlap=config.overlap_communication)
        model = AlexNet(config.form, net.classes, net.channels, placement)
        initialize(model, config.seed)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        dtype = PRECISIONS[config.precision].weights
        self.model = model.to(device, dtype, memory_format=layout)  # type: ignore[call-overload]
        features, classifier = model.stages()
        self.features, self.classifier = features, classifier
        self.optimizer = make_optimizer(features, classifier, config.optimizer, may_skip=False)
        self.marks: dict[str, Mark] = {}
        for name in (*FEATURES, *CLASSIFIER):
            getattr(model, name).register_forward_pre_hook(self._note(name))

    def _note(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A hook that notes when a layer begins, forward, and when it has ended, backward."""

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._mark(f"forward {name}")
            if inputs[0].requires_grad:
                inputs[0].register_hook(lambda gradient: self._mark(f"backward {name}"))

        return note

    def _mark(self, name: str) -> None:
        self.marks[name] = mark_time(self.device)

    def times(self, images: int, steps: int, slowest: Callable[[float], float]) -> StepTimes:
        """Take ``steps`` on as many own images; returns the times of a median step.

        ``slowest`` waits for all ranks, and returns their largest number: steps begin together, as
        in training, and take as long as on the slowest rank. Each part's time is its mean, scaled
        so that the parts add up to the median step. Medians of the parts would not: where ranks
        outnumber the cores, most layers are done without a pause, and few steps are.
        """
        batch, size = images, self.config.data.image_side
        stored = torch.randint(0, 256, (batch, self.net.channels, size, size), dtype=torch.uint8)
        labels = torch.arange(batch) % self.net.classes
        own = Batch(stored, labels, torch.arange(batch))
        own = Batch(*(each.to(self.device) for each in own))
        taken: list[dict[str, float]] = []
        whole: list[float] = []
        for _ in range(WARMUP + steps):
            slowest(0)
            taken.append(self._step(own))
            whole.append(slowest(sum(taken[-1].values())))
        middle = _of_median_step(taken[WARMUP:], whole[WARMUP:])
        return StepTimes(
            images,
            {name: middle[f"forward {name}"] for name in (*FEATURES, *CLASSIFIER)},
            {name: middle[f"backward {name}"] for name in (*FEATURES, *CLASSIFIER)},
            middle["input"],
            middle["optimizer"],
            sum(each.numel() for each in self.model.parameters()),
        )

    def _step(self, own: Batch) -> dict[str, float]:
        self.model.train()
        self.optimizer.zero_grad()
        self._mark("input")
        keys = image_keys(0, 0, own.indices)
        x = self.preprocess(own.images, keys)
        x = compute(self.features, self.config.precision, x, keys)
        self._mark("features end")
        features = x.detach().requires_grad_()
        fed = self.model.placement.to_classifier(features)
        everyone = keys.repeat(len(fed) // len(keys))
        logits = compute_logits(self.classifier, fed, everyone, self.config.precision)
        loss = F.cross_entropy(logits, own.labels)
        self._mark("backward")
        loss.backward()
        self._mark("classifier end")
        assert features.grad is not None
        x.backward(features.grad)
        self._mark("optimizer")
        self.optimizer.step()
        self._mark("end")
        return self._read()

    def _read(self) -> dict[str, float]:
        """The seconds of each part of the last step."""

        def between(*names: str) -> list[float]:
            marks = [self.marks[name] for name in names]
            return [seconds_between(*pair) for pair in pairwise(marks)]

        starts = [f"forward {name}" for name in (*FEATURES, *CLASSIFIER)]
        last = len(FEATURES)
        forward = [
            *between(*starts[:last], "features end"),
            *between("features end", *starts[last + 1 :], "backward"),
        ]
        ends = [f"backward {name}" for name in (*FEATURES, *CLASSIFIER)]
        backward = [
            *between("backward", *reversed(ends[last + 1 :]), "classifier end"),
            *between("classifier end", *reversed(ends[1:last]), "optimizer"),
        ]
        names = (*FEATURES, *CLASSIFIER)
        return {
            **{f"forward {name}": s for name, s in zip(names, forward, strict=True)},
            **{f"backward {name}": s for name, s in zip(reversed(names), backward, strict=True)},
            "input": between("input", starts[0])[0],
            "optimizer": between("optimizer", "end")[0],
        }


def wait_for_times(steps: int, slowest: Callable[[float], float]) -> None:
    """Answer the ranks that measure so many steps by ``Rehearsal.times``."""
    for _ in range(2 * (WARMUP + steps)):
        slowest(0)


def _of_median_step(
    steps: Sequence[Mapping[str, float]], whole: Sequence[float]
) -> dict[str, float]:
    """The mean of each part of the steps, scaled so that all add up to the median ``whole`` one."""
    means = {name: mean(step[name] for step in steps) for name in steps[0]}
    scale = median(whole) / sum(means.values())
    return {name: scale * each for name, each in means.items()}


def layer_rows(net: Net, plan: Plan, steps: Sequence[StepTimes]) -> list[LayerWork]:
    """The lines of each layer of a plan, from steps on two or more numbers of own images."""
    rows = []
    for name in (*FEATURES, *CLASSIFIER):
        counts = [
            parts_of(net, plan, step.images * plan.features.replicas)[name].images for step in steps
        ]
        part = parts_of(net, plan, plan.features.replicas)[name]
        lines: dict[str, Any] = {
            way: fit(zip(counts, [getattr(step, way)[name] for step in steps], strict=True))
            for way in ("forward", "backward")
        }
        held = {"macs": part.macs, "parameters": part.parameters, "pieces": part.pieces}
        rows.append(LayerWork(layer=name, **held, **lines))
    return rows
