"""The program that scores trained weights, on real ranks."""

import json
import shutil

import pytest
from PIL import Image

from tests.programs import ranks, run
from tests.weights.nets import some_weights
from weights.files import write_file

pytestmark = pytest.mark.programs

SETTINGS = (
    *("name=run", "variant=d2l", "data.name=synthetic", "data.size=64", "data.stored_size=72"),
    *("data.resize=72", "data.synthetic_length=52", "data.mean=100.0", "data.std=20.0"),
    *("data.test_views=2", "batch_size=8", "max_steps=3", "placement=split"),
    *("precision=fp32", "init=xavier", "keep_checkpoints=1", "tracking.mode=disabled"),
)
SCORES = ("test_loss", "test_top1", "test_top5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder: three steps on two ranks, then its last evaluation."""
    runs = tmp_path_factory.mktemp("evaluate")
    status, _, err = run(*ranks(2), "train.py", *SETTINGS, f"runs={runs}")
    assert status == 0, err
    yield runs / "run"
    shutil.rmtree(runs)


def evaluate(world, source, folder, *arguments):
    """(what was printed, the JSON)."""
    path = folder / "scores.json"
    status, out, err = run(*ranks(world), "evaluate.py", source, "--json", path, *arguments)
    assert status == 0, err
    return out, json.loads(path.read_text())


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory):
    """The scores of one process in fp64."""
    return evaluate(0, trained, tmp_path_factory.mktemp("alone"), "precision=fp64")[1]


def test_the_scores_are_those_of_training(trained, tmp_path):
    out, found = evaluate(0, trained, tmp_path)
    summary = json.loads((trained / "summary.json").read_text())
    assert [found[key] for key in SCORES] == pytest.approx(
        [summary[key] for key in SCORES], rel=1e-5
    )
    assert out.count("\n") == 1
    assert f"top-1 {found['test_top1']:.4f}  top-5 {found['test_top5']:.4f}" in out
    assert "13 images of synthetic, 2 view(s)" in out


@pytest.mark.parametrize(("world", "placement"), [(2, "split"), (2, "local"), (4, "auto")])
def test_every_mesh_gives_the_same_scores(
    trained, alone, tmp_path, record_property, world, placement
):
    settings = ["precision=fp64", f"placement={placement}"]
    out, found = evaluate(world, trained, tmp_path, *settings)
    error = max(abs(found[key] - alone[key]) / max(alone[key], 1e-12) for key in SCORES)
    record_property("largest error", error)
    assert error <= 1e-12
    assert found["world_size"] == world
    assert out.count("\n") == 1


def _pictures(root, classes):
    for number in range(classes):
        path = root / "test" / f"class{number}" / "image.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (80, 72), (20 * number, 50, 100)).save(path)
    return ["data.name=image_folder", f"data.folder={root}"]


def test_a_folder_of_test_images_alone_will_do(trained, tmp_path):
    arguments = [*_pictures(tmp_path / "images", 10), "data.test_views=10"]
    out, found = evaluate(0, trained, tmp_path, *arguments)
    assert (found["images"], found["test_views"]) == (10, 10)
    assert "the classes of the data have other names" in out


def test_a_file_with_a_configuration_will_do(trained, tmp_path):
    write_file(some_weights("d2l"), tmp_path / "net.npz")
    (tmp_path / "some.yaml").write_text("data: {name: synthetic, size: 64, synthetic_length: 8}")
    _, found = evaluate(2, tmp_path / "net.npz", tmp_path, "--config", tmp_path / "some.yaml")
    assert (found["images"], found["placement"]) == (2, "split")
    shutil.rmtree(tmp_path)


def test_another_number_of_classes_is_refused(trained, tmp_path):
    arguments = _pictures(tmp_path / "images", 3)
    status, out, err = run(*ranks(2), "evaluate.py", trained, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "tells 10 classes apart, and image_folder has 3" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["data.siez=64"], "did you mean 'size'?"),
        (["towers=1"], "set towers=2"),
        (["data.name=image_folder"], "data.folder must name"),
        (["data.mean=[1, 2]"], "one number per channel"),
        (["--config", "no.yaml"], "no.yaml"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(trained, arguments, complaint):
    status, out, err = run(*ranks(0), "evaluate.py", trained, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


def test_training_from_a_run_begins_where_it_ended(trained, tmp_path):
    """The rate is so small that three steps change nothing that shows."""
    settings = [*SETTINGS, f"weights={trained}", "optimizer.learning_rate=1e-12"]
    status, _, err = run(*ranks(0), "train.py", *settings, f"runs={tmp_path}", "placement=local")
    assert status == 0, err
    before, after = (
        json.loads((folder / "summary.json").read_text()) for folder in (trained, tmp_path / "run")
    )
    assert after["test_loss"] == pytest.approx(before["test_loss"], rel=1e-5)
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["variant=paper"], "holds a net of the variant d2l, not paper"),
        (["towers=1"], "set towers=2"),
        (["weights=none.pth"], "cannot read none.pth"),
    ],
)
def test_training_from_another_net_is_refused_before_a_folder_is_made(
    trained, tmp_path, arguments, complaint
):
    settings = [*SETTINGS, "placement=auto", f"weights={trained}", f"runs={tmp_path / 'runs'}"]
    status, out, err = run(*ranks(0), "train.py", *settings, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert not (tmp_path / "runs").exists()
