"""Training on data that are broken, odd, or vanish meanwhile: on two ranks, as a user runs it."""

import json
import os
import signal

import pytest

from tests.data.conftest import save_picture
from tests.data.packed.trees import make_tree, pack_tree
from tests.faults.runs import INJECTED
from tests.programs import finish, processes_mentioning, ranks, run, start, wait_until

pytestmark = pytest.mark.programs

SETTINGS = (
    *("name=run", "variant=d2l", "data.size=64", "data.resize=64", "data.stored_size=64"),
    *("data.mean=100.0", "data.std=60.0", "batch_size=8", "precision=fp32"),
    *("epochs=1", "keep_checkpoints=0", "tracking.mode=disabled", "optimizer.learning_rate=0.001"),
)


def command(runs, *settings):
    return (*ranks(2), "train.py", *SETTINGS, f"runs={runs}", *settings)


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree", images=8)


def refusal(outcome):
    """The one line that a program ended with, refusing its input."""
    status, _, err = outcome
    assert status == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("kind", "workers", "complaint"),
    [("text", 0, "it is none of JPEG"), ("pipe", 1, "it is a pipe or a device")],
)
def test_a_bad_image_is_named_when_its_batch_comes(
    tree, tmp_path, kind, workers, complaint, happened
):
    bad = tree / "train" / "bee" / "\x1b[2Jbad.jpg"
    bad.write_text("no picture") if kind == "text" else os.mkfifo(bad)
    folder = ("data.name=image_folder", f"data.folder={tree}", f"data.workers={workers}")
    message = refusal(run(*command(tmp_path, *folder)))
    assert r"bee/\x1b[2Jbad.jpg cannot be read as an image" in message
    assert complaint in message
    assert processes_mentioning(str(tmp_path)) == []
    happened(
        f"a {kind} among the images, {workers} workers",
        "named when its batch comes, all ranks ended",
    )


def test_nothing_is_left_of_ranks_that_read_ahead_when_one_is_killed(tree, tmp_path, happened):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = ("data.name=image_folder", f"data.folder={tree}", "data.workers=2", "epochs=4")
    command = (*ranks(2), INJECTED, *SETTINGS, *folder, f"runs={tmp_path}")
    status, _, err = run(*command, FAULT="kill:1:3", TMPDIR=str(scratch))
    assert status == 128 + signal.SIGKILL, err
    assert processes_mentioning(str(tmp_path)) == []
    assert list(scratch.iterdir()) == []
    happened("kill:1:3, while two workers read images", "no process and no file is left of them")


def test_packed_images_cut_short_in_the_middle_of_training(tree, tmp_path, happened):
    packed, _ = pack_tree(tree, tmp_path / "packed", size=64)
    settings = ("data.name=packed", f"data.folder={packed}", "epochs=100000")
    process = start(*command(tmp_path, *settings))
    wait_until(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 120)
    os.truncate(packed / "train-00001.npy", 200)
    message = refusal(finish(process))
    assert f"{packed / 'train-00001.npy'} has become shorter" in message
    assert processes_mentioning(str(tmp_path)) == []
    happened("packed images cut short meanwhile", "named, all ranks ended")


def test_one_class_fewer_images_than_replicas_and_a_last_batch_of_one(tmp_path, happened):
    for split, images in (("train", 9), ("test", 1)):
        for number in range(images):
            save_picture(tmp_path / "tree" / split / "only" / f"{number}.png", size=(64, 64))
    folder = ("data.name=image_folder", f"data.folder={tmp_path / 'tree'}", "placement=local")
    status, _, err = run(*command(tmp_path, *folder))
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["train/images"] for line in lines if "train/images" in line] == [8, 1]
    assert lines[-1]["test/top1"] == 1
    happened("1 class, 1 image for 2 replicas, batch of 1", "trained, each image counted once")
