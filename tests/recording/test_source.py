"""Weights to start from, on any mesh, and the settings that come with them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from common.errors import ReportedError
from distributed.mesh import Mesh
from recording.resume import open_run
from recording.snapshots import CheckpointWriter
from recording.source import check_channels, check_classes, read_source, warn_of_other_names
from recording.totals import Totals
from tests.recording.samples import correct_manifest
from tests.weights.nets import some_weights
from training.batches import make_preprocess
from training.config import Config
from training.trainer import Trainer, build_model
from weights.files import write_file

ROOT = Path(__file__).parents[2]
NAMES = [f"thing {number}" for number in range(10)]


@pytest.fixture(scope="module")
def mesh():
    yield Mesh.start(Config().plan(1))
    dist.destroy_process_group()


@pytest.fixture
def run(mesh, small_nets, tmp_path):
    """A run's folder with one checkpoint of a small net, split when it was trained."""
    config = Config.model_validate(
        {
            "variant": "d2l",
            "compile": True,
            "placement": "split",
            "batch_size": 3,
            "data": {"size": 64, "resize": 72, "mean": 73.0, "test_views": 2},
        }
    )
    preprocess = make_preprocess(config, 1)
    trainer = Trainer(
        config.model_copy(update={"compile": False}),
        mesh,
        build_model(config, mesh, 10, 1),
        preprocess,
        total_steps=9,
        classes=NAMES,
    )
    trainer.config = config
    with CheckpointWriter(tmp_path / "run" / "checkpoints", trainer, None) as writer:
        writer.save(Totals())
    yield tmp_path / "run"
    shutil.rmtree(tmp_path)


def rewrite(checkpoint, change):
    """Change a checkpoint's state; its sums are made right."""
    state = json.loads((checkpoint / "state.json").read_text())
    change(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    correct_manifest(checkpoint)


def the_checkpoint(run):
    [checkpoint] = (run / "checkpoints").iterdir()
    return checkpoint


def test_a_run_and_its_checkpoint_give_the_same(run):
    for path in (run, the_checkpoint(run)):
        weights, settings = read_source(path)
        assert (weights.variant, weights.towers, weights.classes, weights.channels) == (
            *("d2l", 2, 10, 1),
        )
        assert weights.class_names == NAMES
        assert settings["batch_size"] == 3


def test_how_a_run_was_placed_and_compiled_is_not_taken_over(run):
    config = read_source(run).config(None, [])
    assert (config.placement, config.compile, config.batch_size) == ("auto", False, 3)


def test_a_checkpoint_says_how_its_images_are_prepared(run):
    assert read_source(run).weights.preprocessing == {
        "size": 64,
        "resize": 72,
        "mean": 73.0,
        "mean_image": None,
        "std": 255.0,
        "test_views": 2,
        "stored_size": 28,
    }


def test_what_is_exported_is_what_is_imported(run, tmp_path):
    weights = read_source(run).weights
    write_file(weights, tmp_path / "net.safetensors")
    back, settings = read_source(tmp_path / "net.safetensors")
    assert (back.variant, back.class_names) == (weights.variant, weights.class_names)
    assert back.preprocessing == weights.preprocessing
    assert settings["data"]["stored_size"] == 28
    assert all(torch.equal(back.tensors[name], t) for name, t in weights.tensors.items())


def test_a_checkpoint_from_before_classes_had_names(run):
    rewrite(the_checkpoint(run), lambda state: state.pop("classes"))
    assert read_source(run).weights.class_names is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("config"), r"state\.json is not valid"),
        (lambda state: state.update(config=7), r"state\.json is not valid"),
        (lambda state: state["config"].update(variant="vgg"), "variant"),
        (lambda state: state["config"].update(towers=1), r"conv2\.weight|towers"),
        (lambda state: state.update(classes=["one"]), r"\b1 classes"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(run, change, complaint):
    rewrite(the_checkpoint(run), change)
    with pytest.raises(ReportedError, match=complaint):
        read_source(the_checkpoint(run)).config(None, [])


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ReportedError, match=re.escape(str(tmp_path))):
        read_source(tmp_path)


