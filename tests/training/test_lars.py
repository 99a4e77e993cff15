"""LARS against its equations, on layers small enough to check by hand."""

import copy

import pytest
import torch
from torch import nn

from training.config import OptimizerConfig
from training.lars import sums_of_squares
from training.optimization import make_optimizer

RATE, TRUST, DECAY = 2.0, 0.01, 0.1


def _net():
    generator = torch.Generator().manual_seed(0)
    net = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(3, 2)}).double()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net


def _optimizer(net, **settings):
    usual = {"learning_rate": RATE, "trust_coefficient": TRUST, "weight_decay": DECAY}
    config = OptimizerConfig.model_validate({"name": "lars", "momentum": 0.0, **usual, **settings})
    features, classifier = (nn.ModuleDict({name: net[name]}) for name in "ab")
    return make_optimizer(features, classifier, config, may_skip=False)


def _flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def _layer_step(layer):
    """LARS's change of a layer's parameters, as one vector."""
    weight = _flat(layer.parameters()).detach()
    gradient = _flat(parameter.grad for parameter in layer.parameters())
    ratio = TRUST * weight.norm() / (gradient.norm() + DECAY * weight.norm())
    return -RATE * ratio * (gradient + DECAY * weight)


def test_a_step_is_the_gradient_with_decay_times_the_trust_ratio():
    net = _net()
    before, wanted = copy.deepcopy(net), {name: _layer_step(net[name]) for name in "ab"}
    _optimizer(net).step()
    for name in "ab":
        moved = _flat(net[name].parameters()) - _flat(before[name].parameters())
        torch.testing.assert_close(moved, wanted[name], rtol=1e-12, atol=0)


def test_the_velocity_adds_up_scaled_gradients():
    net = _net()
    optimizer = _optimizer(net, momentum=0.5)
    first = _layer_step(net["a"])
    optimizer.step()
    for parameter, fresh in zip(net.parameters(), _net().parameters(), strict=True):
        parameter.grad = fresh.grad
    before, second = _flat(net["a"].parameters()).detach(), _layer_step(net["a"])
    optimizer.step()
    moved = _flat(net["a"].parameters()) - before
    torch.testing.assert_close(moved, 0.5 * first + second, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_step_does_not_depend_on_the_scale_of_the_gradients(scale):
    usual, scaled = _net(), _net()
    for parameter in scaled.parameters():
        parameter.grad *= scale
    for net in (usual, scaled):
        _optimizer(net, weight_decay=0.0).step()
    for one, other in zip(usual.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0)


def test_a_layer_without_gradients_stays():
    net = _net()
    for parameter in net["a"].parameters():
        parameter.grad = None
    before = copy.deepcopy(net)
    _optimizer(net).step()
    assert torch.equal(net["a"].weight, before["a"].weight)
    assert not torch.equal(net["b"].weight, before["b"].weight)


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_a_layer_of_zeros_and_gradients_of_zeros_give_finite_weights(decay):
    net = _net()
    for parameter in net["a"].parameters():
        parameter.data.zero_()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    _optimizer(net, weight_decay=decay).step()
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_the_norm_of_a_large_layer_is_right_in_fp32():
    """torch's own norm of all these numbers at once is wrong by more than 1e-4."""
    weight = torch.randn(2048, 4096, generator=torch.Generator().manual_seed(0))
    [found] = sums_of_squares([weight])
    assert float(found) == pytest.approx(float(weight.double().square().sum()), rel=1e-6)
