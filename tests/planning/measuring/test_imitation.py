"""The part of one rank, imitated: as large as the real one, and with as much work."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distributed.placement import MeshPlacement
from distributed.plan import Grid, Plan
from model.alexnet import AlexNet
from model.variants import VARIANTS
from planning.formulas import Net, parameters_per_rank
from planning.measuring.imitation import imitated_mesh
from planning.work import parts_of

NARROW = {name: replace(variant, hidden=512) for name, variant in VARIANTS.items()}
PLANS = {
    "local": Plan(2, Grid(1, 1), Grid(1, 1)),
    "ddp": Plan(2, Grid(1, 4), Grid(1, 4)),
    "split": Plan(2, Grid(2, 2), Grid(2, 2)),
    "split over 4": Plan(2, Grid(4, 1), Grid(4, 1)),
    "dense split": Plan(1, Grid(4, 1), Grid(4, 1)),
    "hybrid": Plan(2, Grid(1, 4), Grid(4, 1)),
    "groups": Plan(2, Grid(1, 4), Grid(2, 2)),
    "split+hybrid": Plan(2, Grid(2, 2), Grid(4, 1)),
}


@patch.dict(VARIANTS, NARROW)
@pytest.mark.parametrize("variant", ["paper", "caffe"])
@pytest.mark.parametrize("name", PLANS)
def test_it_holds_and_computes_what_the_formulas_say(variant, name):
    plan = PLANS[name]
    net = Net(variant, plan.towers, 3, 224, 10)
    mesh = imitated_mesh(plan, torch.device("cpu"))
    model = AlexNet(VARIANTS[variant], 10, 3, MeshPlacement(mesh))
    held = parameters_per_rank(net, plan)
    for layer, count in held.items():
        assert sum(each.numel() for each in getattr(model, layer).parameters()) == count
    images = 2
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(images, 3, 224, 224))
    counts = counter.get_flop_counts()
    parts = parts_of(net, plan, images * plan.features.replicas)
    for layer, part in list(parts.items())[1:]:  # conv1 computes blocks that zeros fill up
        assert sum(counts[f"AlexNet.{layer}"].values()) == 2 * part.macs * part.images
