"""Hostile packed images and configurations: none leads out of its folder or runs forever."""

import json
import os

import pytest

from data.packed.reader import Packed
from tests.data.packed.trees import SIZE
from tests.faults.hostile import npy, refused
from training.settings import load_config


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
    assert str(packed / name) in refused(Packed, "train", packed)


def growing(levels, key, inner):
    """YAML whose ``key`` stands for 9 to the power of ``levels`` values."""
    value = inner
    for level in range(levels):
        value = f"[&a{level} {value}" + f", *a{level}" * 8 + "]"
    return f"{key}: {value}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (growing(9, "name", "x"), "name: "),
        (growing(9, "data", "x"), "data: "),
        (f"data: {{{growing(9, 'size', '1')}}}", "data.size: "),
        (growing(9, "data: {<<", "{size: 64}") + "}", "merge"),
        ("a: &a [*a]", "a: "),
        ("name: &a [*a]", "name: "),
        ("data: &a {size: [*a]}", "data.size: "),
        ("? &a [*a]\n: 1", "unhashable key"),
        ("name: " + "[" * 50_000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "digits"),
        ("seed: 0x" + "f" * 5000, "seed: "),
        ("timeout: 0x" + "f" * 5000, "timeout: "),
        ("name: {a: [0x" + "f" * 5000 + "]}", "name: "),
        ("batch_size: 1" + "0" * 30, "batch_size: "),
        ("epochs: 1\nepochs: 2", "key epochs"),
        ("data: {size: 64, size: 96}", "key size"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("#" * 70_000, "65,536 bytes"),
        ("batch_size: true", "batch_size: "),
        ('data: {folder: "a\\0b"}', "data.folder: "),
        ('"\\e[2J": 1', r"\x1b[2J: "),
        ("name: " + "a" * 101, "name: "),
        ("runs: " + "a" * 256, "runs: "),
        ("data: {size: 1000000}", "data.size"),
        ("data: {workers: 1000000}", "data.workers"),
        ("data: {synthetic_length: 1000000000000}", "data.synthetic_length"),
        ("optimizer: {gradient_accumulation: 1000000000000}", "optimizer.gradient_accumulation"),
        ("wandb_api_key: a-secret", "wandb_api_key: "),
        ("tracking: {api_key: a-secret}", "tracking.api_key: "),
    ],
    ids=lambda value: value[:24],
)
def test_a_configuration_that_cannot_be_meant(tmp_path, text, named):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    message = refused(load_config, path, [])
    assert named in message
    assert "a-secret" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("override", ["name=" + "[" * 50_000, "data={size: 64, size: 96}"])
def test_an_override_that_cannot_be_meant(tmp_path, override):
    (tmp_path / "mine.yaml").touch()
    message = refused(load_config, tmp_path / "mine.yaml", [override])
    assert override[:20] in message
    assert len(message) < 400


@pytest.mark.parametrize("kind", ["a pipe", "/dev/zero", "a folder"])
def test_a_configuration_that_never_ends(tmp_path, kind, happened):
    path = tmp_path / "mine.yaml"
    {
        "a pipe": lambda: os.mkfifo(path),
        "/dev/zero": lambda: path.symlink_to("/dev/zero"),
        "a folder": path.mkdir,
    }[kind]()
    assert str(path) in refused(load_config, path, [])
    happened(f"{kind} as a configuration", "refused at once")
