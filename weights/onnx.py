"""Graphs of ONNX (.onnx): Caffe's AlexNet as published in ONNX's zoo, its relatives, and our own.

A graph that does not carry our description is read node by node, and is a net of the variant whose
layers it has: in the same order, with the same windows, groups and normalisation.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from common.errors import ReportedError
from model.normalization import WINDOW, LocalResponseNorm
from model.pooling import STRIDE
from model.variants import VARIANTS, Variant, Window
from weights.caffe import swap_rgb
from weights.description import described_weights, published_weights
from weights.names import LAYERS, NAMES
from weights.net import Weights, make_weights

PASSED_OVER = ("Dropout", "Identity", "Flatten", "Reshape", "Softmax", "LogSoftmax", "Cast")
"""Operations between layers, and after the logits, that change no number or only their form."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"group": 1, "dilations": [1, 1], "pads": [0] * 4, "strides": [1, 1], "auto_pad": ""},
    "MaxPool": {
        "dilations": [1, 1],
        "pads": [0] * 4,
        "strides": [1, 1],
        "auto_pad": "",
        "ceil_mode": 0,
    },
    "LRN": {"alpha": 1e-4, "beta": 0.75, "bias": 1.0},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
    "Relu": {},
}
"""The operations of a layer, with the attributes that count and what they are if not given."""


class Operation(NamedTuple):
    """A node of a graph: what it does, with which attributes."""

    kind: str
    attributes: dict[str, Any]

    def difference(self, other: "Operation") -> str:
        """The first difference from ``other`` in words; empty where there is none."""
        if self.kind != other.kind:
            return f"{self.kind} where {other.kind} is right"
        for key, right in other.attributes.items():
            found = self.attributes.get(key)
            if not _equal(found, right):
                return f"a {self.kind} with {key} {found} where {right} is right"
        return ""


def _equal(found: Any, right: Any) -> bool:
    """True if two attributes are the same; ONNX keeps numbers in single precision."""
    if isinstance(right, str) or np.shape(found) != np.shape(right):
        return bool(found == right)
    return np.allclose(found, right)


class Graph(NamedTuple):
    """The operations from the images to the logits, and the parameters by our names."""

    operations: list[Operation]
    tensors: dict[str, Tensor]


def read_onnx(path: Path) -> Weights:
    """Read the weights of a graph; raises ReportedError when it is damaged or of another net."""
    if not importlib.util.find_spec("onnx"):
        raise ReportedError("reading .onnx needs onnx: pip install onnx")
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        description = {entry.key: entry.value for entry in model.metadata_props}
        stored = {each.name: each for each in model.graph.initializer}
        if "variant" in description and stored.keys() >= set(NAMES):
            tensors = {name: _tensor(path, name, stored[name]) for name in NAMES}
            return described_weights(path, tensors, description)
        graph = _follow(path, model.graph, stored)
    except DecodeError:
        raise ReportedError(f"{path} is not a complete ONNX file: download it again") from None
    return _recognised(path, graph)


def _tensor(path: Path, name: str, stored: Any) -> Tensor:
    """The numbers of an initializer."""
    import onnx

    if stored.data_location == onnx.TensorProto.EXTERNAL:
        raise ReportedError(
            f"{path} keeps its {name} in another file: save it with onnx.save_model, as one file"
        )
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(stored).copy())
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ReportedError(
            f"{path} is damaged: its {name} is not a whole array of numbers ({error})"
        ) from None


def _follow(path: Path, graph: Any, stored: Mapping[str, Any]) -> Graph:
    """Follow the images through the nodes of a graph without branches."""
    images = [each.name for each in graph.input if each.name not in stored]
    if len(images) != 1:
        raise ReportedError(f"{path} does not hold an AlexNet: its graph has {len(images)} inputs")
    current, layers = images[0], iter(LAYERS)
    made = {name: node.op_type for node in graph.node for name in node.output}
    operations: list[Operation] = []
    tensors: dict[str, Tensor] = {}
    for node in graph.node:
        if current not in node.input:
            continue
        if node.input[0] != current or node.op_type not in (*DEFAULTS, *PASSED_OVER):
            raise ReportedError(f"{path} does not hold an AlexNet: its graph has a {node.op_type}")
        current = node.output[0]
        if node.op_type in PASSED_OVER:
            continue
        operations.append(_operation(node))
        if len(node.input) > 1:
            layer = next(layers, "")
            if not layer:
                raise ReportedError(f"{path} does not hold an AlexNet: it has more than 8 layers")
            weight, bias = _parameters(path, layer, node, stored, made)
            if node.op_type == "Gemm" and not operations[-1].attributes.get("transB", 0):
                weight = weight.T
            tensors |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    if missing := next(layers, ""):
        raise ReportedError(f"{path} does not hold an AlexNet: its graph has no {missing}")
    return Graph(operations, tensors)


