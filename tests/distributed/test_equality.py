"""The promise: every placement gives the same training.

With dropout, random crops and mirroring; six optimiser steps under a moving learning rate, the last
on a short batch. Errors are relative to the largest value of each tensor.

In fp64: in fp32 the sums of two placements, which differ in their last digits, sooner or later let
a ReLU or a max pooling choose otherwise, and the curves part by 1e-4 to 1e-2. Two steps are too few
for that, so fp32, whose kernels are others, is compared over these.
"""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from data.loading import Batch
from data.synthetic import Synthetic
from model.alexnet import AlexNet
from model.initialization import initialize
from model.placement import Placement
from model.variants import VARIANTS
from planning.formulas import Net, bytes_sent
from tests.ranks import mesh_of
from training.batches import LocalBatch, make_preprocess
from training.batches import test_batches as batches_for_testing
from training.config import Config, NetConfig
from training.inference import compute_logits
from training.trainer import Trainer, build_model

STEPS = 6
CLASSES = 10
BATCH, LAST_BATCH = 6, 5
NARROW = {name: replace(variant, hidden=516) for name, variant in VARIANTS.items()}
"""fc6 and fc7, which have nine tenths of the weights and no more ways to go wrong, are cut to an
eighth. 516 is divisible by 2, 3 and 4."""


def _config(variant, towers, placement, precision="fp64", *, settings=None, **optimizer):
    return Config.model_validate(
        {
            **(settings or {}),
            "variant": variant,
            "towers": towers,
            "placement": placement,
            "batch_size": BATCH,
            "precision": precision,
            "data": {"size": 64, "resize": 72, "mean": 100.0, "std": 20.0, "mirror": True},
            "optimizer": {"learning_rate": 0.01, **optimizer},
            "schedule": {"name": "one_cycle"},
        }
    )


def _global_batch(step):
    count = LAST_BATCH if step == STEPS - 1 else BATCH
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return Batch(images, labels, torch.arange(count) + 100 * step)


def _local_batch(mesh, step):
    whole, replicas = _global_batch(step), mesh.plan.features.replicas
    parts = (part.tensor_split(replicas)[mesh.replica] for part in whole)
    indices = whole.indices.tensor_split(replicas)
    return LocalBatch(Batch(*parts), indices, len(whole.labels), 0, step / STEPS)


def _trainer(config, world_size):
    mesh = mesh_of(config.plan(world_size))
    model = build_model(config, mesh, CLASSES, 1)
    return Trainer(config, mesh, model, make_preprocess(config, 1), STEPS)


def _full_tensors(trainer, tensors):
    """Full tensors on rank 0, which stands for all: the ranks of a copy gather the same."""
    unshard = trainer.placement.unshard
    whole = {name: unshard(name, t.detach().contiguous()) for name, t in tensors.items()}
    return whole if trainer.mesh.is_main else {}


@patch.dict(VARIANTS, NARROW)
def train(config, world_size, steps=STEPS):
    """Train on this rank's local batches; returns the outcome, with full tensors."""
    trainer = _trainer(config, world_size)
    parameters = dict(trainer.model.named_parameters())
    losses, gradients = [], {}
    for step in range(steps):
        result = trainer.train_step(_local_batch(trainer.mesh, step)).result()
        losses.append(result.loss)
        if step == 0:
            gradients = _full_tensors(trainer, {name: p.grad for name, p in parameters.items()})
    with torch.no_grad():
        inputs = trainer.preprocess(_global_batch(0).images)
        logits = compute_logits(trainer.model.eval(), inputs, None, config.precision)
    return {
        "sent": result.cost.bytes_at,
        "placement": trainer.mesh.plan.placement,
        "losses": torch.tensor(losses, dtype=torch.float64),
        "logits": logits,
        "gradients": gradients,
        "weights": _full_tensors(trainer, parameters),
        "evaluation": trainer.evaluate([_local_batch(trainer.mesh, STEPS - 1)]),
        "replicated bias": parameters["fc8.bias"].detach().clone(),
    }


def _relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def largest_error(found, expected):
    pairs = [(found[key], expected[key]) for key in ("losses", "logits")]
    for kind in ("gradients", "weights"):
        assert found[kind].keys() == expected[kind].keys()
        pairs += [(found[kind][name], expected[kind][name]) for name in expected[kind]]
    for name, value in expected["evaluation"].items():
        pairs.append((torch.tensor(found["evaluation"][name]), torch.tensor(value)))
    return max(_relative_error(*pair) for pair in pairs)


@pytest.fixture(scope="module")
def one_process(one_rank):
    """The training in one process, run once for each net."""
    results = {}

    def run(variant, towers, precision="fp64", steps=STEPS):
        key = variant, towers, precision
        if key not in results:
            config = _config(variant, towers, "local", precision)
            [results[key]] = one_rank.run(train, config, 1, steps)
        return results[key]

    return run


