"""A run that was killed goes on as if nothing had been."""

import shutil

import pytest

from tests.data.conftest import save_picture
from tests.faults.runs import train_with
from tests.runs import STEPS, last_digests, losses, train

pytestmark = pytest.mark.programs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Gives the folder of a run to its end on so many ranks."""
    folders = {}

    def run_on(world, *settings):
        key = (world, *settings)
        if key not in folders:
            runs = tmp_path_factory.mktemp(f"undisturbed-{world}")
            status, _, err = train(world, runs, *settings)
            assert status == 0, err
            folders[key] = runs / "run"
        return folders[key]

    yield run_on
    for folder in folders.values():
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("world", "rank", "step", "settings"),
    [
        (0, 0, 5, []),
        pytest.param(2, 1, 6, [], marks=pytest.mark.slow),
        (2, 0, 8, []),
        pytest.param(4, 2, 5, [], marks=pytest.mark.slow),
        pytest.param(3, 1, 7, ["placement=ddp"], marks=pytest.mark.slow),
        pytest.param(2, 0, 6, ["placement=hybrid"], marks=pytest.mark.slow),
        pytest.param(4, 3, 5, ["placement=split+hybrid"], marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_it_is_the_same_to_the_bit(
    undisturbed, tmp_path, happened, world, rank, step, settings
):
    expected, folder = undisturbed(world, *settings), tmp_path / "run"
    status, _, err = train_with(f"kill:{rank}:{step}", world, tmp_path, *settings)
    assert status in (137, -9), err
    assert len(losses(folder)) < STEPS
    status, _, err = train(world, tmp_path, *settings, "--resume")
    assert status == 0, err
    assert losses(folder) == losses(expected)
    assert last_digests(folder) == last_digests(expected)
    shutil.rmtree(folder)
    happened(
        f"SIGKILL of rank {rank} of {max(world, 1)} in step {step}, then --resume",
        "the same losses and weights, bit for bit",
    )


def test_on_other_images_it_is_refused_and_on_the_same_elsewhere_it_goes_on(tmp_path, happened):
    folder = tmp_path / "images"
    for number in range(40):
        split, name = ("test" if number < 4 else "train"), ("ant", "bee")[number % 2]
        save_picture(folder / split / name / f"{number}.png", (6 * number,) * 3)
    data = ("data.name=image_folder", "checkpoint_every=1", "epochs=1")
    status, _, err = train_with("kill:0:4", 0, tmp_path, *data, f"data.folder={folder}")
    assert status == -9, err
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "train" / "bee" / "39.png").unlink()
    status, _, err = train(0, tmp_path, *data, f"data.folder={other}", "--resume")
    assert (status, err.count("\n")) == (2, 1)
    assert "36 training images and are 35" in err
    folder.rename(tmp_path / "moved")
    status, _, err = train(0, tmp_path, *data, f"data.folder={tmp_path / 'moved'}", "--resume")
    assert status == 0, err
    happened(
        "an image removed before --resume, or the folder moved",
        "refused with the number of images; goes on",
    )
