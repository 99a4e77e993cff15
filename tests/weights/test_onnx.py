"""Graphs of ONNX: the published AlexNet gives onnxruntime's logits; other nets are refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from common.errors import ReportedError
from tests.weights.nets import some_weights
from weights.files import read_file, write_file

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
"""The graph of ONNX's zoo, whose weights are constants that nodes make."""
SIDE = 227


pytestmark = pytest.mark.usefixtures("small_nets")


@pytest.fixture
def theirs(small_nets):
    """Weights that read BGR."""
    return some_weights("caffe", classes=1000).tensors


@pytest.fixture
def published(theirs):
    """The published graph with weights put in, for one image of 227 px."""
    model = onnx.load(LIGHT)
    for name, tensor in theirs.items():
        layer, kind = name.split(".")
        stored = numpy_helper.from_array(tensor.numpy(), f"{layer}_{kind[0]}_0")
        model.graph.initializer.append(stored)
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        model.graph.node.remove(node)
    for height_or_width in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        height_or_width.dim_value = SIDE
    return model


def nodes(model, kind):
    return [node for node in model.graph.node if node.op_type == kind]


def set_attribute(node, name, value):
    for found in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(found)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def _saved(model, tmp_path):
    onnx.save_model(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def _check_against_onnxruntime(model, tmp_path, variant, record_property):
    path = _saved(model, tmp_path)
    weights = read_file(path)
    assert (weights.variant, weights.towers, weights.classes) == (variant, 2, 1000)
    assert (weights.preprocessing or {})["size"] == SIDE
    assert (weights.class_names or [])[281] == "tabby"
    rgb = 40 * torch.randn(1, 3, SIDE, SIDE)
    [logits] = nodes(model, "Gemm")[2].output
    model.graph.output.append(onnx.ValueInfoProto(name=logits))
    session = onnxruntime.InferenceSession(_saved(model, tmp_path))
    bgr = np.ascontiguousarray(rgb.numpy()[:, ::-1])
    [expected] = session.run([logits], {"data_0": bgr})
    with torch.no_grad():
        found = weights.model()(rgb).numpy()
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    record_property("largest error", error)
    assert error <= 1e-5


def test_the_published_net_gives_onnxruntime_s_logits(published, tmp_path, record_property):
    _check_against_onnxruntime(published, tmp_path, "caffe", record_property)


def test_a_net_that_pools_first_gives_onnxruntime_s_logits(published, tmp_path, record_property):
    for norm, pool in zip(nodes(published, "LRN"), nodes(published, "MaxPool"), strict=False):
        kept = onnx.NodeProto()
        kept.CopyFrom(norm)
        for first, second in ((norm, pool), (pool, kept)):
            first.op_type = second.op_type
            del first.attribute[:]
            first.attribute.extend(second.attribute)
    _check_against_onnxruntime(published, tmp_path, "caffenet", record_property)


def _weight_stored_the_other_way(model):
    [stored] = [each for each in model.graph.initializer if each.name == "fc7_w_0"]
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).T.copy(), stored.name))
    set_attribute(nodes(model, "Gemm")[1], "transB", 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: set_attribute(nodes(model, "MaxPool")[0], "pads", [0, 0, 1, 1]),
        _weight_stored_the_other_way,
    ],
    ids=["a border that no window reaches", "a weight stored the other way"],
)
def test_other_ways_to_say_the_same_are_read(published, tmp_path, change, record_property):
    change(published)
    _check_against_onnxruntime(published, tmp_path, "caffe", record_property)


@pytest.mark.parametrize(
    ("kind", "number", "name", "value"),
    [
        ("Conv", 4, "auto_pad", "SAME_UPPER"),
        ("MaxPool", 0, "dilations", [2, 2]),
        ("LRN", 0, "alpha", 2e-4),
        ("LRN", 1, "beta", 0.5),
        ("LRN", 0, "bias", 2.0),
        ("LRN", 1, "size", 3),
        ("MaxPool", 0, "kernel_shape", [2, 2]),
        ("MaxPool", 1, "strides", [3, 3]),
        ("MaxPool", 2, "pads", [1, 1, 1, 1]),
        ("Conv", 0, "strides", [2, 2]),
        ("Conv", 1, "pads", [0, 0, 0, 0]),
        ("Conv", 2, "dilations", [2, 2]),
        ("Gemm", 1, "alpha", 0.5),
    ],
)
def test_an_attribute_that_is_not_this_net_s_is_named(
    published, tmp_path, kind, number, name, value
):
    set_attribute(nodes(published, kind)[number], name, value)
    with pytest.raises(ReportedError, match=rf"net\.onnx.*{kind} with {name} ") as refused:
        read_file(_saved(published, tmp_path))
    assert "\n" not in str(refused.value)


def test_another_operation_is_named(published, tmp_path):
    nodes(published, "Relu")[3].op_type = "Tanh"
    with pytest.raises(ReportedError, match="Tanh"):
        read_file(_saved(published, tmp_path))


def test_a_graph_without_weights_is_named():
    with pytest.raises(ReportedError, match="ConstantOfShape"):
        read_file(LIGHT)


def test_weights_in_another_file_are_named(published, tmp_path):
    onnx.save_model(published, tmp_path / "net.onnx", save_as_external_data=True)
    with pytest.raises(ReportedError, match="another file"):
        read_file(tmp_path / "net.onnx")


def test_a_graph_that_is_cut_short_is_refused(published, tmp_path):
    path = _saved(published, tmp_path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ReportedError, match=r"net\.onnx"):
        read_file(path)


@pytest.mark.parametrize(("variant", "towers"), [("paper", 2), ("zfnet", 1), ("torchvision", 1)])
def test_what_is_exported_comes_back(tmp_path, variant, towers):
    weights = some_weights(variant, towers)
    write_file(weights, tmp_path / "net.onnx")
    back = read_file(tmp_path / "net.onnx")
    assert (back.variant, back.towers) == (variant, towers)
    assert all(torch.equal(back.tensors[name], t) for name, t in weights.tensors.items())