SCHEME = {scheme: {"classifier_scheme": scheme} for scheme in "abc"}


@pytest.mark.parametrize(
    ("variant", "towers", "placement", "ranks", "settings", "mesh"),
    [
        ("paper", 2, "split", 2, {}, "split over 2 ranks"),
        ("paper", 2, "split", 4, {}, "split, 2 replicas × 2 ranks"),
        ("d2l", 2, "split", 2, {}, "split over 2 ranks"),
        ("d2l", 2, "split", 4, {}, "split, 2 replicas × 2 ranks"),
        ("torchvision", 2, "split", 2, {}, "split over 2 ranks"),
        ("zfnet", 2, "split", 2, {}, "split over 2 ranks"),
        ("paper", 4, "split", 4, {}, "split over 4 ranks"),
        ("paper", 4, "split", 2, {}, "4 towers over 2 ranks"),
        ("paper", 2, "split", 4, {"shards": 4}, "2 towers over 4 ranks"),
        ("paper", 1, "split", 2, {}, "dense split over 2 ranks"),
        ("paper", 1, "split", 4, {}, "dense split over 4 ranks"),
        ("torchvision", 1, "split", 2, {}, "dense split over 2 ranks"),
        ("d2l", 1, "split", 2, {}, "dense split over 2 ranks"),
        ("caffe", 2, "split", 2, {}, "split, LRN across ranks"),
        ("caffenet", 2, "split", 2, {}, "split, LRN across ranks"),
        ("paper", 2, "ddp", 2, {}, "ddp, 2 replicas"),
        ("paper", 1, "ddp", 2, {}, "ddp, 2 replicas"),
        ("d2l", 1, "ddp", 2, {}, "ddp, 2 replicas"),
        ("paper", 1, "hybrid", 2, SCHEME["a"], "hybrid (a) on 2 ranks"),
        ("paper", 1, "hybrid", 2, SCHEME["b"], "hybrid (b) on 2 ranks"),
        ("paper", 1, "hybrid", 2, SCHEME["c"], "hybrid (c) on 2 ranks"),
        ("torchvision", 1, "hybrid", 2, SCHEME["c"], "hybrid (c) on 2 ranks"),
        ("d2l", 2, "hybrid", 2, SCHEME["b"], "hybrid (b) on 2 ranks"),
        ("torchvision", 1, "hybrid", 3, SCHEME["a"], "hybrid (a) on 3 ranks"),
        ("paper", 2, "hybrid", 3, SCHEME["b"], "hybrid (b) on 3 ranks"),
        ("d2l", 1, "hybrid", 3, SCHEME["c"], "hybrid (c) on 3 ranks"),
        ("paper", 1, "hybrid", 4, SCHEME["a"], "hybrid (a) on 4 ranks"),
        ("paper", 1, "hybrid", 4, SCHEME["b"], "hybrid (b) on 4 ranks"),
        ("torchvision", 1, "hybrid", 4, SCHEME["c"], "hybrid (c) on 4 ranks"),
        ("paper", 2, "hybrid", 4, {"classifier_ranks": 2}, "hybrid (a), 2 groups of 2"),
        (
            *("torchvision", 1, "hybrid", 4),
            *({"classifier_ranks": 2, **SCHEME["c"]}, "hybrid (c), 2 groups of 2"),
        ),
        ("paper", 2, "split+hybrid", 4, SCHEME["a"], "split + hybrid (a) on 4 ranks"),
        ("torchvision", 2, "split+hybrid", 4, SCHEME["b"], "split + hybrid (b) on 4 ranks"),
        ("d2l", 2, "split+hybrid", 4, SCHEME["c"], "split + hybrid (c) on 4 ranks"),
    ],
)
def test_training_equals_the_one_process(
    request, record_property, one_process, variant, towers, placement, ranks, settings, mesh
):
    pool = request.getfixturevalue({2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}[ranks])
    expected = one_process(variant, towers)
    results = pool.run(train, _config(variant, towers, placement, settings=settings), ranks)
    error = largest_error(results[0], expected)
    record_property("equality", (f"{variant}, {towers} tower(s)", mesh, error))
    assert results[0]["placement"] == placement
    assert error <= 1e-13
    for result in results[1:]:
        assert torch.equal(result["losses"], results[0]["losses"])
        # A hybrid's classifier has each rank's images in other rows, which may round differently.
        assert _relative_error(result["logits"], results[0]["logits"]) <= 1e-13
        assert result["evaluation"] == results[0]["evaluation"]
        assert torch.equal(result["replicated bias"], results[0]["replicated bias"])


