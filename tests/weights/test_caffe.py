"""Caffe's files: read and written as Caffe does, and computed as Caffe would."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import ReportedError
from tests.weights.nets import caffemodel, field, some_weights
from weights.caffe import read_caffemodel, write_caffemodel
from weights.files import read_file


def caffe_forward(tensors, bgr, pools_first):
    """Caffe's deploy.prototxt: (B, 3, 227, 227) mean-subtracted BGR to logits, one line a layer."""

    def conv(x, name, stride=1, padding=0, group=1):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding, groups=group))

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm(x):
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def inner(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    first, second = (pool, norm) if pools_first else (norm, pool)
    x = second(first(conv(bgr, "conv1", stride=4)))
    assert x.shape[-1] == 27
    x = second(first(conv(x, "conv2", padding=2, group=2)))
    assert x.shape[-1] == 13
    x = conv(x, "conv3", padding=1)
    x = conv(x, "conv4", padding=1, group=2)
    x = pool(conv(x, "conv5", padding=1, group=2))
    x = F.relu(inner(x.flatten(1), "fc6"))
    return inner(F.relu(inner(x, "fc7")), "fc8")


pytestmark = pytest.mark.usefixtures("small_nets")


@pytest.fixture
def theirs(small_nets):
    """A net in Caffe's arrays: conv1 reads BGR."""
    return some_weights("caffe").tensors


@pytest.mark.parametrize("pools_first", [False, True], ids=["alexnet", "caffenet"])
@pytest.mark.parametrize("form", ["V2", "V1", "V0", "unpacked"])
def test_an_imported_net_computes_what_caffe_would(
    tmp_path, theirs, form, pools_first, record_property
):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(theirs, form, pools_first))
    weights = read_file(tmp_path / "net.caffemodel")
    assert weights.variant == ("caffenet" if pools_first else "caffe")
    assert (weights.towers, weights.classes, weights.channels) == (2, 10, 3)
    rgb = 40 * torch.randn(2, 3, 227, 227)
    expected = caffe_forward(theirs, rgb.flip(1), pools_first)
    with torch.no_grad():
        found = weights.model()(rgb)
    error = float((found - expected).abs().max() / expected.abs().max())
    record_property("largest error", error)
    assert error <= 1e-5


@pytest.mark.parametrize("variant", ["caffe", "caffenet"])
def test_what_is_written_is_what_was_read(tmp_path, variant):
    weights = some_weights(variant)
    write_caffemodel(weights, tmp_path / "net.caffemodel")
    back = read_caffemodel(tmp_path / "net.caffemodel")
    assert back.variant == variant
    assert all(torch.equal(back.tensors[name], t) for name, t in weights.tensors.items())
    assert (back.preprocessing or {})["size"] == 227


def test_written_bytes_are_those_of_caffe_proto(tmp_path, theirs):
    """conv1's blob lies in the file as the test's own encoder makes it."""
    weights = some_weights("caffe")
    write_caffemodel(weights, tmp_path / "net.caffemodel")
    conv1 = weights.tensors["conv1.weight"].flip(1).contiguous()
    written = (tmp_path / "net.caffemodel").read_bytes()
    assert field(5, conv1.numpy().tobytes()) in written
    assert field(1, b"conv1") + field(2, b"Convolution") in written


def test_another_net_is_no_caffemodel(tmp_path):
    with pytest.raises(ReportedError, match="d2l"):
        write_caffemodel(some_weights("d2l"), tmp_path / "net.caffemodel")


@pytest.mark.parametrize("kept", [10, 1000, 100_000, -1])
def test_a_truncated_file_is_refused(tmp_path, theirs, kept):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(theirs)[:kept])
    with pytest.raises(ReportedError, match=r"net\.caffemodel"):
        read_file(tmp_path / "net.caffemodel")


def test_a_file_of_other_layers_is_refused_with_their_names(tmp_path):
    net = field(100, field(1, b"ip1") + field(7, field(5, b"\0" * 4)))
    (tmp_path / "net.caffemodel").write_bytes(net)
    with pytest.raises(ReportedError, match=r"conv1.*ip1"):
        read_file(tmp_path / "net.caffemodel")


def test_a_shape_that_lies_is_refused(tmp_path, theirs):
    content = caffemodel(theirs)
    lied = content.replace(field(1, b"\x60\x03\x0b\x0b"), field(1, b"\x60\x03\x0b\x7b"), 1)
    assert lied != content
    (tmp_path / "net.caffemodel").write_bytes(lied)
    with pytest.raises(ReportedError, match=r"conv1\.weight.*\(96, 3, 11, 123\)"):
        read_file(tmp_path / "net.caffemodel")
