"""The program that writes weights in another form, as a user runs it."""

import pickle
import shutil
import sys

import pytest
import torch

from tests.programs import run
from tests.weights.nets import some_weights
from weights.files import read_file, write_file

pytestmark = pytest.mark.programs

CONVERT = [sys.executable, "convert.py"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of weights, alone in its folder."""
    path = tmp_path_factory.mktemp("convert") / "net.safetensors"
    write_file(some_weights("d2l"), path)
    yield path
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_weights_come_through_unchanged(source, tmp_path, suffix):
    status, out, err = run(*CONVERT, source, tmp_path / f"net{suffix}")
    assert (status, err) == (0, "")
    assert "d2l, 2 tower(s), 10 classes, 3 channel(s), 45,374,858 parameters" in out
    assert [path.name for path in tmp_path.iterdir()] == [f"net{suffix}"]
    before, after = read_file(source), read_file(tmp_path / f"net{suffix}")
    assert (after.variant, after.towers) == ("d2l", 2)
    assert all(torch.equal(after.tensors[name], t) for name, t in before.tensors.items())
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(("suffix", "complaint"), [(".pth", "one tower"), (".h5", "must end in")])
def test_a_form_that_cannot_hold_the_net_leaves_what_was_there(source, tmp_path, suffix, complaint):
    target = tmp_path / f"net{suffix}"
    target.write_text("before")
    status, out, err = run(*CONVERT, source, target)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt2"])
def test_a_folder_that_is_missing_is_named(source, tmp_path, suffix):
    target = tmp_path / "no" / f"net{suffix}"
    status, _, err = run(*CONVERT, source, target)
    assert status == 2
    assert f"cannot write {target}: No such file or directory" in err
    assert err.count("\n") == 1


def test_another_variant_than_the_file_s_is_refused(source, tmp_path):
    status, _, err = run(*CONVERT, source, tmp_path / "net.npz", "--variant", "paper")
    assert status == 2
    assert "variant d2l, not paper" in err


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    code = f"__import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()"
    payload = b"cbuiltins\neval\n(V" + code.encode() + b"\ntR."
    pickle.loads(payload)  # it would work
    (tmp_path / "executed").unlink()
    (tmp_path / "net.pth").write_bytes(payload)
    status, _, err = run(*CONVERT, tmp_path / "net.pth", tmp_path / "net.npz")
    assert (status, err.count("\n")) == (2, 1)
    assert "nothing else is unpickled" in err
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]