@pytest.mark.parametrize(
    ("placement", "pool"),
    [
        *(("split", "two_ranks"), ("split", "four_ranks"), ("ddp", "two_ranks")),
        *(("hybrid", "two_ranks"), ("split+hybrid", "four_ranks")),
    ],
)
def test_two_steps_in_fp32_equal_the_one_process(request, one_process, placement, pool):
    ranks = request.getfixturevalue(pool)
    found = ranks.run(train, _config("paper", 2, placement, "fp32"), len(ranks.pipes), 2)[0]
    assert largest_error(found, one_process("paper", 2, "fp32", 2)) <= 1e-5


def test_what_is_compared_was_trained(one_process):
    """Equality would be empty if the weights had not moved."""
    trained = one_process("d2l", 2)["weights"]
    moved = _initial_weights(_config("d2l", 2, "local"))
    assert all(_relative_error(trained[name], moved[name]) > 1e-3 for name in trained)


@patch.dict(VARIANTS, NARROW)
def _initial_weights(config):
    model = AlexNet(VARIANTS[config.variant], CLASSES, 1, Placement(config.towers))
    initialize(model, config.seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


ABLATIONS = {
    "never meeting": {"meet": []},
    "meeting at fc6": {"meet": ["fc6"]},
    "at fc7, tanh, pool 2": {"meet": ["fc7"], "activation": "tanh", "pool": 2},
    "at conv3, sigmoid, no LRN": {
        "meet": ["conv3"],
        "activation": "sigmoid",
        "local_response_norm": False,
    },
}


@patch.dict(VARIANTS, NARROW)
@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_alike_in_every_placement_and_sends_what_the_formula_says(
    record_property, one_rank, two_ranks, name
):
    net = NetConfig.model_validate(ABLATIONS[name])
    configs = [
        _config("paper", 2, placement).model_copy(update={"net": net})
        for placement in ("local", "split")
    ]
    [expected] = one_rank.run(train, configs[0], 1, 3)
    found, _ = two_ranks.run(train, configs[1], 2, 3)
    error = largest_error(found, expected)
    record_property("equality", ("paper", name, error))
    assert error <= 1e-13
    shapes = Net("paper", 2, 1, 64, CLASSES, net.changes)
    assert found["sent"] == bytes_sent(shapes, configs[1].plan(2), BATCH, 8, 8)


def test_never_meeting_towers_train_alike_in_replicas(one_rank, four_ranks):
    config = _config("d2l", 2, "split").model_copy(update={"net": NetConfig(meet=())})
    [expected] = one_rank.run(train, config.model_copy(update={"placement": "local"}), 1, 3)
    assert largest_error(four_ranks.run(train, config, 4, 3)[0], expected) <= 1e-10


LARS = {"name": "lars", "learning_rate": 1.0, "trust_coefficient": 0.01}


@pytest.fixture(scope="module")
def one_process_with_lars(one_rank):
    """The training in one process by LARS."""
    return one_rank.run(train, _config("paper", 2, "local", **LARS), 1)[0]


@pytest.mark.parametrize(
    ("placement", "pool", "settings", "mesh"),
    [
        ("split", "two_ranks", {}, "split over 2 ranks"),
        ("split", "four_ranks", {"shards": 4}, "2 towers over 4 ranks"),
        ("ddp", "two_ranks", {}, "ddp, 2 replicas"),
        ("hybrid", "three_ranks", SCHEME["b"], "hybrid (b) on 3 ranks"),
        ("split+hybrid", "four_ranks", SCHEME["a"], "split + hybrid (a) on 4 ranks"),
    ],
)
def test_lars_takes_the_same_steps_in_every_placement(
    request, record_property, one_process_with_lars, placement, pool, settings, mesh
):
    """Its trust ratios are of full layers, of which a rank may hold a part."""
    ranks = request.getfixturevalue(pool)
    config = _config("paper", 2, placement, settings=settings, **LARS)
    found = ranks.run(train, config, len(ranks.pipes))[0]
    error = largest_error(found, one_process_with_lars)
    record_property("equality", ("paper, LARS", mesh, error))
    assert error <= 1e-13


def test_accumulated_gradients_equal_the_whole_batch(two_ranks, one_process):
    config = _config("d2l", 2, "split", gradient_accumulation=2)
    assert largest_error(two_ranks.run(train, config, 2)[0], one_process("d2l", 2)) <= 1e-10


@pytest.mark.parametrize("scheme", SCHEME)
def test_accumulated_gradients_of_a_hybrid_equal_the_whole_batch(two_ranks, one_process, scheme):
    settings = SCHEME[scheme]
    config = _config("d2l", 2, "hybrid", settings=settings, gradient_accumulation=2)
    assert largest_error(two_ranks.run(train, config, 2)[0], one_process("d2l", 2)) <= 1e-12


def test_parts_in_which_ranks_have_no_images_are_accumulated_too(three_ranks, one_process):
    """Three ranks with two images each, or one, in three parts."""
    settings = SCHEME["c"]
    config = _config("d2l", 2, "hybrid", settings=settings, gradient_accumulation=3)
    assert largest_error(three_ranks.run(train, config, 3)[0], one_process("d2l", 2)) <= 1e-12


@pytest.mark.parametrize(
    ("placement", "settings"), [("split", {}), ("hybrid", SCHEME["a"]), ("hybrid", SCHEME["c"])]
)
def test_plain_communication_trains_as_overlapped_does(two_ranks, one_process, placement, settings):
    plain = {**settings, "overlap_communication": False}
    config = _config("d2l", 2, placement, settings=plain)
    assert largest_error(two_ranks.run(train, config, 2)[0], one_process("d2l", 2)) <= 1e-10


def test_accumulated_gradients_of_replicas_equal_the_whole_batch(two_ranks, one_process):
    config = _config("d2l", 2, "ddp", gradient_accumulation=2)
    assert largest_error(two_ranks.run(train, config, 2)[0], one_process("d2l", 2)) <= 1e-10


@patch.dict(VARIANTS, NARROW)
def _evaluate(config, ranks):
    """The scores of the initial weights on 13 images; in the last batch there is one image."""
    trainer = _trainer(config, ranks)
    images = Synthetic("train", 13, classes=CLASSES, channels=1, height=28, width=28)
    return trainer.evaluate(batches_for_testing(config, trainer.mesh, images))


@pytest.mark.parametrize(
    ("placement", "pool", "settings"),
    [
        ("ddp", "two_ranks", {}),
        ("split", "two_ranks", {}),
        ("hybrid", "two_ranks", {}),
        ("hybrid", "three_ranks", SCHEME["b"]),
        ("hybrid", "four_ranks", {"classifier_ranks": 2}),
        ("split+hybrid", "four_ranks", {}),
    ],
)
def test_each_test_image_is_counted_once(request, one_rank, placement, pool, settings):
    [expected] = one_rank.run(_evaluate, _config("d2l", 2, "local"), 1)
    ranks = request.getfixturevalue(pool)
    found = ranks.run(_evaluate, _config("d2l", 2, placement, settings=settings), len(ranks.pipes))
    assert found == [found[0]] * len(ranks.pipes)
    assert found[0] == pytest.approx(expected, rel=1e-13, abs=0)
    assert float(expected["test/top5"] * 13).is_integer()


@patch.dict(VARIANTS, NARROW)
def _overflow_on_one_rank(config, ranks, name):
    """Two fp16 steps; in the first, the last rank alone has an infinite gradient."""
    trainer = _trainer(config, ranks)
    parameters = dict(trainer.model.named_parameters())
    before = {each: parameter.detach().clone() for each, parameter in parameters.items()}
    if trainer.mesh.rank == ranks - 1:
        hook = parameters[name].register_hook(lambda grad: torch.full_like(grad, torch.inf))
    scales, moved = [], []
    for step in range(2):
        trainer.train_step(_local_batch(trainer.mesh, step)).result()
        scales.append(trainer.scaler.get_scale())
        moved.append([each for each, p in parameters.items() if not torch.equal(p, before[each])])
        if trainer.mesh.rank == ranks - 1 and step == 0:
            hook.remove()
    finite = all(p.isfinite().all() for p in parameters.values())
    return scales, moved, finite


@pytest.mark.parametrize(
    ("placement", "pool", "settings", "name"),
    [
        ("split", "two_ranks", {}, "conv1.weight"),
        ("split", "two_ranks", {}, "fc6.weight"),
        ("hybrid", "two_ranks", {}, "fc6.weight"),
        ("hybrid", "two_ranks", SCHEME["c"], "fc7.bias"),
        ("hybrid", "four_ranks", {"classifier_ranks": 2}, "fc6.weight"),
        ("split+hybrid", "four_ranks", {}, "conv1.weight"),
        ("split+hybrid", "four_ranks", {}, "fc8.weight"),
    ],
)
def test_all_ranks_skip_the_step_in_which_one_overflows(request, placement, pool, settings, name):
    ranks = request.getfixturevalue(pool)
    config = _config("d2l", 2, placement, "fp16", settings=settings)
    everyone = ranks.run(_overflow_on_one_rank, config, len(ranks.pipes), name)
    assert everyone == [everyone[0]] * len(ranks.pipes)
    scales, (first, second), finite = everyone[0]
    assert scales[0] == 2.0**15, "the scale was halved"
    assert not first, "the weights stayed"
    assert len(second) == 16, "the next step moved them all"
    assert finite, "by momentum that was never written"