def _parameters(
    path: Path, layer: str, node: Any, stored: Mapping[str, Any], made: Mapping[str, str]
) -> tuple[Tensor, Tensor]:
    """The weight and the bias that a node reads; ``made`` has the operations that make tensors."""
    if len(node.input) != 3:
        raise ReportedError(f"{path} does not hold an AlexNet: its {layer} has no bias")
    for name in node.input[1:]:
        if name not in stored:
            raise ReportedError(
                f"{path} holds no weights of {layer}: its {name} is made by "
                f"{made.get(name, 'an input')}, not stored"
            )
    weight, bias = (_tensor(path, name, stored[name]) for name in node.input[1:])
    return weight, bias


def _operation(node: Any) -> Operation:
    from onnx import helper

    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if given.get("auto_pad") in (b"NOTSET", b"VALID"):
        del given["auto_pad"]
    attributes = {**DEFAULTS[node.op_type], **given}
    return Operation(node.op_type, attributes)


def _recognised(path: Path, graph: Graph) -> Weights:
    """The weights, as a net of the variant that has these operations."""
    bare = make_weights(path, graph.tensors)
    best = (-1, "")
    for variant, form in VARIANTS.items():
        try:
            bare.of_variant(variant)
        except ReportedError:
            continue
        if form.local_response_norm and bare.towers > 1 and not form.lrn_spans_towers:
            continue  # a graph's LRN spans the towers
        equal, difference = _first_difference(graph.operations, form, bare.towers)
        if not difference:
            return _of_origin(path, graph.tensors, variant)
        best = max(best, (equal, f"{difference} for {variant}"))
    raise ReportedError(f"{path} does not hold an AlexNet of model/variants.py: it has {best[1]}")


def _first_difference(found: list[Operation], form: Variant, towers: int) -> tuple[int, str]:
    """The operations that are a variant's, and how the next one differs; empty if none does."""
    expected = list(_expected(form, towers))
    if _pools_evenly(form):
        found = [_without_the_border(each) for each in found]
    for number, (each, right) in enumerate(zip(found, expected, strict=False)):
        if difference := each.difference(right):
            return number, difference
    if len(found) != len(expected):
        equal = min(len(found), len(expected))
        return equal, f"{len(found)} operations where {len(expected)} are right"
    return len(expected), ""


def _pools_evenly(form: Variant) -> bool:
    """True if the pooling windows end at the border of each map, for images of the usual side."""
    side, even = form.side, True
    for window, pools in zip(form.windows, (True, True, False, False, True), strict=True):
        side = window.out_side(side)
        if pools:
            even = even and (side - form.pool) % STRIDE == 0
            side = Window(form.pool, STRIDE).out_side(side)
    return even


def _without_the_border(operation: Operation) -> Operation:
    """A pooling without the row and column that no window reaches where they pool evenly."""
    attributes = {**operation.attributes, "ceil_mode": 0}
    if operation.kind != "MaxPool" or attributes["pads"] not in ([0] * 4, [0, 0, 1, 1]):
        return operation
    return Operation("MaxPool", {**attributes, "pads": [0] * 4})


def _of_origin(path: Path, tensors: dict[str, Tensor], variant: str) -> Weights:
    """Caffe's nets read BGR, as they do there."""
    if variant in ("caffe", "caffenet"):
        return published_weights(path, swap_rgb(tensors), "caffe", variant)
    if variant == "torchvision":
        return published_weights(path, tensors, variant, variant)
    return make_weights(path, tensors, variant)


def _expected(form: Variant, towers: int) -> Iterator[Operation]:
    """The operations of a variant, from images to logits."""
    relu = Operation("Relu", {})
    pool = Operation(
        "MaxPool",
        {
            **DEFAULTS["MaxPool"],
            "kernel_shape": [form.pool] * 2,
            "strides": [STRIDE] * 2,
        },
    )
    alpha = LocalResponseNorm(k=form.lrn_k).alpha
    norm = Operation("LRN", {"size": WINDOW, "alpha": alpha, "beta": 0.75, "bias": form.lrn_k})
    norms = [norm] if form.local_response_norm else []
    between = [relu, pool, *norms] if form.pools_first else [relu, *norms, pool]
    after = [between, between, [relu], [relu], [relu, pool]]
    for window, group, following in zip(
        form.windows, (1, towers, 1, towers, towers), after, strict=True
    ):
        attributes = {
            **DEFAULTS["Conv"],
            "group": group,
            "pads": [window.padding] * 4,
            "strides": [window.stride] * 2,
        }
        yield Operation("Conv", attributes)
        yield from following
    gemm = Operation("Gemm", DEFAULTS["Gemm"])
    yield from (gemm, relu, gemm, relu, gemm)
