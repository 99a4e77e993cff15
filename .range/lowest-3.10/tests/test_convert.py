"""The program that writes weights in another form."""

import sys

import pytest
import torch

from tests.calls import call, refusal
from tests.programs import run
from tests.weights.nets import SMALL, some_weights
from weights.files import read_file, write_file


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of weights, alone in its folder."""
    path = tmp_path_factory.mktemp("convert") / "net.safetensors"
    write_file(some_weights("d2l", changes=SMALL), path)
    return path


@pytest.mark.programs
def test_weights_come_through_unchanged(source, tmp_path):
    target = tmp_path / "again.safetensors"
    status, out, err = run(sys.executable, "convert.py", source, target)
    assert (status, err) == (0, "")
    assert "d2l, 2 tower(s), 10 classes, 3 channel(s)" in out
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    before, after = read_file(source), read_file(target)
    assert (after.variant, after.towers, after.changes) == ("d2l", 2, SMALL)
    assert all(torch.equal(after.tensors[name], t) for name, t in before.tensors.items())


def test_the_number_of_parameters_is_told(small_nets, tmp_path):
    weights = some_weights("d2l")
    write_file(weights, tmp_path / "net.safetensors")
    _, said = call("convert", tmp_path / "net.safetensors", tmp_path / "net.npz")
    assert f"{sum(tensor.numel() for tensor in weights.tensors.values()):,} parameters" in said
    assert read_file(tmp_path / "net.npz").variant == "d2l"


@pytest.mark.parametrize("suffix", [".pth", ".h5"])
def test_a_form_that_cannot_hold_the_net_leaves_what_was_there(source, tmp_path, suffix):
    target = tmp_path / f"net{suffix}"
    target.write_text("before")
    assert suffix in refusal("convert", source, target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_a_folder_that_is_missing_is_named(source, tmp_path, suffix):
    target = tmp_path / "no" / f"net{suffix}"
    message = refusal("convert", source, target)
    assert str(target) in message
    assert "No such file" in message


def test_another_variant_than_the_file_s_is_refused(source, tmp_path):
    message = refusal("convert", source, tmp_path / "net.npz", "--variant", "paper")
    assert "d2l" in message
    assert "paper" in message
