"""Files that somebody made to do harm: nothing in them runs, fills the memory or never ends."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import struct
import sys
import time
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data.fashion_mnist import MD5, FashionMNIST
from data.packed import Packed
from model.errors import InputError
from tests.preparation.trees import SIZE, make_tree, pack_tree
from tests.programs import finish, run, start
from tests.weights.nets import field, some_weights
from training.config import Config
from training.folder import read_metrics
from training.input import make_preprocess
from training.settings import load_config
from training.source import read_source
from weights.files import write_file
from weights.net import LAYERS, NAMES

SOON = 20.0
"""Seconds within which a refusal must come, on a busy machine too."""


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


def refused(function, *arguments):
    """The one line that ``function`` refuses with, soon."""
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert time.monotonic() - began < SOON
    message = str(caught.value)
    assert message.isprintable()
    return message


# --- Pickles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [".safetensors", ".pth", ".pt", ".caffemodel", ".npz", ".onnx", ".pt2", ".bin"]
)
def test_a_pickle_in_place_of_weights(tmp_path, payload, suffix, happened):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(payload)
    assert str(path) in refused(read_source, path)
    happened(f"a pickle as {suffix}", "refused by name, not run")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_where_torch_keeps_one(tmp_path, trace, legacy):
    path = tmp_path / "net.pth"
    torch.save({"a": Payload(trace)}, path, _use_new_zipfile_serialization=not legacy)
    assert "nothing else is unpickled" in refused(read_source, path)


@pytest.mark.parametrize("name", ["conv1.weight", "metadata"])
def test_objects_in_an_archive_of_arrays(tmp_path, trace, name, happened):
    path = tmp_path / "net.npz"
    arrays = {each: np.zeros(1, np.float32) for each in NAMES}
    contents: dict[str, Any] = {**arrays, name: np.array([Payload(trace)], dtype=object)}
    np.savez(path, **contents)
    message = refused(read_source, path)
    assert message.startswith(f"{path} is not a whole .npz archive of numbers")
    happened(f"an object as {name} of an .npz", "refused by name, not run")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_pickle_in_place_of_a_checkpoint_s_file(tmp_path, payload, name, happened):
    """Its sum is in the manifest: who writes the one can write the other."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    state = {"config": {"variant": "d2l"}, "trainer": {}, "totals": {}}
    for each in names:
        content = json.dumps(state).encode() if each == "state.json" else b""
        (folder / each).write_bytes(payload if each == name else content)
    sums = {each: hashlib.sha256((folder / each).read_bytes()).hexdigest() for each in names}
    (folder / "manifest.json").write_text(json.dumps(sums))
    if name == "manifest.json":
        (folder / name).write_bytes(payload)
    assert str(folder) in refused(read_source, folder)
    happened(f"a pickle as a checkpoint's {name}", "refused by name, not run")


CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint of empty files and a state, with the right sums."""

    def write(state):
        for name in CHECKPOINT:
            (tmp_path / name).write_bytes(state if name == "state.json" else b"")
        sums = {n: hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in CHECKPOINT}
        (tmp_path / "manifest.json").write_text(json.dumps(sums))
        return tmp_path

    return write


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
    assert "is damaged" in refused(read_source, checkpoint(state))


@pytest.mark.parametrize("name", [*CHECKPOINT, "manifest.json"])
def test_a_checkpoint_that_never_ends(checkpoint, name, happened):
    folder = checkpoint(b"{}")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "a pipe or a device" in refused(read_source, folder)
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


@pytest.fixture
def packed(tmp_path):
    return pack_tree(make_tree(tmp_path / "tree"), tmp_path / "packed")[0]


@pytest.mark.parametrize("name", ["train-00000.npy", "train-labels.npy", "index.json"])
def test_a_pickle_in_place_of_packed_images(packed, payload, name, happened):
    (packed / name).write_bytes(payload)
    assert str(packed / name) in refused(Packed, "train", packed)
    happened(f"a pickle as {name}", "refused by name, not run")


def test_a_pickle_in_place_of_fashion_mnist(tmp_path, payload):
    for name in MD5:
        (tmp_path / name).write_bytes(payload)
    assert "is not Fashion-MNIST's" in refused(FashionMNIST, "train", tmp_path)


def test_a_line_of_metrics_that_is_none_is_left_out(tmp_path, payload):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}', payload, b"[" * 100_000, b"[1]}", b'{"step": {}}', b"9" * 5000]
    path.write_bytes(b"\n".join([*lines, b'{"step": 2}', b'{"step": 3']))
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


# --- Small files that claim much ------------------------------------------------------------------


def npy(shape, descr="<f4"):
    """A file of no numbers whose header claims some."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header


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
    assert refused(read_source, tmp_path / "net.npz").startswith(str(tmp_path / "net.npz"))
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
    assert "it has more than 2,147,483,648 bytes" in refused(read_source, path)
    happened(f"a {suffix} of 1 TiB", "refused by its size")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".caffemodel", ".npz"])
