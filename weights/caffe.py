"""Caffe's binary files (.caffemodel).

Caffe's layers have our names and its arrays have the shapes of our full tensors. They differ in one
thing: Caffe's conv1 reads the channels in the order BGR.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from torch import Tensor

from common.errors import ReportedError
from model.variants import VARIANTS
from weights.description import published_weights
from weights.names import LAYERS
from weights.net import Weights

VARIANTS_OF_CAFFE = ("caffe", "caffenet")

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, list[tuple[str, int, Any, str]]] = {
    # Packed numbers and bytes have one encoding. Declared as bytes, 61 million numbers stay one
    # buffer instead of as many Python objects.
    "BlobShape": [("dim", 1, _Field.TYPE_INT64, "")],
    "BlobProto": [
        *((name, i, _Field.TYPE_INT32, "") for i, name in enumerate("NCHW", start=1)),
        ("data", 5, _Field.TYPE_BYTES, ""),
        ("shape", 7, _Field.TYPE_MESSAGE, "BlobShape"),
        ("double_data", 8, _Field.TYPE_BYTES, ""),
    ],
    "V0LayerParameter": [
        ("name", 1, _Field.TYPE_BYTES, ""),
        ("blobs", 50, _Field.TYPE_MESSAGE, "BlobProto"),
    ],
    "V1LayerParameter": [
        ("layer", 1, _Field.TYPE_MESSAGE, "V0LayerParameter"),
        ("name", 4, _Field.TYPE_BYTES, ""),
        ("blobs", 6, _Field.TYPE_MESSAGE, "BlobProto"),
    ],
    "LayerParameter": [
        ("name", 1, _Field.TYPE_BYTES, ""),
        ("type", 2, _Field.TYPE_BYTES, ""),
        ("blobs", 7, _Field.TYPE_MESSAGE, "BlobProto"),
    ],
    "NetParameter": [
        ("name", 1, _Field.TYPE_BYTES, ""),
        ("layers", 2, _Field.TYPE_MESSAGE, "V1LayerParameter"),
        ("layer", 100, _Field.TYPE_MESSAGE, "LayerParameter"),
    ],
}
"""The fields of caffe.proto that hold weights: name, number, type, and the name of a message."""

_REPEATED = {"dim", "data", "double_data", "blobs", "layers", "layer"}


_ONE_BY_ONE = {"data": _Field.TYPE_FLOAT, "double_data": _Field.TYPE_DOUBLE}


def _net_parameter(*, packed: bool = True) -> Any:
    """Build the class of the message NetParameter, for numbers packed or one by one."""
    file = descriptor_pb2.FileDescriptorProto(name="weights.proto", package="weights")
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for name, number, kind, message_type in fields:
            label = _Field.LABEL_REPEATED if name in _REPEATED else _Field.LABEL_OPTIONAL
            kind = kind if packed else _ONE_BY_ONE.get(name, kind)
            field = added.field.add(name=name, number=number, type=kind, label=label)
            if message_type:
                field.type_name = f".weights.{message_type}"
            if name == "dim":
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("weights.NetParameter"))


def swap_rgb(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reverse conv1's input channels, RGB to BGR or back; leave nets of other channels as is."""
    conv1 = tensors["conv1.weight"]
    if conv1.ndim != 4 or conv1.shape[1] != 3:
        return tensors
    return {**tensors, "conv1.weight": conv1.flip(1)}


def read_caffemodel(path: Path) -> Weights:
    """Read a ``.caffemodel``, in the current format or in an older one (V1, V0).

    The order of the file's layers decides between ``caffe`` (normalise first) and ``caffenet``
    (pool first). Raises ReportedError when the file is damaged or holds another net.
    """
    content = path.read_bytes()
    try:
        layers = _parse(content, packed=True)
        if not all(blob.data or blob.double_data for layer in layers for blob in layer.blobs):
            layers = _parse(content, packed=False)
    except DecodeError:
        raise ReportedError(f"{path} is not a complete .caffemodel: download it again") from None
    order = [_text(layer.name) for layer in layers]
    blobs = {_text(layer.name): layer.blobs for layer in layers if layer.blobs}
    tensors = swap_rgb(dict(_read_layers(path, blobs)))
    pools_first = {"norm1", "pool1"} <= set(order) and order.index("pool1") < order.index("norm1")
    return published_weights(path, tensors, "caffe", "caffenet" if pools_first else "caffe")


