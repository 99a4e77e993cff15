"""Files of weights: what comes back, and what is refused and never executed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import alexnet as torchvision_alexnet

from common.errors import ReportedError
from model.alexnet import AlexNet
from model.placement import Placement
from model.variants import net_form
from tests.disks import files_of_at_most
from tests.weights.nets import some_weights
from weights.files import READERS, WRITERS, check_target, read_file, write_file
from weights.names import NAMES
from weights.net import make_weights
from weights.torchvision import to_torchvision

KNOWN = {
    "class_names": [f"thing {number}" for number in range(10)],
    "preprocessing": {"size": 96, "mean": [1.0, 2.0, 3.0], "std": 4.0},
}
small = pytest.mark.usefixtures("small_nets")


def refused(path):
    with pytest.raises(ReportedError) as caught:
        read_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@small
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".NPZ"])
@pytest.mark.parametrize(
    ("variant", "towers", "channels"),
    [("paper", 2, 3), ("paper", 32, 1), ("half", 1, 1), ("zfnet", 2, 3)],
)
def test_all_that_is_known_comes_back(tmp_path, suffix, variant, towers, channels):
    weights = some_weights(variant, towers, channels=channels, **KNOWN)
    write_file(weights, tmp_path / f"net{suffix}")
    back = read_file(tmp_path / f"net{suffix}")
    assert (back.variant, back.towers, back.channels) == (variant, towers, channels)
    assert (back.class_names, back.preprocessing) == tuple(KNOWN.values())
    for name, tensor in weights.tensors.items():
        assert torch.equal(back.tensors[name], tensor)


@small
def test_safetensors_are_full_tensors_with_facts_as_text(tmp_path):
    write_file(some_weights("paper", **KNOWN), tmp_path / "net.safetensors")
    assert load_file(tmp_path / "net.safetensors").keys() == set(NAMES)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["variant"], metadata["towers"], metadata["classes"]) == ("paper", "2", "10")
    assert json.loads(metadata["class_names"]) == KNOWN["class_names"]


@small
def test_an_archive_holds_what_pycaffe_would_give(tmp_path):
    weights = some_weights("caffe")
    write_file(weights, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {*NAMES, "metadata"}
        bgr = archive["conv1.weight"][:, ::-1]
        assert archive["conv2.weight"].shape == (256, 48, 5, 5)
    assert np.array_equal(bgr, weights.tensors["conv1.weight"].numpy())


@small
def test_an_archive_without_a_description_is_caffe_s_net(tmp_path):
    weights = some_weights("caffe")
    arrays = {name: tensor.double().numpy() for name, tensor in weights.tensors.items()}
    np.savez_compressed(tmp_path / "net.npz", **arrays)
    back = read_file(tmp_path / "net.npz")
    assert back.variant == "caffe"
    assert torch.equal(back.tensors["conv1.weight"].flip(1), weights.tensors["conv1.weight"])


def test_torchvision_s_weights_give_its_logits_both_ways(tmp_path, record_property):
    theirs = torchvision_alexnet(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    weights = read_file(tmp_path / "theirs.pth")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(images)
        found = weights.model()(images)
    record_property("largest error", float((found - expected).abs().max()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    write_file(weights, tmp_path / "ours.pth")
    again = torchvision_alexnet(num_classes=10).eval()
    again.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True))
    with torch.no_grad():
        assert torch.equal(again(images), expected)


@small
@pytest.mark.parametrize(("variant", "towers"), [("d2l", 1), ("torchvision", 2)])
def test_only_torchvision_s_net_becomes_a_pth(tmp_path, variant, towers):
    with pytest.raises(ReportedError, match=rf"\b{variant}\b.*\b{towers}\b"):
        write_file(some_weights(variant, towers), tmp_path / "net.pth")


@small
def test_imagenet_s_names_go_with_a_thousand_classes(tmp_path):
    write_file(some_weights("caffe", classes=1000), tmp_path / "net.caffemodel")
    names = read_file(tmp_path / "net.caffemodel").class_names or []
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


@small
def test_the_variant_is_told_by_shapes_that_only_one_has():
    for variant in ("half", "d2l", "torchvision", "zfnet"):
        tensors = some_weights(variant).tensors
        assert make_weights(Path("bare"), tensors).variant == variant
    bare = make_weights(Path("bare"), some_weights("paper").tensors)
    assert bare.variant is None
    with pytest.raises(ReportedError, match="paper, caffe, caffenet"):
        bare.model()
    assert bare.of_variant("caffe").variant == "caffe"


@small
def test_a_net_is_not_taken_for_another():
    with pytest.raises(ReportedError, match=r"paper.*caffe"):
        some_weights("paper").of_variant("caffe")
    with pytest.raises(ReportedError, match=r"bare.*d2l"):
        make_weights(Path("bare"), some_weights("paper").tensors).of_variant("d2l")
    with pytest.raises(ReportedError, match=r"vgg.*paper"):
        make_weights(Path("bare"), some_weights("paper").tensors, "vgg")


@small
def test_half_precision_becomes_single_and_double_stays(tmp_path):
    tensors = some_weights().tensors
    for dtype, expected in (("bfloat16", "float32"), ("float16", "float32"), ("float64",) * 2):
        cast = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
        save_file(cast, tmp_path / "net.safetensors")
        found = read_file(tmp_path / "net.safetensors").tensors
        assert {str(tensor.dtype) for tensor in found.values()} == {f"torch.{expected}"}


@small
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".pt", ".caffemodel"])
@pytest.mark.parametrize("name", ["conv1.weight", "fc8.bias"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_named_at_reading(tmp_path, suffix, name, number):
    variant, towers = ("torchvision", 1) if suffix.startswith(".pt") else ("caffe", 2)
    weights = some_weights(variant, towers)
    weights.tensors[name].flatten()[-1] = number
    write_file(weights, tmp_path / f"net{suffix}")
    assert name in refused(tmp_path / f"net{suffix}")


@small
def test_a_number_that_single_precision_cannot_hold_is_named(tmp_path):
    tensors = {name: tensor.double() for name, tensor in some_weights().tensors.items()}
    tensors["fc7.bias"][3] = 1e300
    save_file(tensors, tmp_path / "net.safetensors")
    assert "fc7.bias" in refused(tmp_path / "net.safetensors")


def _flat_views(state):
    """The same tensors as parts of one tensor."""
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    return {name: part.view_as(state[name]) for name, part in zip(state, parts, strict=True)}


def _turned(tensor):
    """The same numbers in another order of memory."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


