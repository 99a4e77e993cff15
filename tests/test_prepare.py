"""The whole command, as a user runs it: what it says, how it is killed, and training on it."""

import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.packed.index import UNFINISHED, read_index
from data.packed.reader import Packed
from data.packed.source import list_source
from data.packed.storing import CONTINUE
from data.packed.writer import prepare
from tests.calls import call, refusal
from tests.data.packed.trees import (
    BROKEN,
    add_odd_files,
    contents,
    expected,
    make_tree,
    pack_tree,
    save_noise,
)
from tests.programs import finish, processes_mentioning, run, start, wait_until
from tests.runs import summary_of

pytestmark = pytest.mark.programs

PREPARE = [sys.executable, "prepare.py"]
SMALL = ("--size", 16, "--shard-images", 4, "--workers", 2)
SLOW = ("--size", 16, "--shard-images", 2, "--workers", 2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return add_odd_files(make_tree(tmp_path_factory.mktemp("images") / "tree"))


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory):
    """(the packed folder, what the program printed)."""
    target = tmp_path_factory.mktemp("prepared") / "new" / "packed"
    status, out, err = run(*PREPARE, tree, target, *SMALL)
    assert (status, err) == (0, "")
    return target, out


@pytest.fixture(scope="module")
def slow_tree(tmp_path_factory):
    """Pictures that take a while."""
    root = tmp_path_factory.mktemp("slow") / "tree"
    large = [save_noise(root / f"{seed}.jpg", seed, width=2000, height=1400) for seed in range(6)]
    for number in range(24):
        path = root / "train" / ("ant" if number % 2 else "bee") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(large[number % 6])
    for name in ("ant", "bee"):
        save_noise(root / "test" / name / "0.jpg", 99)
    (root / "train" / "ant" / "broken.jpg").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def undisturbed(slow_tree, tmp_path_factory):
    target = tmp_path_factory.mktemp("undisturbed") / "packed"
    target.mkdir()
    prepare(list_source(slow_tree), target, size=16, shard_images=2, workers=1)
    return contents(target)


def test_the_stored_pixels_are_those_of_the_files(tree, prepared):
    for split in ("train", "test"):
        dataset = Packed(split, prepared[0])
        images, labels = dataset.read(torch.arange(len(dataset)))
        wanted, wanted_labels = expected(tree, split)
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1), wanted)
        assert labels.tolist() == wanted_labels


def test_what_was_odd_is_said(prepared):
    _, out = prepared
    assert out.startswith("18 train and 4 test images in 2 classes\n")
    assert "train: 15 images (1 grey and 1 CMYK converted to RGB), 3 files skipped\n" in out
    assert "test: 4 images (0 grey and 0 CMYK converted to RGB), 0 files skipped\n" in out
    for name in BROKEN:
        assert out.count(f"  skipped train/ant/{name}: ") == 1


def test_a_second_time_there_is_nothing_to_do(tree, prepared):
    target, said = prepared
    before = contents(target)
    status, out = call("prepare", tree, target, *SMALL)
    assert status == 0
    assert out[out.index("\ntrain: ") :] == said[said.index("\ntrain: ") :]
    assert contents(target) == before


def test_training_takes_the_folder_with_the_settings_that_were_printed(prepared, tmp_path):
    target, out = prepared
    *_, settings, colors = out.splitlines()
    settings = shlex.split(settings.removeprefix("train with "))
    settings += shlex.split(colors.partition(", add ")[2])
    assert settings[:2] == ["data.name=packed", f"data.folder={target}"]
    small = ("name=run", "variant=d2l", "net.hidden=64", "data.size=64", "batch_size=4")
    short = ("epochs=2", "data.workers=1", "optimizer.learning_rate=0.0001")
    tracking = "tracking.mode=disabled"
    status, _ = call("train", *settings, *small, *short, tracking, f"runs={tmp_path}")
    assert status == 0
    assert summary_of(tmp_path / "run")["images_seen"] == 30


def test_another_size_than_the_packed_one_is_refused(prepared):
    settings = ("data.name=packed", f"data.folder={prepared[0]}", "data.stored_size=17")
    assert "data.stored_size=16" in refusal("train", *settings, "tracking.mode=disabled")


def test_verify_finds_what_was_altered(prepared, tmp_path):
    target = shutil.copytree(prepared[0], tmp_path / "packed")
    assert call("prepare", "--verify", target) == (
        0,
        f"all 9 files of {target} have the sums in the index\n",
    )
    with (target / "train-00002.npy").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    message = refusal("prepare", "--verify", target)
    assert "1 of the 9 files" in message
    assert "train-00002.npy" in message


def has_ended(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def interrupted(tree, target, number, shards):
    """Start packing, and send a signal when ``shards`` are finished; (status, output, errors)."""
    process = start(*PREPARE, tree, target, *SLOW)
    deadline = time.monotonic() + 60
    while len(list((target / UNFINISHED).glob("train-*.json"))) < shards:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, number)
    ended = finish(process, timeout=20)
    while not has_ended(process.pid):  # its workers too
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return ended


