"""Figure 3 of the paper: drawn tower by tower, counted, alike from a run and its checkpoint."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from common.errors import ReportedError
from model.alexnet import AlexNet
from model.first_layer import Kinds, count_kinds
from model.initialization import SCHEMES, initial_kernels, initialize
from model.placement import Placement
from model.variants import VARIANTS
from recording.kernels import (
    _montage,
    draw_kernels,
    in_words,
    kinds_of_towers,
    panels_of,
    summary_of,
)
from recording.source import read_source
from tests.calls import call, refusal
from tests.runs import summary_of as run_summary
from weights.files import write_file


def _two_towers():
    """48 grey kernels, then 48 red and green ones."""
    x = torch.arange(11).float() - 5
    blob = torch.exp(-(x[:, None].square() + x.square()) / 8)
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]).repeat_interleave(48, 0)
    return colours[:, :, None, None] * blob


def test_the_kinds_are_those_of_each_tower():
    kinds = kinds_of_towers(_two_towers(), 2)
    assert kinds == [Kinds(0, 48, 0), Kinds(48, 0, 0)]
    assert summary_of(kinds) == {
        "kernels_color_0": 0,
        "kernels_grey_0": 48,
        "kernels_noise_0": 0,
        "kernels_color_1": 48,
        "kernels_grey_1": 0,
        "kernels_noise_1": 0,
    }
    assert kinds_of_towers(_two_towers()[:, :1], 2) == []


def test_the_first_panel_is_grey_and_the_second_in_colour(tmp_path):
    draw_kernels(panels_of(_two_towers(), 2), tmp_path / "kernels.png", "made up")
    with Image.open(tmp_path / "kernels.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colourful = np.ptp(pixels, axis=2).max(1) > 100
    assert not colourful[: len(pixels) // 2].any()
    assert colourful[len(pixels) // 2 :].any()


def test_what_training_changed_is_drawn_below_the_kernels(tmp_path):
    """Noise of which training has made the kernels of one tower red and green."""
    noise = torch.randn(96, 1, 11, 11).expand(-1, 3, -1, -1)
    conv1 = noise + 0.01 * _two_towers()
    draw_kernels(panels_of(conv1, 2, initial=noise), tmp_path / "kernels.png", "made up")
    with Image.open(tmp_path / "kernels.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colourful = np.ptp(pixels, axis=2).max(1) > 100
    quarters = np.array_split(colourful, 4)
    assert [quarter.any() for quarter in quarters] == [False, False, False, True]


def test_initial_kernels_are_those_of_the_net():
    for scheme in SCHEMES:
        net = AlexNet(VARIANTS["paper"], 10, 3, Placement(2))
        initialize(net, 7, scheme)
        assert torch.equal(initial_kernels(net.conv1.weight.shape, 7, scheme), net.conv1.weight)


@pytest.mark.parametrize(
    ("kernels", "channels", "shape"), [(48, 3, (36, 192, 3)), (50, 1, (48, 192))]
)
def test_the_montage_has_sixteen_kernels_in_a_row(kernels, channels, shape):
    weights = torch.randn(kernels, channels, 11, 11)
    grid = _montage(weights)
    assert grid.shape == shape
    assert grid.min() >= 0
    assert grid.max() <= 1
    tile = 0.5 + weights[17] / (2 * weights[17].abs().max())
    found = torch.from_numpy(grid[12:23, 12:23])
    torch.testing.assert_close(found, tile.permute(1, 2, 0).squeeze(-1))


@pytest.mark.parametrize("towers", [1, 2, 4])
def test_any_number_of_towers_and_a_grey_net_are_drawn(tmp_path, towers):
    panels = panels_of(torch.randn(96, 1, 11, 11), towers)
    draw_kernels(panels, tmp_path / "kernels.png", "grey")
    assert Image.open(tmp_path / "kernels.png").size[0] == 1000


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ReportedError, match=r"kernels\.png"):
        draw_kernels(panels_of(_two_towers(), 2), tmp_path / "nowhere" / "kernels.png", "made up")


@pytest.mark.programs
def test_a_split_run_gathers_and_counts_both_towers_kernels(split_run):
    folder, out = split_run
    checkpoint = max((folder / "checkpoints").iterdir())
    conv1 = load_file(checkpoint / "model.safetensors")["conv1.weight"]
    assert conv1.shape == (96, 3, 11, 11)
    summary = run_summary(folder)
    for tower, kernels in enumerate(conv1.chunk(2)):
        counted = [summary[f"kernels_{kind}_{tower}"] for kind in Kinds._fields]
        assert counted == list(count_kinds(kernels))
        assert in_words([Kinds(0, 0, 0)] * tower + [Kinds(*counted)])[tower] in out


@pytest.mark.programs
def test_the_program_draws_the_same_from_the_run_and_from_its_checkpoint(split_run, tmp_path):
    folder, _ = split_run
    checkpoint = max((folder / "checkpoints").iterdir())
    write_file(read_source(checkpoint).weights, tmp_path / "net.safetensors")
    pictures = []
    for source in (folder, checkpoint, tmp_path / "net.safetensors"):
        pictures.append(tmp_path / f"{source.name}.png")
        status, out = call("kernels", source, pictures[-1])
        assert status == 0
        assert "tower 1: " in out
    assert len({Image.open(picture).size for picture in pictures}) == 1
    assert Image.open(folder / "kernels.png").size > Image.open(pictures[0]).size, (
        "the changes, too"
    )


@pytest.mark.programs
def test_the_program_says_that_chance_does_not_part_colour_from_grey(split_run, tmp_path):
    weights = read_source(split_run[0]).weights
    weights.tensors["conv1.weight"] = _two_towers()
    write_file(weights, tmp_path / "net.safetensors")
    status, out = call("kernels", tmp_path / "net.safetensors", tmp_path / "kernels.png")
    assert status == 0
    [chance] = re.findall(r"p = (\S+)", out)
    assert float(chance) == pytest.approx(2 / math.comb(96, 48), rel=0.05)


@pytest.mark.programs
def test_the_program_draws_several_nets_and_what_chance_would_make_of_them(split_run, tmp_path):
    weights = read_source(split_run[0]).weights
    weights.tensors["conv1.weight"] = _two_towers()
    sources = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for source in sources:
        write_file(weights, source)
    status, out = call(
        "kernels", *sources, tmp_path / "kernels.png", "--chance", tmp_path / "chance.png"
    )
    assert status == 0
    *each, together = map(float, re.findall(r"p = (\S+)", out))
    assert len(each) == 2
    assert together < min(each)
    assert Image.open(tmp_path / "kernels.png").size[1] > 4 * 0.62 * 3 * 100  # towers of three rows
    assert Image.open(tmp_path / "chance.png").size == (800, 380)


@pytest.mark.parametrize(
    ("source", "picture", "named"),
    [
        ("nowhere", "kernels.png", "nowhere"),
        (".", "kernels.png", "checkpoint"),
        ("nowhere", "kernels.jpg", ".png"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, source, picture, named):
    assert named in refusal("kernels", tmp_path / source, tmp_path / picture)
    assert list(tmp_path.iterdir()) == []
