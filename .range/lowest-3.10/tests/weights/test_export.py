"""Exported graphs give the net's logits, for any batch, without this project."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from common.errors import ReportedError
from tests.weights.nets import some_weights
from weights import export
from weights.files import write_file

pytestmark = pytest.mark.usefixtures("small_nets")

NETS = [
    ("paper", 2, 1, 96),
    ("paper", 1, 3, 224),
    ("caffe", 2, 3, None),
    ("caffenet", 2, 3, None),
    ("d2l", 1, 1, 64),
    ("torchvision", 2, 3, None),
    ("zfnet", 1, 3, None),
]
every_net = pytest.mark.parametrize(("variant", "towers", "channels", "size"), NETS)


def _net(variant, towers, channels, size):
    known = {"preprocessing": {"size": size, "mean": 3.0}} if size else {}
    weights = some_weights(variant, towers, channels=channels, **known)
    side = export.input_side(weights)
    images = torch.randn(3, channels, side, side)
    with torch.no_grad():
        return weights, images, weights.model()(images)


def _check(found, expected, record_property):
    error = float((torch.as_tensor(found) - expected).abs().max() / expected.abs().max())
    record_property("largest error", error)
    assert error <= 1e-5


@every_net
def test_onnxruntime_gives_the_logits(tmp_path, record_property, variant, towers, channels, size):
    weights, images, expected = _net(variant, towers, channels, size)
    write_file(weights, tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["variant"] == variant
    assert json.loads(facts.get("preprocessing", "null")) == weights.preprocessing
    [found] = session.run(["logits"], {"images": images.numpy()})
    _check(found, expected, record_property)
    [one] = session.run(None, {"images": images[:1].numpy()})
    assert np.abs(one - found[:1]).max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("variant", "towers", "channels", "size"), NETS[::2])
def test_torch_export_gives_the_logits(tmp_path, record_property, variant, towers, channels, size):
    """Without custom operations, and with plain convolutions in place of space-to-depth ones."""
    weights, images, expected = _net(variant, towers, channels, size)
    write_file(weights, tmp_path / "net.pt2")
    facts = {"variant": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=facts)
    assert facts["variant"] == variant
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {name.split(".")[0] for name in called} == {"aten"}
    assert "aten.permute.default" not in called
    with torch.no_grad():
        _check(program.module()(images), expected, record_property)
        assert program.module()(images[:1]).shape == (1, 10)


def test_without_its_packages_onnx_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ReportedError, match="no_such_package"):
        write_file(some_weights("d2l"), tmp_path / "net.onnx")
