"""Graphs of a net that run without this project (.onnx, .pt2)."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ReportedError
from model.alexnet import AlexNet
from model.variants import VARIANTS
from weights.description import describe
from weights.net import Weights

ONNX_PACKAGES = ("onnx", "onnxscript")


def input_side(weights: Weights) -> int:
    """Side of the input in pixels: that of the training, or the published one of the variant."""
    if weights.preprocessing and "size" in weights.preprocessing:
        return int(weights.preprocessing["size"])
    return VARIANTS[weights.known_variant].side


def write_onnx(weights: Weights, path: Path) -> None:
    """Write an ONNX graph from normalised ``images`` (batch, C, side, side) to ``logits``.

    The batch may have any size. The graph's metadata describes the net. Raises ReportedError when
    a package that writes ONNX is not installed.
    """
    if missing := [name for name in ONNX_PACKAGES if not importlib.util.find_spec(name)]:
        raise ReportedError(
            f"writing .onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
    model, example, batch = _to_export(weights)
    with _quietly():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=(batch,),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(describe(weights))
        program.save(path, external_data=False)


def write_exported(weights: Weights, path: Path) -> None:
    """Write the graph of ``write_onnx`` in PyTorch's format, for ``torch.export.load``."""
    model, example, batch = _to_export(weights)
    with _quietly():
        program = torch.export.export(model, (example,), dynamic_shapes=(batch,))
        content = io.BytesIO()  # in memory first: torch reports a full disk as a RuntimeError
        torch.export.save(program, content, extra_files=describe(weights))
    path.write_bytes(content.getbuffer())


def _to_export(weights: Weights) -> tuple[AlexNet, Tensor, dict[int, object]]:
    """Return the net, an input for it, and the dimensions of the input that may vary."""
    side = input_side(weights)
    example = torch.zeros(2, weights.channels, side, side)
    return weights.model().float(), example, {0: torch.export.Dim("batch")}


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporters, which warn of things that a user cannot change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
