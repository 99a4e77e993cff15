"""Hostile files, as a program meets them."""

import os
import shutil
import signal
import struct
import sys
import time
import zlib

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from recording.source import read_source
from tests.programs import finish, run, start
from tests.weights.nets import SMALL, some_weights
from weights.files import write_file

KNOWN = {"size": 64, "mean": 128.0, "std": 60.0}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    write_file(some_weights("d2l", preprocessing=KNOWN, changes=SMALL), path)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Weights that take a while to write."""
    path = tmp_path_factory.mktemp("large") / "net.safetensors"
    write_file(some_weights("d2l"), path)
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
    no_text = b"red \xff\n.png"
    Image.new("RGB", (80, 70), "red").save(tmp_path / os.fsdecode(no_text), "PNG")
    bad = sorted({*contents, *names, b"pipe.jpg", b"device.jpg", b"folder.jpg"})
    paths = [os.fsdecode(os.path.join(folder, name)) for name in [*bad, b"good.png", no_text]]
    status, out, err = run(sys.executable, "predict.py", *paths, "--weights", net)
    assert status == 2
    assert len(out.splitlines()) == 12, out
    assert out.splitlines()[6] == rf"{tmp_path}/red \udcff\n.png"
    lines = err.splitlines()
    assert len(lines) == len(bad), err
    assert all(line.startswith("error: ") and line.isprintable() for line in lines)
    assert len([line for line in lines if f" {Image.MAX_IMAGE_PIXELS}: " in line]) == 3
    for shown in (r"escape \x1b[2J.jpg", r"line\nbreak.jpg", r"no text \udcff.jpg", r"\u202e"):
        assert shown in err
    happened(f"{len(bad)} bad pictures and two good ones", "each named on a line, the good told")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_conversion_that_is_interrupted_leaves_nothing(large, tmp_path, number, happened):
    target = tmp_path / "net.npz"
    target.write_text("before")
    process = start(sys.executable, "convert.py", large, target)
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
