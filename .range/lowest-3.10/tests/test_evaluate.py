"""The program that scores trained weights, on real ranks."""

import json

import pytest
from PIL import Image

from tests.calls import call, refusal
from tests.programs import ranks, run
from tests.runs import SETTINGS, summary_of, train
from tests.weights.nets import some_weights
from weights.files import write_file

pytestmark = pytest.mark.programs

SCORES = ("test_loss", "test_top1", "test_top5")
UNEVEN = ("data.synthetic_length=52", "data.test_views=2", "precision=fp64")
"""13 test images in batches of 8."""


@pytest.fixture(scope="module")
def trained(split_run):
    """The folder of a run on two ranks."""
    return split_run[0]


def scores(source, folder, *arguments):
    """(what one process prints, the JSON)."""
    status, out = call("evaluate", source, "--json", folder / "scores.json", *arguments)
    assert status == 0
    return out, json.loads((folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory):
    """The scores of one process in fp64."""
    return scores(trained, tmp_path_factory.mktemp("alone"), *UNEVEN)


def test_the_scores_are_those_of_training(trained, tmp_path):
    out, found = scores(trained, tmp_path)
    wanted = summary_of(trained)
    assert [found[key] for key in SCORES] == pytest.approx(
        [wanted[key] for key in SCORES], rel=1e-5
    )
    assert out.count("\n") == 1
    assert f"top-1 {found['test_top1']:.4f}  top-5 {found['test_top5']:.4f}" in out


def test_images_and_views_are_told(alone):
    out, found = alone
    assert (found["images"], found["test_views"]) == (13, 2)
    assert "13 images of synthetic, 2 view(s)" in out


@pytest.mark.parametrize(
    ("world", "placement"), [(2, "ddp"), (2, "hybrid"), (4, "split"), (4, "split+hybrid")]
)
def test_every_mesh_gives_the_same_scores(
    trained, alone, tmp_path, record_property, world, placement
):
    path, settings = tmp_path / "scores.json", (*UNEVEN, f"placement={placement}")
    status, out, err = run(*ranks(world), "evaluate.py", trained, "--json", path, *settings)
    assert status == 0, err
    found, (_, wanted) = json.loads(path.read_text()), alone
    error = max(abs(found[key] - wanted[key]) / max(wanted[key], 1e-12) for key in SCORES)
    record_property("largest error", error)
    assert error <= 1e-12
    assert (found["world_size"], found["placement"]) == (world, placement)
    assert out.count("\n") == 1


def test_a_run_trained_as_a_hybrid_is_scored_on_two_ranks(tmp_path):
    settings = ("placement=hybrid", "classifier_scheme=b", "max_steps=2")
    status, _, err = train(2, tmp_path, *settings)
    assert status == 0, err
    path = tmp_path / "scores.json"
    for more, placement in (([], "split"), (["placement=hybrid"], "hybrid")):
        status, _, err = run(*ranks(2), "evaluate.py", tmp_path / "run", "--json", path, *more)
        assert status == 0, err
        found, wanted = json.loads(path.read_text()), summary_of(tmp_path / "run")
        assert (found["placement"], wanted["placement"]) == (placement, "hybrid")
        assert [found[key] for key in SCORES] == pytest.approx(
            [wanted[key] for key in SCORES], rel=1e-5
        )


def _pictures(root, classes):
    for number in range(classes):
        path = root / "test" / f"class{number}" / "image.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (80, 72), (20 * number, 50, 100)).save(path)
    return ["data.name=image_folder", f"data.folder={root}"]


def test_a_folder_of_test_images_alone_will_do(trained, tmp_path):
    arguments = [*_pictures(tmp_path / "images", 10), "data.test_views=10"]
    out, found = scores(trained, tmp_path, *arguments)
    assert (found["images"], found["test_views"]) == (10, 10)
    assert any(str(trained) in line for line in out.splitlines()), "their names differ"


def test_a_file_with_a_configuration_will_do(small_nets, tmp_path):
    write_file(some_weights("d2l"), tmp_path / "net.npz")
    (tmp_path / "some.yaml").write_text("data: {name: synthetic, size: 64, synthetic_length: 8}")
    _, found = scores(tmp_path / "net.npz", tmp_path, "--config", tmp_path / "some.yaml")
    assert (found["images"], found["placement"]) == (2, "local")


def test_another_number_of_classes_is_refused(trained, tmp_path):
    message = refusal("evaluate", trained, *_pictures(tmp_path / "images", 3))
    assert all(part in message for part in ("10 classes", "image_folder", "3"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["data.siez=64"], "'size'"),
        (["towers=1"], "towers=2"),
        (["data.name=image_folder"], "data.folder"),
        (["data.mean=[1, 2]"], "data.mean"),
        (["--config", "no.yaml"], "no.yaml"),
    ],
)
def test_bad_input_is_refused(trained, arguments, named):
    assert named in refusal("evaluate", trained, *arguments)


def test_training_from_a_run_begins_where_it_ended(trained, tmp_path):
    settings = [*SETTINGS, f"weights={trained}", "max_steps=1", "optimizer.learning_rate=1e-12"]
    assert call("train", *settings, f"runs={tmp_path}")[0] == 0
    found, wanted = (summary_of(folder)["test_loss"] for folder in (tmp_path / "run", trained))
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["variant=paper"], ("d2l", "paper")),
        (["towers=1"], ("towers=2",)),
        (["weights=none.pth"], ("none.pth",)),
    ],
)
def test_training_from_another_net_is_refused_before_a_folder_is_made(
    trained, tmp_path, arguments, named
):
    runs = tmp_path / "runs"
    message = refusal("train", *SETTINGS, f"weights={trained}", f"runs={runs}", *arguments)
    assert all(part in message for part in named)
    assert not runs.exists()
