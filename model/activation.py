"""What follows a layer, Krizhevsky et al. 2012, section 3.1."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.variants import Activation

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""None of them ever falls, so each may change places with a maximum."""