def _parse(content: bytes, *, packed: bool) -> list[Any]:
    """The layers of all formats."""
    net = _net_parameter(packed=packed).FromString(content)
    old = [inner for layer in net.layers for inner in layer.layer or [layer]]
    return [*net.layer, *old]


def _read_layers(path: Path, blobs: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for layer in LAYERS:
        if len(blobs.get(layer, ())) != 2:
            found = ", ".join(sorted(blobs)[:10]) or "none"
            raise ReportedError(
                f"{path} does not hold an AlexNet: it has no weight and bias of a layer {layer} "
                f"(layers with weights: {found})"
            )
        dims = 4 if layer.startswith("conv") else 2
        for kind, blob, count in zip(("weight", "bias"), blobs[layer], (dims, 1), strict=True):
            yield f"{layer}.{kind}", _read_blob(path, f"{layer}.{kind}", blob, count)


def _read_blob(path: Path, name: str, blob: Any, dims: int) -> Tensor:
    """The numbers of a blob as a tensor of ``dims`` dimensions."""
    # Five of the claimed dimensions are enough to refuse the blob, however many there are.
    shape = list(blob.shape.dim[:5]) or [blob.N, blob.C, blob.H, blob.W]
    while len(shape) > dims and shape[0] == 1:  # V1 pads every shape to four dimensions
        del shape[0]
    values = blob.data or blob.double_data
    dtype = np.dtype("<f4" if blob.data else "<f8")
    packed = len(values) > 0 and isinstance(values[0], bytes)
    raw = b"".join(values) if packed else np.fromiter(values, dtype, len(values)).tobytes()
    if min(shape) < 1 or len(raw) != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ReportedError(
            f"{path} is not a complete .caffemodel: its {name} has the shape {tuple(shape)} and "
            f"{len(raw) // dtype.itemsize} numbers"
        )
    return torch.from_numpy(np.frombuffer(raw, dtype).astype(np.float32).reshape(shape))


def write_caffemodel(weights: Weights, path: Path) -> None:
    """Write the layers by their names, which is how Caffe copies weights into a net.

    Raises ReportedError for a variant that Caffe does not have.
    """
    if weights.known_variant not in VARIANTS_OF_CAFFE:
        raise ReportedError(
            f"a .caffemodel holds only the variants {' and '.join(VARIANTS_OF_CAFFE)}, and this "
            f"is {weights.variant}: write a .safetensors or a .npz"
        )
    pools_first = VARIANTS[weights.known_variant].pools_first
    tensors = swap_rgb(weights.tensors)
    net = _net_parameter()(name=b"CaffeNet" if pools_first else b"AlexNet")
    for layer in LAYERS:
        kind = b"Convolution" if layer.startswith("conv") else b"InnerProduct"
        added = net.layer.add(name=layer.encode(), type=kind)
        for tensor in (tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]):
            blob = added.blobs.add(data=[tensor.contiguous().numpy().astype("<f4").tobytes()])
            blob.shape.dim.extend(tensor.shape)
        if layer in ("conv1", "conv2"):
            _add_between(net, layer[-1], ("pool", "norm") if pools_first else ("norm", "pool"))
    path.write_bytes(net.SerializeToString())


def _add_between(net: Any, number: str, names: Iterable[str]) -> None:
    types = {"norm": b"LRN", "pool": b"Pooling"}
    for name in names:
        net.layer.add(name=f"{name}{number}".encode(), type=types[name])


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
