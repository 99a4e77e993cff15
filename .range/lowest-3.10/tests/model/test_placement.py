"""A shard's units and inputs, against the grouped layer of one process."""

import pytest
import torch
from torch import nn

from model.layers import GroupedLinear
from model.placement import Layers, Reads
from model.variants import Window

NUMBERS = (1, 2, 3, 4, 6, 8)
CASES = [
    (towers, shards, reads)
    for towers in NUMBERS
    for shards in NUMBERS
    for reads in Reads
    if reads is Reads.ALL or towers % shards == 0 or shards % towers == 0
]
"""A layer whose towers read themselves alone is divided by towers, or each tower by shards."""
WIDTHS = 24, 48
"""Inputs and units of a layer: every number above divides them."""


def _shards(towers, shards):
    return [Layers(towers, shards, index) for index in range(shards)]


def _grouped_layer(towers, reads):
    """The layer in one process, (units, inputs): 1 where a unit reads an input."""
    inputs, units = WIDTHS
    groups = Layers(towers).groups_here(reads)
    block = torch.ones(units // groups, inputs // groups, dtype=torch.bool)
    return torch.block_diag(*[block] * groups).bool()


def test_one_process_reads_as_grouped_modules_do():
    """``_grouped_layer``, to which shards are compared, is what the modules compute."""
    inputs, units = WIDTHS
    for towers in NUMBERS:
        for reads in Reads:
            x = torch.zeros(1, inputs)
            linear = Layers(towers).linear("fc", inputs, units, reads)
            conv = Layers(towers).conv("conv", inputs, units, Window(1), reads)
            for layer, shape in ((linear, (1, inputs)), (conv, (1, inputs, 1, 1))):
                nn.init.ones_(layer.weight)
                read = torch.autograd.functional.jacobian(layer, x.view(shape)) != 0
                assert torch.equal(read.view(units, inputs), _grouped_layer(towers, reads))


@pytest.mark.parametrize("towers", NUMBERS)
def test_shards_hold_every_unit_once_in_order(towers):
    for shards in NUMBERS:
        held = [unit for each in _shards(towers, shards) for unit in each.units(WIDTHS[1])]
        assert held == list(range(WIDTHS[1]))


@pytest.mark.parametrize(("towers", "shards", "reads"), CASES)
def test_a_shard_reads_what_its_units_read_in_one_process(towers, shards, reads):
    reading = _grouped_layer(towers, reads)
    for each in _shards(towers, shards):
        units = each.units(WIDTHS[1])
        read = reading[units.start : units.stop].any(0).nonzero().flatten().tolist()
        assert list(each.inputs(WIDTHS[0], reads)) == read


@pytest.mark.parametrize(("towers", "shards", "reads"), CASES)
def test_a_shards_groups_are_those_of_its_units_and_a_groups_spread_is_the_shards_it_has(
    towers, shards, reads
):
    groups = 1 if reads is Reads.ALL else towers
    group_of = [unit * groups // WIDTHS[1] for unit in range(WIDTHS[1])]
    here = [{group_of[unit] for unit in each.units(WIDTHS[1])} for each in _shards(towers, shards)]
    for each, own in zip(_shards(towers, shards), here, strict=True):
        assert each.groups(reads) == groups
        assert each.groups_here(reads) == len(own)
        assert {each.spread(reads)} == {sum(group in other for other in here) for group in own}


@pytest.mark.parametrize(("towers", "shards", "reads"), CASES)
def test_a_layer_lacks_inputs_only_where_its_groups_are_spread(towers, shards, reads):
    for each in _shards(towers, shards):
        held = each.units(WIDTHS[0])  # of the layer before, with the same shards
        lacks = set(each.inputs(WIDTHS[0], reads)) - set(held)
        assert bool(lacks) == (each.spread(reads) > 1)


def _computed_by(each, kind, reads):
    """A shard's layer."""
    if kind == "conv":
        return each.conv("conv3", *WIDTHS, Window(3, 1, 1), reads)
    return each.linear("fc7", *WIDTHS, reads, gathered=True)


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize(("towers", "shards", "reads"), CASES)
def test_shards_of_a_layer_compute_their_units_of_it(kind, towers, shards, reads):
    if kind == "conv" and Layers(towers, shards).spread(reads) > 1:
        with pytest.raises(NotImplementedError):
            _computed_by(Layers(towers, shards), kind, reads)
        return
    whole = _computed_by(Layers(towers), kind, reads)
    x = torch.randn((2, WIDTHS[0]) + ((3, 3) if kind == "conv" else ()))
    expected = whole(x)
    for each in _shards(towers, shards):
        layer = _computed_by(each, kind, reads)
        layer.load_state_dict(
            {name: full.chunk(shards)[each.index] for name, full in whole.state_dict().items()}
        )
        inputs = each.inputs(WIDTHS[0], reads)
        found = layer(x[:, inputs.start : inputs.stop])
        torch.testing.assert_close(found, expected.chunk(shards, 1)[each.index])


def test_a_linear_layer_whose_inputs_are_apart_needs_ranks_to_gather_them():
    with pytest.raises(NotImplementedError):
        Layers(1, 2).linear("fc7", *WIDTHS, Reads.ALL)


def test_one_group_is_a_plain_linear_layer():
    assert type(Layers(4).linear("fc7", *WIDTHS, Reads.ALL)) is nn.Linear
    grouped = Layers(4).linear("fc7", *WIDTHS, Reads.OWN)
    assert isinstance(grouped, GroupedLinear)
    assert grouped.weight.shape == (WIDTHS[1], WIDTHS[0] // 4)


@pytest.mark.parametrize("shards", NUMBERS)
def test_the_first_layer_reads_whole_images_and_the_last_sums_its_own_inputs(shards):
    for each in _shards(2, shards):
        assert each.first_conv(3, WIDTHS[1], Window(3)).weight.shape[:2] == (
            WIDTHS[1] // shards,
            3,
        )
        assert each.last_linear(WIDTHS[0] // shards, 5).weight.shape == (5, WIDTHS[0] // shards)
