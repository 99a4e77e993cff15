"""The one definition: parameter counts, sizes, errors, initial values and dropout."""

import pytest
import torch
from torchvision.models import alexnet as torchvision_alexnet

from common.errors import ReportedError
from model.alexnet import AlexNet
from model.initialization import SCHEMES, initialize
from model.layers import ACTIVATIONS, Dropout
from model.placement import Placement
from model.variants import VARIANTS
from planning.formulas import Net
from weights.names import in_torchvision
from weights.torchvision import to_torchvision


def build(variant, towers=1, classes=10, channels=1):
    return AlexNet(VARIANTS[variant], classes, channels, Placement(towers))


@pytest.mark.parametrize(
    ("variant", "towers", "classes", "channels", "expected"),
    [
        ("paper", 2, 1000, 3, 60_965_224),
        ("paper", 1, 1000, 3, 62_378_344),
        ("paper", 4, 1000, 3, 60_258_664),
        ("paper", 2, 10, 1, 56_885_962),
        ("paper", 1, 10, 1, 58_299_082),
        ("half", 1, 1000, 3, 59_798_312),
        ("torchvision", 1, 1000, 3, 61_100_840),
        ("torchvision", 2, 1000, 3, 60_209_960),
        ("zfnet", 1, 1000, 3, 62_357_608),
        ("d2l", 1, 10, 1, 46_764_746),
        ("d2l", 2, 10, 1, 45_351_626),
    ],
)
def test_parameter_count(variant, towers, classes, channels, expected):
    with torch.device("meta"):
        model = build(variant, towers, classes, channels)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [64, 65, 112, 224])
def test_any_input_from_64_px_works(variant, side):
    with torch.device("meta"):
        model = build(variant)
        assert model(torch.empty(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize(
    ("variant", "side", "expected"),
    [
        ("paper", 224, [(224, 55), (27, 27), (13, 13), (13, 13), (13, 13)]),
        ("caffe", 227, [(227, 55), (27, 27), (13, 13), (13, 13), (13, 13)]),
        ("zfnet", 224, [(224, 110), (54, 27), (13, 13), (13, 13), (13, 13)]),
    ],
)
def test_maps_have_the_published_sides(variant, side, expected):
    sides = []
    with torch.device("meta"):
        model = build(variant)
        for number in range(1, 6):
            model.get_submodule(f"conv{number}").register_forward_hook(
                lambda _, inputs, out: sides.append((inputs[0].shape[3], out.shape[3]))
            )
        model(torch.empty(1, 1, side, side))
    assert VARIANTS[variant].side == side
    assert sides == expected
    assert list(Net(variant, 1, 1, side, 10).sides().values()) == expected
    assert (sides[-1][1] - 3) // 2 + 1 == VARIANTS[variant].features


def test_a_smaller_input_is_refused_with_the_smallest_size():
    with torch.device("meta"):
        model = build("paper")
        with pytest.raises(ReportedError, match="64 px"):
            model(torch.empty(1, 1, 63, 63))


def test_every_variant_names_a_scheme_and_an_activation_of_the_tables():
    assert {variant.init for variant in VARIANTS.values()} <= SCHEMES.keys()
    assert {variant.activation for variant in VARIANTS.values()} <= ACTIVATIONS.keys()


def test_torchvision_weights_convert_both_ways_with_equal_logits():
    theirs = torchvision_alexnet(num_classes=10).eval()
    ours = build("torchvision", channels=3).eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[in_torchvision(name)] for name in ours.state_dict()})
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    back = to_torchvision(ours.state_dict())
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


def test_released_init():
    model = build("paper", 2)
    initialize(model, seed=0)
    assert abs(model.conv4.weight.std().item() - 0.03) < 1e-3
    assert abs(model.fc6.weight.std().item() - 0.01) < 1e-4
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, module in model.named_children():
        for _, bias in (p for p in module.named_parameters() if p[0] == "bias"):
            assert (bias == (1.0 if name in ones else 0.0)).all()


def test_the_text_s_init_is_narrower():
    model = build("paper", 2)
    initialize(model, seed=0, scheme="text")
    assert abs(model.conv4.weight.std().item() - 0.01) < 1e-3


def test_dropout_depends_on_the_image_not_on_its_batch():
    dropout = Dropout(0.5, range(4096), stream=6)
    keys = torch.tensor([11, 22, 33])
    together = dropout(torch.ones(3, 4096), keys)
    assert torch.equal(dropout(torch.ones(1, 4096), keys[1:2])[0], together[1])
    assert abs((together == 0).float().mean().item() - 0.5) < 0.02
    assert not torch.equal(together[0], together[1])


def test_towers_slice_one_dropout_mask():
    keys = torch.tensor([1, 2])
    whole = Dropout(0.5, range(8), stream=6)(torch.ones(2, 8), keys)
    second = Dropout(0.5, range(4, 8), stream=6)(torch.ones(2, 4), keys)
    assert torch.equal(whole[:, 4:], second)
