"""The whole program on real ranks: what it leaves, how it continues, and how it refuses."""

import json
import shutil
import signal

import pytest
from PIL import Image
from safetensors.torch import load_file

from recording.metrics import read_metrics
from tests.programs import (
    TORCHRUN,
    finish,
    processes_mentioning,
    ranks,
    run,
    start,
    wait_until,
)

STEPS = 6
SETTINGS = (
    *("name=run", "data.name=synthetic", "data.size=64", "data.stored_size=72", "data.resize=72"),
    *("data.synthetic_length=40", "data.mean=100.0", "data.std=20.0", "data.mirror=true"),
    *("batch_size=8", "epochs=2", f"max_steps={STEPS}", "checkpoint_every=3", "variant=d2l"),
    *("net.hidden=64", "keep_best=false"),
    *("precision=fp32", "schedule.name=one_cycle", "tracking.mode=disabled"),
    *("init=xavier", "optimizer.learning_rate=0.006", "data.test_views=1"),
)


def train(world, runs, *arguments, **environment):
    return run(*ranks(world), "train.py", *SETTINGS, f"runs={runs}", *arguments, **environment)


@pytest.fixture(scope="module")
def split_run(tmp_path_factory):
    """A run of two epochs and a bit on two ranks, one tower each; (its folder, what it printed)."""
    runs = tmp_path_factory.mktemp("split")
    status, out, err = train(2, runs, "name=first", "tracking.mode=offline")
    assert status == 0, err
    yield runs / "first", out
    shutil.rmtree(runs)


def test_a_run_leaves_everything_in_its_folder(split_run):
    folder, out = split_run
    left = {path.name for path in folder.iterdir()}
    assert left == {
        *("config.yaml", "log.txt", "metrics.jsonl", "curves.png", "kernels.png"),
        *("summary.json", "checkpoints", "wandb", "launch.json"),
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["placement"] == "split"
    assert summary["world_size"] == summary["towers"] == 2
    assert summary["images_seen"] == STEPS * 8
    assert 0 <= summary["test_top1"] <= summary["test_top5"] <= 1
    assert f"{summary['test_top1']:.4f}" in out
    assert Image.open(folder / "curves.png").size[0] >= 800
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert "[ rank 0: tower 0 ] <-> [ rank 1: tower 1 ]" in (folder / "log.txt").read_text()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]


def test_the_bytes_that_towers_exchange_are_those_of_the_formula(split_run):
    summary = json.loads((split_run[0] / "summary.json").read_text())
    conv2, conv5, fc6, classes, images, fp32 = 128 * 2 * 2, 128 * 5 * 5, 32, 10, 8, 4
    meetings = 2 * (conv2 + conv5 + fc6) + classes  # the summed logits send nothing back
    assert summary["bytes_sent"] == meetings * images * fp32


def _rewound(folder, runs):
    """A copy of the run as it was after its first checkpoint."""
    copy = runs / "first"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:08d}")
    return copy


def _assert_same_run(found, expected):
    losses = [
        [
            line["train/loss"]
            for line in read_metrics(folder / "metrics.jsonl")
            if "train/loss" in line
        ]
        for folder in (found, expected)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for file in ("model", "optimizer"):
        name = f"checkpoints/step-{STEPS:08d}/{file}.safetensors"
        ours, theirs = load_file(found / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            # In fp32 one max pooling that chooses otherwise makes a difference of 1e-3.
            assert (ours[key] - tensor).abs().max() <= 1e-2 * tensor.abs().max()


@pytest.mark.parametrize("world", [0, 2, 4])
def test_a_split_run_continues_on_any_mesh(split_run, tmp_path, world):
    folder, _ = split_run
    copy = _rewound(folder, tmp_path)
    status, out, err = train(world, tmp_path, "name=first", "--resume")
    assert status == 0, err
    assert f"step 4/{STEPS}" in out
    _assert_same_run(copy, folder)
    shutil.rmtree(copy)


def test_a_local_run_continues_split(split_run, tmp_path):
    status, _, err = train(0, tmp_path, "name=first")
    assert status == 0, err
    _assert_same_run(tmp_path / "first", split_run[0])
    shutil.rmtree(tmp_path / "first" / "checkpoints" / f"step-{STEPS:08d}")
    status, _, err = train(2, tmp_path, "name=first", "--resume")
    assert status == 0, err
    _assert_same_run(tmp_path / "first", split_run[0])
    shutil.rmtree(tmp_path / "first")


def test_sigterm_ends_all_ranks_with_a_checkpoint(tmp_path):
    name = f"runs={tmp_path}"
    process = start(*ranks(2), "train.py", *SETTINGS, name, "epochs=5000", "max_steps=5000")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: read_metrics(metrics))
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 128 + signal.SIGTERM, err
    steps = json.loads((tmp_path / "run" / "summary.json").read_text())["steps"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps:08d}" / "manifest.json").exists()
    assert "--resume" in out
    assert "Traceback" not in err
    assert not processes_mentioning(name)


def test_an_evaluation_cut_short_is_made_up_for(tmp_path):
    settings = [*SETTINGS, f"runs={tmp_path}", "data.synthetic_length=6000", "max_steps=1"]
    process = start(*ranks(2), "train.py", *settings)
    folder = tmp_path / "run"
    wait_until(lambda: read_metrics(folder / "metrics.jsonl"))
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 128 + signal.SIGTERM, err
    assert "test_top1" not in json.loads((folder / "summary.json").read_text())
    status, _, err = run(*ranks(2), "train.py", *settings, "--resume")
    assert status == 0, err
    assert "test_top1" in json.loads((folder / "summary.json").read_text())


def test_a_run_outlives_whoever_read_its_output(tmp_path):
    process = start(*ranks(2), "train.py", *SETTINGS, f"runs={tmp_path}")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=100) == 0, process.stderr.read()
    assert (tmp_path / "run" / "summary.json").exists()