FORMS: dict[str, Any] = {
    "parameters": lambda state: {n: torch.nn.Parameter(t) for n, t in state.items()},
    "with gradients": lambda state: {n: t.clone().requires_grad_() for n, t in state.items()},
    "turned in memory": lambda state: {n: _turned(t) for n, t in state.items()},
    "of one storage": _flat_views,
    "double": lambda state: {n: t.double() for n, t in state.items()},
    "below module.": lambda state: {f"module.{n}": t for n, t in state.items()},
    "compiled, in DDP": lambda state: {f"module._orig_mod.{n}": t for n, t in state.items()},
    "in state_dict": lambda state: {"state_dict": state, "epoch": 3, "best": torch.zeros(())},
    "in a checkpoint": lambda state: {
        "model_state_dict": {f"module.{n}": t for n, t in state.items()},
        "optimizer": {"state": {0: {"exp_avg": state["features.0.weight"]}}, "groups": []},
    },
    "in net, in model": lambda state: {"net": {"model": state}},
}


@small
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.PTH", "net.pth.tar"])
def test_a_state_dict_is_read_in_every_form_and_can_be_written(tmp_path, form, name):
    weights = some_weights("torchvision", 1)
    torch.save(FORMS[form](to_torchvision(weights.tensors)), tmp_path / name)
    back = read_file(tmp_path / name)
    assert back.variant == "torchvision"
    for key, tensor in back.tensors.items():
        assert type(tensor) is torch.Tensor
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert torch.equal(tensor, weights.tensors[key].to(tensor.dtype))
    for suffix in (".npz", ".safetensors", ".pth"):
        write_file(back, tmp_path / f"again{suffix}")
        assert read_file(tmp_path / f"again{suffix}").variant == "torchvision"


@small
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_torchvision_s_names_are_read_in_every_format(tmp_path, prefix):
    weights = some_weights("torchvision", 1)
    state = {f"{prefix}{name}": t for name, t in to_torchvision(weights.tensors).items()}
    save_file(state, tmp_path / "net.safetensors")
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in state.items()}
    np.savez(tmp_path / "net.npz", **arrays)
    for suffix in (".safetensors", ".npz"):
        back = read_file(tmp_path / f"net{suffix}")
        assert (back.variant, (back.preprocessing or {})["size"]) == ("torchvision", 224)
        assert all(torch.equal(back.tensors[name], t) for name, t in weights.tensors.items())


@small
def test_our_own_state_dict_is_read(tmp_path):
    weights = some_weights("d2l")
    torch.save(weights.model().state_dict(), tmp_path / "net.pt")
    back = read_file(tmp_path / "net.pt")
    assert back.variant == "d2l"
    assert all(torch.equal(back.tensors[name], t) for name, t in weights.tensors.items())