@pytest.mark.slow
def test_killed_twice_and_gone_on_with_the_bytes_are_the_same(slow_tree, undisturbed, tmp_path):
    target = tmp_path / "packed"
    for shards in (1, 5):
        status, _, _ = interrupted(slow_tree, target, signal.SIGKILL, shards)
        assert status == -signal.SIGKILL
        assert not (target / "index.json").exists()
    status, out, err = run(*PREPARE, slow_tree, target, *SLOW)
    assert (status, err) == (0, "")
    assert "before" in out
    assert contents(target) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_soon_without_a_partial_file(slow_tree, tmp_path, number):
    target = tmp_path / "packed"
    status, out, err = interrupted(slow_tree, target, number, 2)
    assert (status, err) == (128 + number, "")
    assert CONTINUE in out
    assert not list(target.rglob(".*.part*"))
    assert (target / UNFINISHED / "plan.json").exists()


@pytest.fixture
def scratch():
    """A folder for temporary files, with a path short enough for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_signal_while_workers_start_leaves_nothing_behind(slow_tree, tmp_path, scratch):
    process = start(*PREPARE, slow_tree, tmp_path / "packed", *SLOW, TMPDIR=str(scratch))
    wait_until(lambda: list(scratch.glob("pymp-*")))  # what Python starts workers with
    os.kill(process.pid, signal.SIGTERM)
    status, out, err = finish(process, timeout=60)
    assert (status, err) == (128 + signal.SIGTERM, "")
    assert CONTINUE in out
    assert not processes_mentioning(str(scratch))
    assert not list(scratch.glob("pymp-*"))


def test_a_temporary_folder_too_deep_for_workers_is_named(tree, tmp_path):
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    status, _, err = run(*PREPARE, tree, tmp_path / "packed", *SMALL, TMPDIR=str(deep))
    assert status == 2
    assert str(deep) in err
    assert err.count("\n") == 1


def test_a_full_disk_is_a_sentence_and_no_loss(tree, tmp_path):
    target = tmp_path / "packed"
    settings = (*SMALL, "--shard-images", 8)
    limited = ["bash", "-c", 'ulimit -f 5 && exec "$@"', "-"]  # a file of at most 5 KiB
    status, _, err = run(*limited, *PREPARE, tree, target, *settings)
    assert status == 2
    assert err.startswith(f"error: cannot write {target}/train-0000")
    assert CONTINUE in err
    assert err.count("\n") == 1
    assert not list(target.rglob(".*.part*"))
    assert call("prepare", tree, target, *settings)[0] == 0
    assert contents(target) == contents(pack_tree(tree, tmp_path / "whole", shard_images=8)[0])


def test_two_do_not_pack_into_one_folder(slow_tree, undisturbed, tmp_path):
    target = tmp_path / "packed"
    first = start(*PREPARE, slow_tree, target, *SLOW)
    while not (target / UNFINISHED).exists():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    status, _, err = run(*PREPARE, slow_tree, target, *SLOW)
    os.kill(first.pid, signal.SIGCONT)
    assert status == 2
    assert str(target) in err
    assert finish(first)[0] == 0
    assert contents(target) == undisturbed


def test_a_flat_folder_of_validation_images(tmp_path):
    tree = make_tree(tmp_path / "tree")
    shutil.rmtree(tree / "val")
    lines = ["ImageId,PredictionString"]
    for number, name in enumerate(("bee", "ant", "bee")):
        stem = f"ILSVRC2012_val_{number:08d}"
        save_noise(tree / "val" / f"{stem}.JPEG", number)
        lines.append(f"{stem},{name} 1 2 3 4")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    target = tmp_path / "packed"
    labels = ("--val-labels", tmp_path / "labels.csv")
    assert call("prepare", tree, target, *SMALL, *labels)[0] == 0
    test_set = Packed("test", target)
    assert [test_set.classes[label] for label in test_set.labels] == ["bee", "ant", "bee"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "TARGET"),
        (["only"], "TARGET"),
        (["source", "target", "--verify", "target"], "--verify"),
        (["source", "--verify", "target"], "--verify"),
        (["/nowhere", "target"], "/nowhere/train"),
        (["--verify", "/nowhere"], "/nowhere/index.json"),
        (["source", "target", "--size", "0"], "'0'"),
        (["source", "target", "--shard-images", "99999999"], "'99999999'"),
        (["source", "target", "--workers", "many"], "'many'"),
    ],
)
def test_bad_input_is_refused(arguments, named):
    assert named in refusal("prepare", *arguments)


def test_a_target_of_another_size_is_refused(tree, prepared):
    target, _ = prepared
    message = refusal("prepare", tree, target, *SMALL, "--size", 32)
    assert all(part in message for part in (str(target), "--size", "16", "32"))
    assert read_index(target).plan.size == 16


def test_the_help_describes_the_lists_of_classes(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        call("prepare", "--help")
    out = capsys.readouterr().out
    assert "LOC_val_solution.csv" in out
    assert max(map(len, out.splitlines())) <= 100
