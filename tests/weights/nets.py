"""Nets with weights that make a difference, and Caffe's files written by hand."""

from pathlib import Path

import torch

from model.alexnet import AlexNet
from model.initialization import initialize
from model.placement import Placement
from model.variants import net_form
from weights.names import LAYERS
from weights.net import make_weights

SMALL = {"hidden": 64}
"""Changes that make a net of little weight."""


def some_weights(variant="d2l", towers=2, classes=10, channels=3, **known):
    """The weights of a net whose logits are of the order of one."""
    form = net_form(variant, known.get("changes", {}))
    model = AlexNet(form, classes, channels, Placement(towers))
    initialize(model, 0, "he")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return make_weights(Path("made up"), tensors, variant, **known)


def _varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, content):
    """A field of a protocol buffer: an integer, or bytes that may be a message."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _numbers(number, tensor, form):
    """The field of a blob's numbers: packed floats, or in V1 doubles, or one field for each."""
    if form == "V1":
        return field(8, tensor.double().numpy().tobytes())
    raw = tensor.numpy().astype("<f4").tobytes()
    if form != "unpacked":
        return field(number, raw)
    tag = _varint(number << 3 | 5)
    return b"".join(tag + raw[start : start + 4] for start in range(0, len(raw), 4))


def _blob(tensor, form):
    """A BlobProto; in the forms V0 and V1 it has four dimensions."""
    shape = tuple(tensor.shape)
    if form in ("V0", "V1"):
        four = (1,) * (4 - len(shape)) + shape
        dims = b"".join(field(number, side) for number, side in enumerate(four, start=1))
    else:
        dims = field(7, field(1, b"".join(map(_varint, shape))))
    return dims + _numbers(5, tensor, form)


def caffemodel(tensors, form="V2", pools_first=False):
    """The bytes of a .caffemodel, as caffe.proto says; conv1 of ``tensors`` must read BGR.

    ``form`` is V2, the current one, V1 or V0, or unpacked: V2 with numbers one by one.
    """
    name, blobs, layer = {"V0": (1, 50, 2), "V1": (4, 6, 2)}.get(form, (1, 7, 100))
    between = ["pool1", "norm1"] if pools_first else ["norm1", "pool1"]
    net = field(1, b"AlexNet")
    for each in ("data", "conv1", "relu1", *between, *LAYERS[1:]):
        content = field(name, each.encode())
        if form != "V1":
            content += field(2, b"Kind")
        content += field(10, 1) * 3  # what is not read
        if each in LAYERS:
            for kind in ("weight", "bias"):
                content += field(blobs, _blob(tensors[f"{each}.{kind}"], form))
        net += field(layer, field(1, content) if form == "V0" else content)
    return net