def _without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@small
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s: {"model": s, "ema": dict(s)}, "'ema.' and 'model.'"),
        (lambda s: {"net": _without(s, "classifier.6.bias")}, "net.classifier.6.bias"),
        (lambda s: {**s, "features.1.weight": torch.ones(1)}, "features.1.weight"),
        (lambda s: {**s, "classifier.6.bias": torch.ones(10).to_sparse()}, "sparse"),
        (lambda s: {**s, "classifier.6.bias": torch.ones(10, device="meta")}, "meta"),
        (lambda s: {**s, "classifier.6.bias": torch.ones(10, dtype=torch.int8)}, "int8"),
        (lambda s: {**s, "classifier.6.bias": torch.ones(10, dtype=torch.cfloat)}, "complex64"),
    ],
)
def test_a_state_dict_of_something_else_is_refused_with_what_it_is(tmp_path, spoil, named):
    torch.save(spoil(to_torchvision(some_weights("torchvision", 1).tensors)), tmp_path / "net.pth")
    assert named in refused(tmp_path / "net.pth")


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    ring: dict[Any, Any] = {}
    ring.update(dict.fromkeys(range(100), ring))
    torch.save(ring, tmp_path / "net.pth")
    refused(tmp_path / "net.pth")


@small
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda t: t.pop("fc8.bias"), "fc8.bias"),
        (lambda t: t.update(other=torch.zeros(1)), "other"),
        (lambda t: t.update({"fc8.bias": torch.zeros(3)}), "fc8.bias has the shape (3,)"),
        (lambda t: t.update({"fc8.bias": torch.zeros(10).int()}), "fc8.bias"),
        (lambda t: t.update({"conv2.weight": torch.zeros(256, 0, 5, 5)}), "net.safetensors"),
        (lambda t: t.update({"conv2.weight": torch.zeros(())}), "net.safetensors"),
        (lambda t: t.update({"conv2.weight": torch.zeros(256, 95, 5, 5)}), "conv2.weight"),
        (lambda t: t.update({"fc8.weight": torch.zeros(0, 32)}), "net.safetensors"),
    ],
)
def test_what_is_no_alexnet_is_refused_with_the_difference(tmp_path, spoil, named):
    tensors = dict(some_weights().tensors)
    spoil(tensors)
    save_file(tensors, tmp_path / "net.safetensors")
    assert named in refused(tmp_path / "net.safetensors")


@small
@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"variant": "vgg"}, "vgg"),
        ({"class_names": "[1, 2]"}, "class_names"),
        ({"class_names": '["one"]'}, "10"),
        ({"class_names": "["}, "net.safetensors"),
        ({"preprocessing": "7"}, "preprocessing"),
        ({"preprocessing": "[" * 100_000}, "net.safetensors"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(tmp_path, metadata, named):
    save_file(some_weights().tensors, tmp_path / "net.safetensors", metadata)
    assert named in refused(tmp_path / "net.safetensors")


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"model": {}}, torch.nn.ReLU()])
def test_a_pth_of_anything_but_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    refused(tmp_path / "net.pth")


def test_another_net_s_state_dict_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "net.pth")
    assert "features.0.weight" in refused(tmp_path / "net.pth")


@small
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".caffemodel", ".pth"])
@pytest.mark.parametrize("kept", [0, 7, 1000, 500_000, -5])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    variant, towers = ("torchvision", 1) if suffix == ".pth" else ("caffe", 2)
    path = tmp_path / f"net{suffix}"
    write_file(some_weights(variant, towers), path)
    path.write_bytes(path.read_bytes()[:kept])
    refused(path)


def test_names_that_say_nothing_are_refused_with_those_that_do(tmp_path):
    assert ".safetensors, .pth, " in refused(tmp_path / "net.bin")
    with pytest.raises(ReportedError, match=r"net\.h5.*\.onnx or \.pt2"):
        check_target(tmp_path / "net.h5")
    assert set(WRITERS) - set(READERS) == {".pt2"}


@pytest.mark.parametrize("suffix", READERS)
def test_a_missing_file_is_named(tmp_path, suffix):
    assert "No such file" in refused(tmp_path / f"net{suffix}")


@small
def test_a_changed_net_is_kept_with_its_changes_or_refused(tmp_path):
    changes = {"meet": ["fc6"], "activation": "tanh"}
    model = AlexNet(net_form("paper", changes), 10, 3, Placement(2))
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    weights = make_weights(Path("changed"), tensors, "paper", changes=changes)
    write_file(weights, tmp_path / "net.safetensors")
    back = read_file(tmp_path / "net.safetensors")
    assert (back.variant, back.changes) == ("paper", changes)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(back.model()(images), model.eval()(images))
    assert make_weights(Path("changed"), tensors, changes=changes).changes == changes
    for suffix in (".pth", ".npz", ".caffemodel"):
        with pytest.raises(ReportedError, match="meet, activation"):
            write_file(weights, tmp_path / f"net{suffix}")
    with pytest.raises(ReportedError, match="changed"):
        make_weights(Path("changed"), tensors, "paper")


@small
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".pt2"])
def test_what_the_disk_refuses_is_an_error_of_the_system(tmp_path, suffix):
    weights = some_weights("torchvision", towers=1)
    with files_of_at_most(2**16), pytest.raises(OSError, match="File too large"):
        write_file(weights, tmp_path / f"net{suffix}")
