"""Pickles in every place where a file is read: none of them runs."""

import hashlib
import json
import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from data.fashion_mnist import MD5, FashionMNIST
from data.packed.reader import Packed
from recording.metrics import read_metrics
from recording.source import read_source
from tests.faults.hostile import refused
from training.batches import make_preprocess
from training.config import Config
from weights.files import READERS
from weights.names import NAMES


class Payload:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def trace(tmp_path):
    """A file that no test may leave behind: what is read here has run if it is there."""
    path = tmp_path / "trace"
    yield path
    assert not path.exists()


@pytest.fixture
def payload(trace):
    content = pickle.dumps(Payload(trace))
    pickle.loads(content)
    assert trace.exists(), "it is harmless"
    trace.unlink()
    return content


@pytest.mark.parametrize("suffix", [*READERS, ".onnx", ".pt2", ".bin"])
def test_a_pickle_in_place_of_weights(tmp_path, payload, suffix, happened):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(payload)
    assert str(path) in refused(read_source, path)
    happened(f"a pickle as {suffix}", "refused by name, not run")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_where_torch_keeps_one(tmp_path, trace, legacy):
    path = tmp_path / "net.pth"
    torch.save({"a": Payload(trace)}, path, _use_new_zipfile_serialization=not legacy)
    assert str(path) in refused(read_source, path)


@pytest.mark.parametrize("name", ["conv1.weight", "metadata"])
def test_objects_in_an_archive_of_arrays(tmp_path, trace, name, happened):
    path = tmp_path / "net.npz"
    arrays = {each: np.zeros(1, np.float32) for each in NAMES}
    contents: dict[str, Any] = {**arrays, name: np.array([Payload(trace)], dtype=object)}
    np.savez(path, **contents)
    assert str(path) in refused(read_source, path)
    happened(f"an object as {name} of an .npz", "refused by name, not run")


CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "state.json")
STATE = b'{"config": {"variant": "d2l"}, "trainer": {}, "totals": {}}'


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint of empty tensors and a state, or other files, with the right sums."""

    def write(**files):
        files = {**dict.fromkeys(CHECKPOINT, b""), "state.json": STATE, **files}
        sums = {name: hashlib.sha256(files[name]).hexdigest() for name in CHECKPOINT}
        files = {"manifest.json": json.dumps(sums).encode(), **files}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        return tmp_path

    return write


@pytest.mark.parametrize("name", [*CHECKPOINT, "manifest.json"])
def test_a_pickle_in_place_of_a_checkpoint_s_file(checkpoint, payload, name, happened):
    """Its sum is in the manifest: who writes the one can write the other."""
    folder = checkpoint(**{name: payload})
    assert str(folder) in refused(read_source, folder)
    happened(f"a pickle as a checkpoint's {name}", "refused by name, not run")


@pytest.mark.parametrize(
    "state",
    [
        b"[" * 100_000,
        b'{"config": {"seed": ' + b"9" * 5000 + b"}}",
        b"[]",
        b'{"config": [1]}',
        b"\xff",
    ],
    ids=["deep", "a number of 5000 digits", "a list", "a list as config", "no text"],
)
def test_a_state_that_is_none(checkpoint, state):
    folder = checkpoint(**{"state.json": state})
    assert str(folder) in refused(read_source, folder)


@pytest.mark.parametrize("name", [*CHECKPOINT, "manifest.json"])
def test_a_checkpoint_that_never_ends(checkpoint, name, happened):
    folder = checkpoint()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert str(folder) in refused(read_source, folder)
    happened(f"a pipe as a checkpoint's {name}", "refused at once")


def test_a_pickle_in_place_of_the_mean_image(tmp_path, payload, trace, happened):
    path = tmp_path / "mean.npy"
    config = Config.model_validate({"data": {"size": 64, "mean_image": path}})
    for content in (payload, b"\x93NUMPY\x01\0" + payload):
        path.write_bytes(content)
        assert str(path) in refused(make_preprocess, config, 3)
    np.save(path, np.full((64, 64, 3), Payload(trace), dtype=object), allow_pickle=True)
    assert str(path) in refused(make_preprocess, config, 3)
    happened("a pickle as the mean image", "refused by name, not run")


@pytest.mark.parametrize("name", ["train-00000.npy", "train-labels.npy", "index.json"])
def test_a_pickle_in_place_of_packed_images(packed, payload, name, happened):
    (packed / name).write_bytes(payload)
    assert str(packed / name) in refused(Packed, "train", packed)
    happened(f"a pickle as {name}", "refused by name, not run")


def test_a_pickle_in_place_of_fashion_mnist(tmp_path, payload):
    for name in MD5:
        (tmp_path / name).write_bytes(payload)
    assert str(tmp_path) in refused(FashionMNIST, "train", tmp_path)


def test_a_line_of_metrics_that_is_none_is_left_out(tmp_path, payload):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}', payload, b"[" * 100_000, b"[1]}", b'{"step": {}}', b"9" * 5000]
    path.write_bytes(b"\n".join([*lines, b'{"step": 2}', b'{"step": 3']))
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