def test_weights_that_never_end(tmp_path, suffix, happened):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        assert "a pipe or a device" in refused(read_source, tmp_path / f"{name}{suffix}")
    happened(f"a pipe, a device as {suffix}", "refused at once")


def test_a_view_that_repeats_one_number_without_end(tmp_path, monkeypatch, happened):
    path, one = tmp_path / "net.pth", torch.zeros(1)
    monkeypatch.setattr("weights.files.from_torchvision", lambda state: state)
    torch.save({name: one.expand(2**40) for name in NAMES}, path)
    assert "not of plain numbers" in refused(read_source, path)
    happened("a .pth of 4 TiB in 4 bytes", "refused by name")


LAYER = b"".join(
    field(100, field(1, name.encode()) + field(7, field(7, field(1, b"\x01" * 1000))) * 2)
    for name in LAYERS
)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (field(100, b"") * 50_000, "more than 1000 layers"),
        (LAYER, "more than 4 dimensions"),
        (b"\x0b" * 100_000, "not a whole .caffemodel"),
        (b"\xa2\x06\xff\xff\xff\xff\x07", "not a whole .caffemodel"),
        (field(100, field(1, b"\x1b[2J\n") + field(7, b"")), r"\x1b[2J\n"),
    ],
)
def test_a_caffemodel_of_lies(tmp_path, content, complaint):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    assert complaint in refused(read_source, path)


@pytest.mark.parametrize(
    ("known", "complaint"),
    [
        ({"preprocessing": {"size": 10**9}}, "data.size"),
        ({"preprocessing": {"size": "a"}}, "data.size"),
        ({"preprocessing": {"workers": 99}}, "says more than how images are prepared, workers"),
        ({"variant": "d2l", "changes": {"pool": "a"}}, "net.pool"),
        ({"variant": 7}, "variant is no name"),
    ],
)
def test_a_description_that_would_set_something_else(tmp_path, small_nets, known, complaint):
    path = tmp_path / "net.npz"
    write_file(some_weights("d2l"), path)
    with np.load(path) as found:
        arrays = {name: found[name] for name in NAMES}
    np.savez(path, **arrays, metadata=json.dumps({key: _as_text(v) for key, v in known.items()}))
    assert complaint in refused(read_source, path)


def _as_text(value):
    return json.dumps(value) if isinstance(value, dict) else value


# --- Packed images and configurations -------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../secret.npy", "/etc/secret.npy", "a/b.npy", ".npy", "..", "a.npy\n", "\udcff.npy"]
)
def test_an_index_cannot_lead_out_of_its_folder(packed, name, happened):
    index = json.loads((packed / "index.json").read_text())
    index["splits"]["train"]["shards"][0]["file"] = name
    (packed / "index.json").write_text(json.dumps(index))
    assert str(packed / "index.json") in refused(Packed, "train", packed)
    happened(f"{name!a} in an index", "refused by name")


@pytest.mark.parametrize("shape", [f"({2**70}, {SIZE}, {SIZE}, 3)", "(-1,)", "(" * 3000])
def test_a_shard_of_lies(packed, shape):
    (packed / "train-00000.npy").write_bytes(npy(shape, "|u1"))
    assert str(packed / "train-00000.npy") in refused(Packed, "train", packed)


@pytest.mark.parametrize("name", ["index.json", "train-labels.npy", "train-00001.npy"])
def test_packed_images_that_never_end(packed, name):
    (packed / name).unlink()
    os.mkfifo(packed / name)
    assert "a pipe or a device" in refused(Packed, "train", packed)


def aliases(levels):
    lines = ["a0: &a0 [" + "x," * 9 + "]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [" + f"*a{level - 1}," * 9 + "]")
    return "\n".join([*lines, f"name: *a{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (aliases(9), "write out what the alias stands for"),
        ("a: &a [*a]", "write out what the alias stands for"),
        ("name: " + "[" * 50_000, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(350)), "nested too deeply"),
        ("seed: " + "9" * 5000, "digits"),
        ("seed: 0x" + "f" * 5000, "a number is too large"),
        ("batch_size: 1" + "0" * 30, "a number is too large"),
        ("epochs: 1\nepochs: 2", "the key epochs is there twice"),
        ("data: {size: 64, size: 96}", "the key size is there twice"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("#" * 70_000, "it has more than 65,536 bytes"),
        ("batch_size: true", "batch_size: Input should be no truth value"),
        ('data: {folder: "a\\0b"}', "data.folder: Input should have no control characters"),
        ('"\\e[2J": 1', r"\x1b[2J: unknown key"),
        ("name: " + "a" * 101, "name: String should have at most 100"),
        ("runs: " + "a" * 256, "names of at most 255 bytes"),
        ("data: {size: 1000000}", "data.size"),
        ("data: {workers: 1000000}", "data.workers"),
        ("data: {synthetic_length: 1000000000000}", "data.synthetic_length"),
        ("optimizer: {accumulation: 1000000000000}", "optimizer.accumulation"),
        ("wandb_api_key: a-secret", "wandb_api_key: unknown key"),
        ("tracking: {api_key: a-secret}", "tracking.api_key: unknown key"),
    ],
    ids=lambda value: value[:24],
)
def test_a_configuration_that_cannot_be_meant(tmp_path, text, complaint):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    message = refused(load_config, path, [])
    assert complaint in message
    assert "a-secret" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("override", ["name=" + "[" * 50_000, "data={size: 64, size: 96}"])
