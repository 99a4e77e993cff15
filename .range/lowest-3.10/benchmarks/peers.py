"""The peers: the same nets in plain PyTorch, as torchvision's reference training has them.

They use fp32, contiguous tensors, ``nn.LocalResponseNorm``, default SGD and default threads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


def paper_net(classes: int) -> nn.Module:
    """The two-tower net of 2012 in one process, for RGB images of 224 px."""

    def block(*layers: nn.Module, norm: bool = False, pool: bool = False) -> list[nn.Module]:
        extra: list[nn.Module] = [nn.ReLU()]
        extra += [nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)] if norm else []
        extra += [nn.MaxPool2d(3, 2)] if pool else []
        return [*layers, *extra]

    return nn.Sequential(
        *block(nn.Conv2d(3, 96, 11, 4, 2), norm=True, pool=True),
        *block(nn.Conv2d(96, 256, 5, padding=2, groups=2), norm=True, pool=True),
        *block(nn.Conv2d(256, 384, 3, padding=1)),
        *block(nn.Conv2d(384, 384, 3, padding=1, groups=2)),
        *block(nn.Conv2d(384, 256, 3, padding=1, groups=2), pool=True),
        nn.Flatten(),
        *block(nn.Linear(256 * 6 * 6, 4096)),
        nn.Dropout(0.5),
        *block(nn.Linear(4096, 4096)),
        nn.Dropout(0.5),
        nn.Linear(4096, classes),
    )


def d2l_net(classes: int) -> nn.Module:
    """The chapter's net, for grey images of 224 px."""
    convolutions = [(1, 96, 11, 4, 1), (96, 256, 5, 1, 2), (256, 384, 3, 1, 1)]
    convolutions += [(384, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
    layers: list[nn.Module] = []
    for number, (inputs, outputs, kernel, stride, padding) in enumerate(convolutions, start=1):
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if number in (1, 2, 5) else []
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        *(nn.Linear(6400, 4096), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(4096, classes),
    )


NETS = {"paper": paper_net, "d2l": d2l_net}


def training_step(net: str, channels: int, batch: int, classes: int) -> Callable[[], None]:
    """A training step on preprocessed images in memory."""
    model = NETS[net](classes)
    momentum, decay = (0.9, 5e-4) if net == "paper" else (0.0, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum, weight_decay=decay)
    images = torch.randn(batch, channels, 224, 224)
    labels = torch.randint(classes, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step