def test_a_checkpoint_without_a_manifest_is_named_itself(tmp_path):
    (tmp_path / "step-00000008").mkdir()
    with pytest.raises(ReportedError, match=r"step-00000008: .*manifest\.json"):
        read_source(tmp_path / "step-00000008")


def test_a_file_then_the_command_line_change_the_settings(run, tmp_path):
    (tmp_path / "more.yaml").write_text("data: {size: 66}\nbatch_size: 5\n")
    config = read_source(run).config(tmp_path / "more.yaml", ["batch_size=7"])
    assert (config.data.size, config.data.resize, config.batch_size) == (66, 72, 7)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [("variant=paper", r"d2l.*paper"), ("towers=1", r"towers=2")],
)
def test_settings_of_another_net_are_refused(run, override, complaint):
    with pytest.raises(ReportedError, match=complaint):
        read_source(run).config(None, [override])


def test_bare_tensors_want_a_variant_and_a_preparation(small_nets, tmp_path):
    save_file(some_weights("paper").tensors, tmp_path / "net.safetensors")
    source = read_source(tmp_path / "net.safetensors")
    with pytest.raises(ReportedError, match=r"net\.safetensors.*--config"):
        source.config(None, [])
    folder = ["data.folder=."]
    (tmp_path / "some.yaml").write_text("data: {size: 64}")
    with pytest.raises(ReportedError, match="paper, caffe, caffenet"):
        source.config(tmp_path / "some.yaml", folder)
    assert source.config(tmp_path / "some.yaml", ["variant=caffe", *folder]).variant == "caffe"


def test_a_net_that_normalises_across_towers_is_split_where_ranks_allow_it(small_nets, tmp_path):
    write_file(some_weights("caffe"), tmp_path / "net.npz")
    (tmp_path / "some.yaml").write_text("data: {name: synthetic, size: 64}")
    config = read_source(tmp_path / "net.npz").config(tmp_path / "some.yaml", ["variant=caffe"])
    plans = [config.plan(ranks).placement for ranks in (1, 2, 3)]
    assert plans == ["local", "split", "ddp"]


@pytest.mark.parametrize(
    "placement",
    [
        {"placement": "split", "shards": 4},
        {"placement": "hybrid", "classifier_ranks": 2, "classifier_scheme": "c"},
        {"placement": "split+hybrid", "shards": 2, "classifier_ranks": 4},
    ],
    ids=lambda settings: settings["placement"],
)
def test_a_run_of_any_placement_is_used_on_any_number_of_ranks(run, placement):
    rewrite(the_checkpoint(run), lambda state: state["config"].update(placement))
    config = read_source(run).config(None, [])
    assert [config.plan(ranks).placement for ranks in (1, 2, 3, 5)] == [
        *("local", "split", "ddp", "ddp"),
    ]


def test_a_run_that_updated_in_turns_is_used_by_one_process(run):
    def change(state):
        state["config"].update(placement="hybrid", classifier_scheme="b")
        state["config"]["optimizer"]["classifier_updates"] = "turn"

    rewrite(the_checkpoint(run), change)
    assert read_source(run).config(None, []).plan(1).placement == "local"


def test_a_run_that_accumulated_gradients_is_used_with_any_batch(run):
    def change(state):
        state["config"]["optimizer"]["gradient_accumulation"] = 3

    rewrite(the_checkpoint(run), change)
    assert read_source(run).config(None, ["batch_size=1"]).batch_size == 1


def test_other_data_than_the_net_is_for_are_refused(small_nets):
    config = Config.model_validate({"data": {"name": "synthetic"}})
    with pytest.raises(ReportedError, match=r"\b10\b.*synthetic.*\b7\b"):
        check_classes(some_weights(), 7, config)
    with pytest.raises(ReportedError, match=r"\b3 channel.*\b1\b"):
        check_channels(some_weights(), 1, config)