def test_bare_torchrun_numbers_a_second_run(tmp_path):
    (tmp_path / "run").mkdir()
    arguments = [f"runs={tmp_path}", "max_steps=1", "placement=local"]
    status, out, err = run(*TORCHRUN, "2", "train.py", *SETTINGS, *arguments)
    assert status == 0, err
    assert "replica 1  [ rank 1: tower 0-1 ]" in out
    assert "FutureWarning" not in err
    assert (tmp_path / "run-2" / "summary.json").exists()
    assert not list((tmp_path / "run").iterdir())


def _image_folder(root, corrupt):
    for split in ("train", "test"):
        for number in range(2):
            path = root / split / f"class{number}" / "image.jpg"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (80, 70), (90 * number, 50, 100)).save(path)
    if corrupt:
        path.write_text("this is no picture")
    return root


@pytest.mark.parametrize(
    ("world", "arguments", "complaint"),
    [
        (2, ["optimizer.momentun=0.5"], "did you mean 'momentum'?"),
        (2, ["data.name=image_folder", "data.folder=/nowhere"], "no folder /nowhere/train"),
        (0, ["placement=split"], "there are 1 ranks and 2 towers"),
        (0, ["towers=5"], "5 towers do not divide"),
        (0, ["data.size=63"], "data.size"),
        (0, ["data.mean=[1, 2]"], "one number per channel"),
        (0, ["--config", "no.yaml"], "no.yaml"),
        (0, ["--resume", "name=never"], "no run"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(tmp_path, world, arguments, complaint):
    status, out, err = train(world, tmp_path / "runs", *arguments)
    assert status == 2
    assert complaint in err
    assert err.count("\n") == 1, err
    assert not out
    assert not (tmp_path / "runs").exists()


def test_a_corrupt_image_ends_all_ranks_with_its_name(tmp_path):
    folder = _image_folder(tmp_path / "images", corrupt=True)
    settings = ["data.name=image_folder", f"data.folder={folder}", "data.workers=1"]
    status, _, err = train(2, tmp_path / "runs", *settings)
    assert status == 2
    assert "class1/image.jpg cannot be read as an image" in err
    assert "Traceback" not in err
    assert not processes_mentioning(str(tmp_path))


def test_training_on_image_folders(tmp_path):
    folder = _image_folder(tmp_path / "images", corrupt=False)
    settings = ["data.name=image_folder", f"data.folder={folder}", "data.workers=1", "epochs=1"]
    status, _, err = train(2, tmp_path / "runs", *settings)
    assert status == 0, err
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert summary["images_seen"] == 2


def test_a_diverging_loss_ends_the_run_before_a_checkpoint(tmp_path):
    status, _, err = train(2, tmp_path, "optimizer.learning_rate=1e20")
    assert status == 2
    assert "the loss became" in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_does_not_resume_with_other_settings(split_run, tmp_path):
    copy = _rewound(split_run[0], tmp_path)
    status, _, err = train(0, tmp_path, "name=first", "--resume", "batch_size=16")
    assert status == 2
    assert "batch_size: it was 8 and is now 16" in err
    shutil.rmtree(copy)
