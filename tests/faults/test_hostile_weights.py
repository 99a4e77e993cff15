"""Files of weights that are lies: none fills the memory or never ends."""

import json
import os
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from recording.source import read_source
from tests.faults.hostile import npy, refused
from tests.weights.nets import field, some_weights
from weights.files import write_file
from weights.names import LAYERS, NAMES
from weights.torchvision import to_torchvision


def archive(path, content, claimed=None, flags=0, method=0):
    """An .npz whose directory may claim another length, encryption or method of compression."""
    with zipfile.ZipFile(path, "w") as file:
        for name in NAMES:
            file.writestr(f"{name}.npy", content)
    found = bytearray(path.read_bytes())
    entry = found.find(b"PK\x01\x02")
    while entry >= 0:
        struct.pack_into("<HH", found, entry + 8, flags, method)
        if claimed:
            struct.pack_into("<I", found, entry + 24, claimed)
        entry = found.find(b"PK\x01\x02", entry + 4)
    path.write_bytes(found)


CODE = b"__import__('os').abort()"
NESTED: dict[str, Any] = {name: np.zeros(1, np.float32) for name in NAMES}
NESTED["metadata"] = "[" * 100_000
ARCHIVES = {
    "claims to unpack to 60 GiB": lambda path: archive(path, npy("(1,)"), claimed=2**32 - 16),
    "claims 16 EiB": lambda path: archive(path, npy(f"({2**62},)")),
    "claims a number beyond 64 bits": lambda path: archive(path, npy(f"({2**70},)")),
    "claims a negative shape": lambda path: archive(path, npy("(-1,)")),
    "claims 2 GiB a number": lambda path: archive(path, npy("(1,)", f"<V{2**31 - 1}")),
    "has code in a header": lambda path: archive(
        path, b"\x93NUMPY\x01\0" + struct.pack("<H", len(CODE)) + CODE
    ),
    "has a header without end": lambda path: archive(
        path, b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000
    ),
    "has a header of 4 GiB": lambda path: archive(path, b"\x93NUMPY\x02\0\xff\xff\xff\xff{"),
    "is encrypted": lambda path: archive(path, npy("(1,)"), flags=1),
    "is compressed by magic": lambda path: archive(path, npy("(1,)"), method=99),
    "has metadata nested deep": lambda path: np.savez(path, **NESTED),
    "is one array": lambda path: path.write_bytes(npy("(1,)")),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_lies(tmp_path, kind, happened):
    ARCHIVES[kind](tmp_path / "net.npz")
    assert str(tmp_path / "net.npz") in refused(read_source, tmp_path / "net.npz")
    happened(f"an .npz that {kind}", "refused by name")


def header(tensors, body=b"", claimed=None):
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body


def entry(shape, *offsets):
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        header({}, claimed=2**63),
        header({}, claimed=99_000_000),
        header({name: entry([2], 0, 8) for name in NAMES}, bytes(8)),
        header({name: entry([2**62, 4], 0, 8) for name in NAMES}, bytes(8)),
        header({name: entry([0, 2**62], 0, 0) for name in NAMES}),
        header(b'{"a":' * 50_000),
        header({f"tensor {number}": entry([0], 0, 0) for number in range(2000)}),
        header({"\x1b[2J\n": entry([1], 0, 4)}, bytes(4)),
    ],
    ids=[
        *("header of 8 EiB", "header of 99 MB", "overlap", "huge", "empty and huge", "deep"),
        *("many", "an escape sequence"),
    ],
)
def test_safetensors_of_lies(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    assert refused(read_source, path).startswith(str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".caffemodel", ".npz"])
def test_a_file_of_a_terabyte_of_nothing(tmp_path, suffix, happened):
    path = tmp_path / f"net{suffix}"
    path.touch()
    os.truncate(path, 2**40)
    message = refused(read_source, path)
    assert str(path) in message
    assert "2,147,483,648" in message
    happened(f"a {suffix} of 1 TiB", "refused by its size")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".caffemodel", ".npz"])
def test_weights_that_never_end(tmp_path, suffix, happened):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        path = tmp_path / f"{name}{suffix}"
        assert str(path) in refused(read_source, path)
    happened(f"a pipe, a device as {suffix}", "refused at once")


def test_a_view_that_repeats_one_number_without_end(tmp_path, happened):
    path, one = tmp_path / "net.pth", torch.zeros(1)
    torch.save(to_torchvision({name: one.expand(2**40) for name in NAMES}), path)
    assert str(path) in refused(read_source, path)
    happened("a .pth of 4 TiB in 4 bytes", "refused by name")


LAYER = b"".join(
    field(100, field(1, name.encode()) + field(7, field(7, field(1, b"\x01" * 1000))) * 2)
    for name in LAYERS
)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (field(100, b"") * 50_000, "conv1"),
        (LAYER, LAYERS[0]),
        (b"\x0b" * 100_000, ".caffemodel"),
        (b"\xa2\x06\xff\xff\xff\xff\x07", ".caffemodel"),
        (field(100, field(1, b"\x1b[2J\n") + field(7, b"")), r"\x1b[2J\n"),
    ],
)
def test_a_caffemodel_of_lies(tmp_path, content, named):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    assert named in refused(read_source, path)


@pytest.mark.parametrize(
    ("known", "named"),
    [
        ({"preprocessing": {"size": 10**9}}, "data.size"),
        ({"preprocessing": {"size": "a"}}, "data.size"),
        ({"preprocessing": {"workers": 99}}, "workers"),
        ({"variant": "d2l", "changes": {"pool": "a"}}, "net.pool"),
        ({"variant": 7}, "variant"),
    ],
)
def test_a_description_that_would_set_something_else(tmp_path, small_nets, known, named):
    path = tmp_path / "net.npz"
    write_file(some_weights("d2l"), path)
    with np.load(path) as found:
        arrays = {name: found[name] for name in NAMES}
    np.savez(path, **arrays, metadata=json.dumps({key: _as_text(v) for key, v in known.items()}))
    assert named in refused(read_source, path)


def _as_text(value):
    return json.dumps(value) if isinstance(value, dict) else value
