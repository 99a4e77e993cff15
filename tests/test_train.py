"""The whole program on real ranks: what it leaves, how it continues, and how it refuses."""

import shutil
import signal

import pytest
from PIL import Image
from safetensors.torch import load_file

from recording.metrics import read_metrics
from tests.calls import call, refusal
from tests.programs import TORCHRUN, finish, processes_mentioning, ranks, run, start, wait_until
from tests.runs import SETTINGS, STEPS, losses, steps_saved, summary_of, train

pytestmark = pytest.mark.programs


def test_a_run_leaves_everything_in_its_folder(split_run):
    folder, out = split_run
    left = {path.name for path in folder.iterdir()}
    assert left == {
        *("config.yaml", "log.txt", "metrics.jsonl", "curves.png", "kernels.png"),
        *("summary.json", "checkpoints", "wandb", "launch.json"),
    }
    summary = summary_of(folder)
    assert summary["placement"] == "split"
    assert summary["world_size"] == summary["towers"] == 2
    assert summary["images_seen"] == STEPS * 8
    assert 0 <= summary["test_top1"] <= summary["test_top5"] <= 1
    assert f"{summary['test_top1']:.4f}" in out
    assert Image.open(folder / "curves.png").size[0] >= 800
    assert [step for step, _ in losses(folder)] == list(range(1, STEPS + 1))
    log = (folder / "log.txt").read_text()
    assert "rank 0  tower 0, images 0-7  units 0-31, images 0-7\n" in log
    assert "rank 1  tower 1, images 0-7  units 32-63, images 0-7\n" in log
    assert steps_saved(folder) == [4, 8]


def test_the_bytes_that_towers_exchange_are_those_of_the_formula(split_run):
    summary = summary_of(split_run[0])
    conv2, conv5, fc6, classes, images, fp32 = 128 * 2 * 2, 128 * 5 * 5, 32, 10, 8, 4
    meetings = 2 * (conv2 + conv5 + fc6) + classes  # the summed logits send nothing back
    assert summary["bytes_sent"] == meetings * images * fp32


def _assert_same_run(found, expected):
    ours, theirs = ([loss for _, loss in losses(folder)] for folder in (found, expected))
    assert ours == pytest.approx(theirs, rel=1e-3)
    for file in ("model", "optimizer"):
        name = f"checkpoints/step-{STEPS:08d}/{file}.safetensors"
        tensors, wanted = load_file(found / name), load_file(expected / name)
        assert tensors.keys() == wanted.keys()
        for key, tensor in wanted.items():
            # In fp32 one max pooling that chooses otherwise makes a difference of 1e-3.
            assert (tensors[key] - tensor).abs().max() <= 1e-2 * tensor.abs().max()


def test_a_run_continues_on_any_mesh(split_run, tmp_path):
    """Split over two ranks, then in one process, then two replicas of split towers, then split."""
    folder, copy = split_run[0], tmp_path / "first"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    settings = ("name=first", "checkpoint_every=1", "keep_checkpoints=9", "--resume")
    for world, begins_after in [(0, 4), (4, 6), (2, 7)]:
        for step in steps_saved(copy):
            if step > begins_after:
                shutil.rmtree(copy / "checkpoints" / f"step-{step:08d}")
        status, out, err = train(world, tmp_path, *settings)
        assert status == 0, err
        assert f"step {begins_after + 1}/{STEPS}" in out
        assert f"step {begins_after}/{STEPS}" not in out
        _assert_same_run(copy, folder)
    shutil.rmtree(copy)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_ranks_with_a_checkpoint(tmp_path, number):
    name = f"runs={tmp_path}"
    process = start(*ranks(2), "train.py", *SETTINGS, name, "epochs=5000", "max_steps=5000")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: read_metrics(metrics))
    process.send_signal(number)
    status, out, err = finish(process)
    assert status == 128 + number, err
    steps = summary_of(tmp_path / "run")["steps"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps:08d}" / "manifest.json").exists()
    assert "--resume" in out
    assert "Traceback" not in err
    assert not processes_mentioning(name)


def test_an_evaluation_cut_short_is_made_up_for_once(tmp_path):
    settings = [*SETTINGS, f"runs={tmp_path}", "data.synthetic_length=6000", "max_steps=1"]
    process = start(*ranks(2), "train.py", *settings)
    folder = tmp_path / "run"
    wait_until(lambda: read_metrics(folder / "metrics.jsonl"))
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 128 + signal.SIGTERM, err
    assert "test_top1" not in summary_of(folder)
    for _ in range(2):
        assert call("train", *settings, "--resume")[0] == 0
        assert "test_top1" in summary_of(folder)
    assert (
        len([line for line in read_metrics(folder / "metrics.jsonl") if "test/top1" in line]) == 1
    )


def test_a_run_outlives_whoever_read_its_output(tmp_path):
    process = start(*ranks(2), "train.py", *SETTINGS, f"runs={tmp_path}")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=100) == 0, process.stderr.read()
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(("every", "steps"), [("null", [5, 8]), ("3", [3, 6, 8])])
def test_a_net_is_tested_after_each_epoch_or_every_so_many_steps(tmp_path, every, steps):
    call("train", *SETTINGS, f"runs={tmp_path}", f"evaluate_every={every}", "towers=1")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "test/top1" in line] == steps


def test_bare_torchrun_numbers_a_second_run(tmp_path):
    (tmp_path / "run").mkdir()
    arguments = [f"runs={tmp_path}", "max_steps=1", "placement=local"]
    status, out, err = run(*TORCHRUN, "2", "train.py", *SETTINGS, *arguments)
    assert status == 0, err
    assert "rank 1  towers 0-1, images 4-7  all units, images 4-7\n" in out
    assert summary_of(tmp_path / "run-2")["placement"] == "ddp"
    assert "FutureWarning" not in err
    assert (tmp_path / "run-2" / "summary.json").exists()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["optimizer.momentun=0.5"], "'momentum'"),
        (["data.name=image_folder", "data.folder=/nowhere"], "/nowhere/train"),
    ],
    ids=["before the ranks meet", "after they met"],
)
def test_two_ranks_refuse_bad_input_once(tmp_path, arguments, named):
    status, out, err = train(2, tmp_path / "runs", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert named in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["placement=split"], "placement split"),
        (["towers=5"], "5 towers"),
        (["data.size=63"], "data.size"),
        (["data.mean=[1, 2]"], "data.mean"),
        (["--config", "no.yaml"], "no.yaml"),
        (["--resume", "name=never"], "never"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(tmp_path, arguments, named):
    assert named in refusal("train", *SETTINGS, f"runs={tmp_path / 'runs'}", *arguments)
    assert not (tmp_path / "runs").exists()


def test_a_diverging_loss_ends_the_run_before_a_checkpoint(tmp_path):
    message = refusal("train", *SETTINGS, f"runs={tmp_path}", "optimizer.learning_rate=1e20")
    assert "step 2" in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_does_not_resume_with_other_settings(split_run):
    arguments = (*SETTINGS, f"runs={split_run[0].parent}", "name=first", "--resume")
    message = refusal("train", *arguments, "batch_size=16")
    assert all(part in message for part in ("batch_size", "8", "16"))
