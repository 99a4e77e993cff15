"""How the ranks hold each parameter, in every placement, on real ranks."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch import nn

from data.loading import Batch
from distributed.placement import MeshPlacement, PartialLinear
from distributed.plan import Grid, Plan
from model.alexnet import AlexNet
from model.placement import Placement
from model.variants import VARIANTS
from tests.ranks import mesh_of
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.trainer import Trainer, build_model

CLASSES, HIDDEN = 10, 24
POOLS = {1: "one_rank", 2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}
PLANS = {
    "local": Plan(2, Grid(1, 1), Grid(1, 1)),
    "ddp on 2": Plan(1, Grid(1, 2), Grid(1, 2)),
    "split on 2": Plan(2, Grid(2, 1), Grid(2, 1)),
    "split on 4, 2 replicas": Plan(2, Grid(2, 2), Grid(2, 2)),
    "dense split on 4": Plan(1, Grid(4, 1), Grid(4, 1)),
    "hybrid on 2": Plan(1, Grid(1, 2), Grid(2, 1)),
    "hybrid on 3": Plan(1, Grid(1, 3), Grid(3, 1)),
    "hybrid on 4": Plan(2, Grid(1, 4), Grid(4, 1)),
    "hybrid on 4, in 2 groups": Plan(2, Grid(1, 4), Grid(2, 2)),
    "split+hybrid on 4": Plan(2, Grid(2, 2), Grid(4, 1)),
}
FORM = dataclasses.replace(VARIANTS["torchvision"], hidden=HIDDEN)
plans = pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))


def _run(request, plan, function, *arguments):
    """Each rank's result, in rank order."""
    return request.getfixturevalue(POOLS[plan.world_size]).run(function, plan, *arguments)


def _net(plan):
    placement = MeshPlacement(mesh_of(plan))
    return AlexNet(FORM, CLASSES, 1, placement)


def _full_shapes(towers):
    """The parameters of one process."""
    net = AlexNet(FORM, CLASSES, 1, Placement(towers))
    return {name: parameter.shape for name, parameter in net.named_parameters()}


def _stage(parameter):
    return "conv" if parameter.startswith("conv") else "fc"


# --- Rows -----------------------------------------------------------------------------------------

ROWS = {
    "split on 4, 2 replicas": {
        "conv": (0, [[0, 1], [2, 3]], [[0, 2], [1, 3]]),
        "fc": (0, [[0, 1], [2, 3]], [[0, 2], [1, 3]]),
    },
    "hybrid on 4": {
        "conv": (0, [[0], [1], [2], [3]], [[0, 1, 2, 3]]),
        "fc": (0, [[0, 1, 2, 3]], [[0], [1], [2], [3]]),
    },
    "hybrid on 4, in 2 groups": {
        "conv": (0, [[0], [1], [2], [3]], [[0, 1, 2, 3]]),
        "fc": (0, [[0, 1], [2, 3]], [[0, 2], [1, 3]]),
    },
    "split+hybrid on 4": {
        "conv": (0, [[0, 1], [2, 3]], [[0, 2], [1, 3]]),
        "fc": (0, [[0, 1, 2, 3]], [[0], [1], [2], [3]]),
    },
}
"""(dim, groups of slices, groups of copies) of a stage's parameters; fc8's dim is another."""


def _rows(plan):
    """(dim, slices, copies) of each parameter, the groups as lists of ranks."""
    net = _net(plan)
    rows = {}
    for name, _ in net.named_parameters():
        row = net.placement.sharding(name)
        rows[name] = (
            row.dim,
            dist.get_process_group_ranks(row.slices.group),
            dist.get_process_group_ranks(row.copies.group),
        )
    return rows


def _of(rank, groups):
    return next(group for group in groups if rank in group)


@pytest.mark.parametrize("name", ROWS)
def test_a_parameters_row_names_its_dimension_slices_and_copies(request, name):
    for rank, rows in enumerate(_run(request, PLANS[name], _rows)):
        for parameter, (dim, slices, copies) in rows.items():
            stage_dim, all_slices, all_copies = ROWS[name][_stage(parameter)]
            assert dim == {"fc8.weight": 1, "fc8.bias": None}.get(parameter, stage_dim)
            assert slices == _of(rank, all_slices)
            assert copies == _of(rank, all_copies)


# --- Slices ---------------------------------------------------------------------------------------


def _numbered(shape):
    return torch.arange(shape.numel(), dtype=torch.float64).view(shape)


