"""The messages that users see most, whole.

Every other test asserts an error's type and the value it names; a message is reworded here alone.
"""

from pathlib import Path

import pytest

from common.errors import ReportedError
from data.datasets import open_dataset
from data.decoding import decode
from distributed.plan import Wish, plan_mesh
from model.variants import VARIANTS
from recording.checkpoint import newest_checkpoint
from recording.folder import RunFolder
from tests.weights.nets import some_weights
from training.config import Config
from training.settings import check_same_run, load_config
from training.trainer import check_finite


@pytest.fixture
def said(monkeypatch, tmp_path):
    """Calls a function in an empty folder; returns the message of its ReportedError."""
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").touch()

    def message(function, *arguments, **named):
        with pytest.raises(ReportedError) as caught:
            function(*arguments, **named)
        return str(caught.value)

    return message


def test_an_unknown_setting(said):
    assert said(load_config, Path("my.yaml"), ["optimizer.momentun=0.5"]) == (
        "command line: optimizer.momentun: unknown key, did you mean 'momentum'?"
    )


def test_a_wrong_value(said):
    assert said(load_config, Path("my.yaml"), ["batch_size=many"]) == (
        "command line: batch_size: Input should be a valid integer, unable to parse string as an "
        "integer (got 'many')"
    )


def test_a_missing_data_folder(said):
    assert said(open_dataset, "image_folder", "train", Path("images")) == (
        "there is no folder images/train: make one with a folder for each class"
    )


def test_too_few_ranks_to_share_a_net(said):
    assert said(plan_mesh, Wish(1, 2), "split", VARIANTS["paper"]) == (
        "placement split divides fc6 to fc8 over at least 2 ranks, and here over 1 of 1: start "
        "more ranks, raise shards or classifier_ranks, or use placement=ddp"
    )


def test_ranks_that_do_not_divide_a_layer(said):
    assert said(plan_mesh, Wish(3, 2), "split", VARIANTS["paper"]) == (
        "placement split divides conv2 over 3 ranks, and 3 does not divide its 256 units: use a "
        "number of ranks that does, or change shards"
    )
    assert said(plan_mesh, Wish(3, 2), "hybrid", VARIANTS["paper"]) == (
        "placement hybrid divides fc6 over 3 ranks, and 3 does not divide its 4096 units: use a "
        "number of ranks that does, or change net.hidden"
    )


def test_groups_that_do_not_divide_the_ranks(said):
    assert said(plan_mesh, Wish(4, 2, None, 3), "hybrid", VARIANTS["paper"]) == (
        "placement hybrid cannot divide 4 ranks into groups of 3 that share a classifier: change "
        "the number of ranks, shards or classifier_ranks"
    )
    assert said(plan_mesh, Wish(4, 2, 4, 2), "split+hybrid", VARIANTS["paper"]) == (
        "placement split+hybrid cannot divide groups of 2 that share a classifier into groups of 4 "
        "that share the convolutions: change the number of ranks, shards or classifier_ranks"
    )


def test_updates_in_turns_without_a_hybrid(said):
    turns = {"classifier_updates": "turn"}
    config = Config.model_validate({"classifier_scheme": "b", "optimizer": turns})
    assert said(config.plan, 2) == (
        "optimizer.classifier_updates=turn needs a hybrid, and placement auto on 2 ranks is none: "
        "set placement=hybrid"
    )


def test_resuming_with_other_settings(said):
    saved = Config().model_dump(mode="json")
    assert said(check_same_run, Config(batch_size=16), saved) == (
        "cannot resume with another batch_size: it was 128 and is now 16; set it back, or start a "
        "new run without --resume"
    )


def test_no_run_to_resume(said):
    assert said(RunFolder.newest, Path("runs"), "mine") == (
        "there is no run runs/mine to resume: start it without --resume"
    )


def test_no_checkpoint_to_resume(said):
    assert said(newest_checkpoint, Path("runs/mine/checkpoints")) == (
        "there is no checkpoint in runs/mine/checkpoints: start the run anew, or name another run"
    )


def test_a_diverged_loss(said):
    assert said(check_finite, float("nan"), 5) == (
        "the loss became nan in step 5, and that step was not taken: start from the last "
        "checkpoint (weights=…) with a lower optimizer.learning_rate, or use precision fp32"
    )


def test_an_unreadable_image(said):
    Path("cat.jpg").write_text("no picture")
    assert said(decode, "cat.jpg", 64) == (
        "cat.jpg cannot be read as an image (it is not one of JPEG, PNG, GIF, BMP, PPM, TIFF, "
        "WEBP): replace or remove it"
    )


def test_a_damaged_checkpoint(said):
    folder = Path("checkpoints/step-00000002")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert said(newest_checkpoint, folder.parent) == (
        "cannot read the checkpoint checkpoints/step-00000002: "
        "checkpoints/step-00000002/model.safetensors: No such file or directory"
    )


def test_the_weights_of_another_net(said, small_nets):
    assert said(some_weights("d2l").of_variant, "paper") == (
        "made up holds a net of the variant d2l, not paper: name d2l"
    )
