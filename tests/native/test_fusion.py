"""What a GPU computes in one kernel: traced as one graph, and the same as the plain form."""

import re

import pytest
import torch

from data.preprocess import Preprocess, interpolation
from model.layers import Dropout
from model.normalization import LocalResponseNorm
from model.pooling import ActivatedPool
from native import fusion
from native.fusion import fuses, why_not_compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "found", "reason"),
    [
        (CPU, ["g++"], None),
        (CPU, ["gcc"], r"clang\+\+"),
        (CUDA, ["gcc"], None),
        (CUDA, ["g++"], "gcc"),
    ],
)
def test_compiling_needs_the_compiler_of_the_device(monkeypatch, tmp_path, device, found, reason):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    said = why_not_compiled(device)
    assert said is None if reason is None else re.search(reason, str(said))


def test_compiling_for_a_gpu_needs_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert str(tmp_path / "Python.h") in str(why_not_compiled(CUDA))


def test_a_gpu_without_a_compiler_runs_the_plain_form(monkeypatch):
    monkeypatch.setattr(fusion, "_why_not", lambda device: "none" if device == CUDA else None)
    assert not fuses(CPU), "which has kernels of its own"
    assert not fuses(CUDA)
    monkeypatch.setattr(fusion, "_why_not", lambda device: None)
    assert fuses(CUDA)


def _norm_and_pool(dtype):
    layer = ActivatedPool(LocalResponseNorm(2))
    x = (30 * torch.randn(3, 96, 13, 13)).to(dtype, memory_format=torch.channels_last)
    return layer.fusible, layer.plain, (x.requires_grad_(),)


def _dropout(dtype):
    layer = Dropout(0.5, range(64, 128), 3)
    x = torch.randn(5, 64, dtype=dtype, requires_grad=True)
    return layer.drop, layer.drop, (x, torch.arange(5))


def _preprocess(dtype):
    preprocess = Preprocess(48, 56, [100.0] * 3, [50.0] * 3, True, dtype)
    images = torch.randint(0, 256, (4, 3, 64, 60), dtype=torch.uint8)
    windows = preprocess.windows(images, torch.arange(4))
    down, across = (interpolation(side, 56, CPU).to(dtype) for side in (64, 60))
    inputs = images, windows, torch.zeros(4, 3), down, across
    return preprocess.sample, preprocess.sample, inputs


REGIONS = {"norm and pooling": _norm_and_pool, "dropout": _dropout, "preprocessing": _preprocess}


@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("aot_eager", torch.float64, 1e-12),
        pytest.param("inductor", torch.float32, 1e-5, marks=pytest.mark.slow),
        pytest.param("inductor", torch.bfloat16, 2e-2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_one_graph_and_computes_what_the_plain_form_does(
    region, backend, dtype, tolerance
):
    fusible, plain, inputs = REGIONS[region](dtype)
    one_graph = torch.compile(fusible, fullgraph=True, backend=backend)
    pairs = []
    for function in (one_graph, plain):
        out = function(*inputs)
        gradient = []
        if inputs[0].requires_grad:
            gradient = torch.autograd.grad(out.square().sum(), inputs[:1])
        pairs.append((out.detach(), *gradient))
    for found, expected in zip(*pairs, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)