def test_an_override_that_cannot_be_meant(tmp_path, override):
    (tmp_path / "mine.yaml").touch()
    message = refused(load_config, tmp_path / "mine.yaml", [override])
    assert "is not valid YAML" in message
    assert len(message) < 400


@pytest.mark.parametrize("kind", ["a pipe", "/dev/zero", "a folder"])
def test_a_configuration_that_never_ends(tmp_path, kind, happened):
    path = tmp_path / "mine.yaml"
    {
        "a pipe": lambda: os.mkfifo(path),
        "/dev/zero": lambda: path.symlink_to("/dev/zero"),
        "a folder": path.mkdir,
    }[kind]()
    assert refused(load_config, path, []).startswith(f"cannot read the config {path}")
    happened(f"{kind} as a configuration", "refused at once")


# --- Programs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    known = {"size": 64, "mean": 128.0, "deviation": 60.0}
    write_file(some_weights("d2l", preprocessing=known), path)
    yield path
    shutil.rmtree(path.parent)


def png(width, height):
    """A picture of a few bytes that says to have any size."""

    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    form = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", form) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


GIF = (
    b"GIF89a" + struct.pack("<HHBBBBHHHHB", 9, 9, 0, 0, 0, 0x2C, 0, 0, 65_535, 65_535, 0) + b"\2\0;"
)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


def test_pictures_of_every_bad_kind_in_one_go(net, tmp_path, happened):
    Image.new("RGB", (80, 70), "red").save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    contents = {
        b"bomb.png": png(65_000, 65_000),
        b"twice the limit.png": png(12_000, 12_000),
        b"bomb.gif": GIF,
        b"empty.jpg": b"",
        b"cut.png": good[: len(good) // 2],
        b"postscript.jpg": POSTSCRIPT,
    }
    names = {
        *(b"escape \x1b[2J.jpg", b"line\nbreak.jpg", b"no text \xff.jpg", b"bidi \xe2\x80\xae.jpg"),
        b"long " + b"a" * 240 + b".jpg",
    }
    folder = os.fsencode(tmp_path)
    for name, content in {**contents, **dict.fromkeys(names, b"no picture")}.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    bad = sorted({*contents, *names, b"pipe.jpg", b"device.jpg", b"folder.jpg"})
    paths = [os.fsdecode(os.path.join(folder, name)) for name in [*bad, b"good.png"]]
    process = start(sys.executable, "predict.py", *paths, "--weights", net)
    status, out, err = finish(process)
    assert status == 2
    assert len(out.splitlines()) == 6, out
    lines = err.splitlines()
    assert len(lines) == len(bad), err
    assert all(line.startswith("error: ") and line.isprintable() for line in lines)
    assert len([line for line in lines if "more pixels than the" in line]) == 3
    assert len([line for line in lines if "a pipe or a device" in line]) == 2
    for shown in (r"escape \x1b[2J.jpg", r"line\nbreak.jpg", r"no text \udcff.jpg", r"\u202e"):
        assert shown in err
    happened(f"{len(bad)} bad pictures and a good one", "each named on a line, the good one told")


def test_a_name_that_is_no_text_is_printed_escaped(net, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"red \xff\n.png")
    with open(path, "wb") as file:
        Image.new("RGB", (80, 70), "red").save(file, "PNG")
    predict = [sys.executable, "predict.py", os.fsdecode(path), "--weights", net]
    status, out, err = run(*predict)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == rf"{tmp_path}/red \udcff\n.png"
    assert len(out.splitlines()) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_conversion_that_is_interrupted_leaves_nothing(net, tmp_path, number, happened):
    target = tmp_path / "net.npz"
    target.write_text("before")
    process = start(sys.executable, "convert.py", net, target)
    while not (tmp_path / ".net.part.npz").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    assert finish(process) == (128 + number, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]
    assert target.read_text() == "before"
    happened(f"{number.name} to convert.py as it writes", f"status {128 + number}, nothing left")


def test_a_file_is_converted_onto_itself(tmp_path, small_nets):
    """Read before the name is given to what was written."""
    path = tmp_path / "net.safetensors"
    save_file(some_weights("d2l").tensors, path)
    weights = read_source(path).weights
    write_file(weights, path)
    again = read_source(path).weights
    assert all(torch.equal(again.tensors[name], t) for name, t in weights.tensors.items())