@pytest.mark.parametrize(("classes", "warnings"), [(NAMES, 0), (NAMES[::-1], 1), (["a"], 1)])
def test_other_names_of_the_classes_are_warned_of(run, classes, warnings, caplog):
    warn_of_other_names(read_source(run).weights, classes)
    assert len(caplog.records) == warnings


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A file of weights of the d2l net with two towers."""
    path = tmp_path_factory.mktemp("given") / "net.safetensors"
    write_file(some_weights("d2l"), path)
    yield path
    shutil.rmtree(path.parent)


def _begin(path, runs, world_size, placement, classes=10):
    """Start a run from given weights; (the placement, which do not hold them, whether
    those have their initial values).
    """
    settings = {"variant": "d2l", "towers": 2, "placement": placement, "data": {"size": 64}}
    config = Config.model_validate({**settings, "weights": path, "runs": runs})
    mesh = Mesh.over_running_group(config.plan(world_size), torch.device("cpu"))
    model = build_model(config, mesh, classes, 3)
    trainer = Trainer(config, mesh, model, make_preprocess(config, 3), 1)
    open_run(trainer, resume=False)
    tensors = read_source(Path(path)).weights.tensors
    fresh = build_model(config, mesh, classes, 3)
    others = [
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, model.placement.shard(name, tensors[name]))
    ]
    begun_anew = all(
        torch.equal(model.get_parameter(name), fresh.get_parameter(name)) for name in others
    )
    return mesh.plan.placement, others, begun_anew


@pytest.mark.parametrize(
    ("pool", "placement"),
    [
        ("one_rank", "local"),
        ("two_ranks", "split"),
        ("two_ranks", "ddp"),
        ("two_ranks", "hybrid"),
        ("four_ranks", "split"),
        ("four_ranks", "split+hybrid"),
    ],
)
def test_training_starts_from_given_weights_on_any_mesh(request, given, tmp_path, pool, placement):
    ranks = request.getfixturevalue(pool)
    found = ranks.run(_begin, str(given), str(tmp_path), len(ranks.pipes), placement)
    assert found == [(placement, [], True)] * len(ranks.pipes)


@pytest.mark.parametrize(
    ("pool", "placement"), [("one_rank", "local"), ("two_ranks", "split"), ("two_ranks", "hybrid")]
)
def test_fc8_begins_anew_for_another_number_of_classes(request, given, tmp_path, pool, placement):
    ranks = request.getfixturevalue(pool)
    found = ranks.run(_begin, str(given), str(tmp_path), len(ranks.pipes), placement, 7)
    assert found == [(placement, ["fc8.weight", "fc8.bias"], True)] * len(ranks.pipes)


def test_reading_weights_imports_no_trainer_and_nothing_that_communicates():
    program = "import sys, recording.source; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = done.stdout.split()
    assert "weights.net" in modules
    assert "training.trainer" not in modules
    assert {name for name in modules if name.startswith("distributed.")} == {
        *("distributed.plan", "distributed.schemes"),
    }
    assert "launch" not in modules


def test_a_file_s_description_with_old_keys_is_understood(tmp_path):
    old = {"size": 64, "mean": 73.0, "deviation": 90.0}
    write_file(some_weights("d2l", preprocessing=old), tmp_path / "net.safetensors")
    source = read_source(tmp_path / "net.safetensors")
    assert source.weights.preprocessing == {"size": 64, "mean": 73.0, "std": 90.0}
    assert source.config(None, ["data.name=synthetic"]).data.std == 90.0


def test_a_checkpoint_s_settings_with_old_keys_are_understood(run):
    def age(state):
        state["config"]["initial_values"] = "he"
        state["config"]["data"]["deviation"] = 90.0
        del state["config"]["init"], state["config"]["data"]["std"]

    rewrite(the_checkpoint(run), age)
    config = read_source(run).config(None, [])
    assert (config.init, config.data.std) == ("he", 90.0)
    with pytest.raises(ReportedError, match=r"data\.deviation.*'data\.std'"):
        read_source(run).config(None, ["data.deviation=3"])