def _slices(plan):
    """The numbers that this rank's slice of each parameter has, if all returns whole from it."""
    net = _net(plan)
    full_shapes = _full_shapes(plan.towers)
    slices = {}
    for name, parameter in net.named_parameters():
        full = _numbered(full_shapes[name])
        slices[name] = net.placement.shard(name, full)
        assert slices[name].shape == parameter.shape
        assert net.placement.full_shape(name, parameter.shape) == full.shape
        assert torch.equal(net.placement.unshard(name, slices[name]), full)
        layout = torch.channels_last if full.dim() == 4 else torch.contiguous_format
        part = slices[name].contiguous(memory_format=layout)
        assert torch.equal(net.placement.unshard(name, part), full)
    return slices


@plans
def test_slices_return_whole_and_each_copy_holds_every_number_once(request, plan):
    results = _run(request, plan, _slices)
    for name, shape in _full_shapes(plan.towers).items():
        grid = plan.features if _stage(name) == "conv" else plan.classifier
        for copy in grid.copies():
            held = torch.cat([results[rank][name].flatten() for rank in copy])
            times = grid.shards if name == "fc8.bias" else 1
            assert torch.equal(held.long().bincount(), torch.full((shape.numel(),), times))


# --- Memory ---------------------------------------------------------------------------------------


def _held(plan, placement, settings):
    """Parameters and momentum on this rank, by stage, after a step."""
    config = Config.model_validate(
        {
            "variant": "torchvision",
            "towers": plan.towers,
            "placement": placement,
            "net": {"hidden": HIDDEN},
            "data": {"size": 64},
            **settings,
        }
    )
    mesh = mesh_of(config.plan(plan.world_size))
    assert mesh.plan == plan
    trainer = Trainer(
        config, mesh, build_model(config, mesh, CLASSES, 1), make_preprocess(config, 1), 1
    )
    replicas = plan.features.replicas
    images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0]), torch.tensor([mesh.replica]))
    indices = [torch.tensor([replica]) for replica in range(replicas)]
    trainer.train_step(LocalBatch(batch, indices, replicas)).result()
    momentum = {p: state["momentum_buffer"] for p, state in trainer.optimizer.state.items()}
    numbers = {"conv": [0, 0], "fc": [0, 0]}
    for name, parameter in trainer.model.named_parameters():
        held = numbers[_stage(name)]
        held[0] += parameter.numel()
        held[1] += momentum[parameter].numel()
    return numbers


@pytest.mark.parametrize(
    ("name", "placement", "settings"),
    [
        ("ddp on 2", "ddp", {}),
        ("split on 2", "split", {}),
        ("hybrid on 2", "hybrid", {}),
        ("hybrid on 3", "hybrid", {}),
        ("hybrid on 4", "hybrid", {}),
        ("hybrid on 4, in 2 groups", "hybrid", {"classifier_ranks": 2}),
        ("split+hybrid on 4", "split+hybrid", {}),
    ],
)
def test_a_rank_holds_its_shards_parts_of_parameters_and_momentum(
    request, name, placement, settings
):
    """All but fc8's bias, which is whole on every rank."""
    plan = PLANS[name]
    totals = {"conv": 0, "fc": 0}
    for parameter, shape in _full_shapes(plan.towers).items():
        totals[_stage(parameter)] += shape.numel()
    convolutions = totals["conv"] // plan.features.shards
    connected = (totals["fc"] - CLASSES) // plan.classifier.shards + CLASSES
    for numbers in _run(request, plan, _held, placement, settings):
        assert numbers == {"conv": [convolutions] * 2, "fc": [connected] * 2}


# --- The last layer -------------------------------------------------------------------------------


def _last_layer():
    """Whether the sum of all shards' outputs is the whole layer's, and the bias's gradient too."""
    n, rank = dist.get_world_size(), dist.get_rank()
    torch.manual_seed(0)
    whole, x = nn.Linear(3 * n, 5).double(), torch.randn(2, 3 * n, dtype=torch.float64)
    expected = whole(x)
    weight_grad, bias_grad = torch.autograd.grad(expected.sin().sum(), [whole.weight, whole.bias])
    own = PartialLinear(3, 5, adds_bias=rank == 0).double()
    own.load_state_dict({"weight": whole.weight.chunk(n, 1)[rank], "bias": whole.bias})
    found = own(x.chunk(n, 1)[rank])
    total = found.detach().clone()
    dist.all_reduce(total)
    found.backward(expected.detach().cos())
    pairs = [
        (total, expected),
        (own.weight.grad, weight_grad.chunk(n, 1)[rank]),
        (own.bias.grad, bias_grad),
    ]
    return [torch.allclose(a, b, rtol=1e-13, atol=1e-13) for a, b in pairs]


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_of_the_last_layer_add_its_bias_once_and_all_get_its_gradient(request, ranks):
    found = request.getfixturevalue(POOLS[ranks]).run(_last_layer)
    assert found == [[True] * 3] * ranks
