"""Using a trained net: logits, probabilities averaged over views, and scores on a data set."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.loading import Batch
from data.preprocess import VIEWS, Preprocess
from distributed.mesh import Mesh
from training.config import Config
from training.precision import PRECISIONS


def compute_logits(
    network: nn.Module, inputs: Tensor, keys: Tensor | None, precision: str
) -> Tensor:
    """Logits (B, classes) of normalised images, computed in ``precision``; float32 at least."""
    numbers = PRECISIONS[precision]
    dtype = numbers.dtype if numbers.is_mixed else None
    with torch.autocast(inputs.device.type, dtype, enabled=numbers.is_mixed):
        logits: Tensor = network(inputs, keys)
        return logits.to(numbers.weights)


@torch.no_grad()
def predict(network: nn.Module, preprocess: Preprocess, config: Config, images: Tensor) -> Tensor:
    """Log-probabilities (B, classes) of uint8 images (B, C, h, w), averaged over their views.

    The probabilities are averaged, not their logarithms. The network must be in evaluation mode.
    """
    views = VIEWS[config.data.test_views]
    inputs = (preprocess(images, view=view) for view in views)
    each = [compute_logits(network, view, None, config.precision).log_softmax(1) for view in inputs]
    return torch.stack(each).logsumexp(0) - math.log(len(views))


@torch.no_grad()
def score(
    network: nn.Module,
    preprocess: Preprocess,
    config: Config,
    mesh: Mesh,
    batches: Iterable[Batch],
    stopped: Callable[[], int] = lambda: 0,
) -> dict[str, float] | None:
    """Loss and top-1/top-5 accuracy over every replica's batches, each image counted once.

    All ranks must be given the same number of batches, which may be empty, and the same answers
    from ``stopped``. Once that is not 0, the result is None. Scores are equal on every rank.
    """
    network.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    for images, labels, _ in batches:
        if stopped():
            return None
        predicted = predict(network, preprocess, config, images)
        hits = predicted.topk(min(5, predicted.shape[1])).indices == labels[:, None]
        loss = F.nll_loss(predicted, labels, reduction="sum")
        totals += torch.stack([loss, hits[:, 0].sum(), hits.sum(), loss.new_tensor(len(hits))])
    loss, top1, top5, count = mesh.sum_over_replicas(totals).tolist()
    mesh.timer.take()  # the cost of an evaluation is no training step's
    return {"test/loss": loss / count, "test/top1": top1 / count, "test/top5": top5 / count}
