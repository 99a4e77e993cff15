"""The promise: local, split, and replicas of either give the same training."""

import pytest
import torch

from data.loading import Batch
from data.preprocess import Preprocess
from distributed.mesh import Mesh, plan_mesh
from training.config import Config
from training.loop import Trainer, build_model

STEPS = 10
CLASSES = 10


def _config(variant, towers, placement, **optimizer):
    return Config.model_validate(
        {
            "variant": variant,
            "towers": towers,
            "placement": placement,
            # Rows of different sizes on four ranks, and a short last batch.
            "batch_size": 6,
            "data": {"size": 64, "resize": 72, "mean": 100.0, "deviation": 20.0, "mirror": True},
            "optimizer": {"learning_rate": 0.01, **optimizer},
            "schedule": {"name": "one_cycle"},
        }
    )


def _global_batch(step):
    count = 5 if step == STEPS - 1 else 6
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return Batch(images, labels, torch.arange(count) + 100 * step)


def train(config, world_size):
    """Ten steps on this rank's share; everything in the local form, for rank 0 of the mesh."""
    plan = plan_mesh(world_size, config.towers, config.placement)
    mesh = Mesh.over_running_group(plan, torch.device("cpu"))
    model = build_model(config, mesh, CLASSES, 1)
    preprocess = Preprocess(64, 72, [100.0], [20.0], mirror=True)
    trainer = Trainer(config, mesh, model, preprocess, STEPS)
    losses, batch, gradients = [], None, {}
    for step in range(STEPS):
        whole = _global_batch(step)
        batch = Batch(*(part.tensor_split(plan.replicas)[mesh.replica] for part in whole))
        totals = trainer.step(batch, epoch=0, global_count=len(whole.labels))
        losses.append(trainer.report(totals, False, step)[0]["loss"])
        if step == 0:
            gradients = {n: p.grad.detach().clone() for n, p in model.named_parameters()}
    shape = [config.variant, config.towers, plan.placement]
    evaluated = trainer.evaluate([batch])
    whole = _global_batch(0)
    with torch.no_grad():
        logits = model.eval()(preprocess(whole.images, None))
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    unsharded = [
        {n: model.towers.unshard(n, t.contiguous()) for n, t in tensors.items()}
        for tensors in (gradients, weights)
    ]
    replicated = weights["fc8.bias"]
    if mesh.rank:  # one rank's tensors are enough: towers unshard to the same, replicas are equal
        unsharded = [{n: t.double().sum().item() for n, t in ts.items()} for ts in unsharded]
    return {
        "shape": shape,
        "losses": torch.tensor(losses),
        "evaluated": evaluated,
        "logits": logits,
        "gradients": unsharded[0],
        "weights": unsharded[1],
        "fc8.bias": replicated,
    }


def relative_error(found, expected):
    """Largest difference, relative to the largest of the expected values."""
    scale = expected.abs().max().clamp_min(1e-12)
    return float((found - expected).abs().max() / scale)


def largest_error(found, expected):
    errors = [relative_error(found[key], expected[key]) for key in ("losses", "logits")]
    for key in ("gradients", "weights"):
        for name, tensor in expected[key].items():
            errors.append(relative_error(found[key][name], tensor))
    for name, value in expected["evaluated"].items():
        errors.append(abs(found["evaluated"][name] - value) / max(abs(value), 1e-12))
    return max(errors)


@pytest.fixture(scope="module")
def local_form(one_rank):
    cache = {}

    def run(variant, towers):
        if (variant, towers) not in cache:
            config = _config(variant, towers, "local")
            [cache[variant, towers]] = one_rank.run(train, config, 1)
        return cache[variant, towers]

    return run


@pytest.mark.parametrize(
    ("variant", "towers", "placement", "pool", "mesh"),
    [
        ("paper", 2, "split", "two_ranks", "1 replica x 2 towers"),
        ("paper", 2, "split", "four_ranks", "2 replicas x 2 towers"),
        ("d2l", 2, "split", "two_ranks", "1 replica x 2 towers"),
        ("d2l", 2, "split", "four_ranks", "2 replicas x 2 towers"),
        ("paper", 1, "local", "two_ranks", "2 replicas, single stream"),
        ("d2l", 1, "local", "two_ranks", "2 replicas, single stream"),
        ("torchvision", 2, "split", "two_ranks", "1 replica x 2 towers"),
        ("paper", 4, "split", "four_ranks", "1 replica x 4 towers"),
    ],
)
def test_training_equals_the_local_form(
    request, local_form, equality_rows, variant, towers, placement, pool, mesh
):
    ranks = request.getfixturevalue(pool)
    expected = local_form(variant, towers)
    results = ranks.run(train, _config(variant, towers, placement), len(ranks.pipes))
    assert results[0]["shape"][2] == placement
    error = largest_error(results[0], expected)
    equality_rows.append((variant, mesh, error))
    assert error <= 1e-4
    for result in results[1:]:
        assert torch.equal(result["losses"], results[0]["losses"])
        assert torch.equal(result["fc8.bias"], results[0]["fc8.bias"]), "replicated bias drifted"


def test_training_changes_the_weights_and_drops_units(local_form):
    """The equality above would be empty if nothing were trained or dropped."""
    config = _config("d2l", 2, "local")
    result = local_form(config.variant, 2)
    assert result["weights"]["fc8.weight"].abs().max() > 0
    assert len(set(result["losses"].tolist())) == STEPS


def test_accumulated_gradients_equal_the_whole_batch(two_ranks, local_form):
    config = _config("d2l", 2, "split", accumulation=2)
    assert largest_error(two_ranks.run(train, config, 2)[0], local_form("d2l", 2)) <= 1e-4
