"""Using a trained net: logits, probabilities averaged over views, and scores on a data set."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.preprocess import VIEWS, Preprocess
from distributed.device import HostCopy
from distributed.mesh import Mesh
from training.batches import LocalBatch
from training.config import Config
from training.precision import PRECISIONS


def compute(stage: Callable[..., Tensor], precision: str, x: Tensor, *others: Any) -> Tensor:
    """The output of the net or of a stage for ``x`` and its other inputs, in ``precision``."""
    numbers = PRECISIONS[precision]
    dtype = numbers.dtype if numbers.is_mixed else None
    with torch.autocast(x.device.type, dtype, enabled=numbers.is_mixed):
        return stage(x, *others)


def compute_logits(
    network: Callable[..., Tensor],
    x: Tensor,
    keys: Tensor | None,
    precision: str,
    shares: Sequence[int] | None = None,
) -> Tensor:
    """Own images' logits (B, classes), computed in ``precision``; float32 at least.

    ``network`` is an AlexNet or its classifier, with ``x`` and ``shares`` as it takes them.
    """
    return compute(network, precision, x, keys, shares).to(PRECISIONS[precision].weights)


@torch.no_grad()
def predict(
    network: nn.Module,
    preprocess: Preprocess,
    config: Config,
    images: Tensor,
    shares: Sequence[int] | None = None,
) -> Tensor:
    """Log-probabilities (B, classes) of uint8 images (B, C, h, w), averaged over their views.

    The probabilities are averaged, not their logarithms. The network must be in evaluation mode.
    ``shares`` are those that AlexNet takes.
    """
    views = VIEWS[config.data.test_views]
    inputs = (preprocess(images, view=view) for view in views)
    each = [compute_logits(network, view, None, config.precision, shares) for view in inputs]
    logarithms = torch.stack([logits.log_softmax(1) for logits in each])
    return logarithms.logsumexp(0) - math.log(len(views))


@torch.no_grad()
def score(
    network: nn.Module,
    preprocess: Preprocess,
    config: Config,
    mesh: Mesh,
    batches: Iterable[LocalBatch],
    stopped: Callable[[], int] = lambda: 0,
) -> dict[str, float] | None:
    """Loss and top-1/top-5 accuracy over every replica's batches, each image counted once.

    All ranks must be given the same number of batches, which may be empty, and the same answers
    from ``stopped``. Once that is not 0, the result is None. Scores are equal on every rank.
    """
    network.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    for local in batches:
        if stopped():
            return None
        images, labels, _ = local.batch
        shares = local.shares[mesh.fed_by]
        predicted = predict(network, preprocess, config, images, shares)
        hits = predicted.topk(min(5, predicted.shape[1])).indices == labels[:, None]
        losses = F.nll_loss(predicted, labels, reduction="sum")
        counted = torch.full_like(losses, len(hits))
        totals += torch.stack([losses, hits[:, 0].sum(), hits.sum(), counted])
    loss, top1, top5, count = mesh.read(HostCopy(mesh.sum_over_replicas(totals)))
    mesh.timer.take()  # the cost of an evaluation is no training step's
    return {"test/loss": loss / count, "test/top1": top1 / count, "test/top5": top5 / count}
