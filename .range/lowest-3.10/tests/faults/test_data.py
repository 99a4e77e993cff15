"""Training on data that are broken, odd, or vanish meanwhile: on two ranks, as a user runs it."""

import os
import signal

import pytest

from recording.metrics import read_metrics
from tests.calls import refusal
from tests.data.conftest import save_picture
from tests.data.packed.trees import make_tree, pack_tree
from tests.faults.runs import train_with
from tests.programs import finish, processes_mentioning, ranks, start, wait_until
from tests.runs import SETTINGS, train

pytestmark = pytest.mark.programs

PACKED = ("data.name=packed", "data.stored_size=64", "data.resize=64", "keep_checkpoints=0")


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree", images=8)


def image_folder(tree, *settings):
    return ("data.name=image_folder", f"data.folder={tree}", "keep_checkpoints=0", *settings)


def assert_refused(outcome, *named):
    """A program has ended with one line, which names what is wrong."""
    status, _, err = outcome
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    assert all(part in err for part in named), err


def test_a_bad_image_is_named_when_its_batch_comes(tree, tmp_path, happened):
    (tree / "train" / "bee" / "\x1b[2Jbad.jpg").write_text("no picture")
    outcome = train(2, tmp_path, *image_folder(tree, "data.workers=1"))
    assert_refused(outcome, r"bee/\x1b[2Jbad.jpg")
    assert processes_mentioning(str(tmp_path)) == []
    happened("a text among the images", "named when its batch comes, all ranks ended")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pipe_among_the_images_is_not_waited_for(tree, tmp_path, happened, workers):
    os.mkfifo(tree / "train" / "bee" / "bad.jpg")
    settings = image_folder(tree, f"data.workers={workers}")
    assert "bee/bad.jpg" in refusal("train", *SETTINGS, f"runs={tmp_path}", *settings)
    happened(f"a pipe among the images, {workers} workers", "named when its batch comes")


def test_nothing_is_left_of_ranks_that_read_ahead_when_one_is_killed(tree, tmp_path, happened):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = image_folder(tree, "data.workers=2", "epochs=4")
    status, _, err = train_with("kill:1:3", 2, tmp_path, *settings, TMPDIR=str(scratch))
    assert status == 128 + signal.SIGKILL, err
    assert processes_mentioning(str(tmp_path)) == []
    assert list(scratch.iterdir()) == []
    happened("kill:1:3, while two workers read images", "no process and no file is left of them")


def test_packed_images_cut_short_in_the_middle_of_training(tree, tmp_path, happened):
    packed, _ = pack_tree(tree, tmp_path / "packed", size=64)
    settings = (*PACKED, f"data.folder={packed}", "epochs=100000", "max_steps=null")
    process = start(*ranks(2), "train.py", *SETTINGS, f"runs={tmp_path}", *settings)
    wait_until(lambda: read_metrics(tmp_path / "run" / "metrics.jsonl"), 120)
    os.truncate(packed / "train-00001.npy", 200)
    assert_refused(finish(process), str(packed / "train-00001.npy"))
    assert processes_mentioning(str(tmp_path)) == []
    happened("packed images cut short meanwhile", "named, all ranks ended")


def test_one_class_fewer_images_than_replicas_and_a_last_batch_of_one(tmp_path, happened):
    for split, images in (("train", 9), ("test", 1)):
        for number in range(images):
            save_picture(tmp_path / "tree" / split / "only" / f"{number}.png", size=(64, 64))
    settings = image_folder(tmp_path / "tree", "placement=local", "data.workers=1", "epochs=1")
    status, _, err = train(2, tmp_path, *settings)
    assert status == 0, err
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["train/images"] for line in lines if "train/images" in line] == [8, 1]
    assert lines[-1]["test/top1"] == 1
    happened("1 class, 1 image for 2 replicas, batch of 1", "trained, each image counted once")
