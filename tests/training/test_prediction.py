"""Single pictures: prepared as in training, their classes in the order of probability."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from common.errors import ReportedError
from data.preprocess import VIEWS, Preprocess
from recording.source import read_source
from tests.weights.nets import some_weights
from training.prediction import Predictor
from weights.files import write_file

pytestmark = pytest.mark.usefixtures("small_nets")

NAMES = [f"thing {number}" for number in range(10)]


def predictor(folder, channels=3, class_names=NAMES, **preprocessing):
    known = {"size": 64, "stored_size": 28, "mean": 73.0, "std": 90.0, **preprocessing}
    weights = some_weights("d2l", channels=channels, class_names=class_names, preprocessing=known)
    write_file(weights, folder / "net.safetensors")
    return Predictor(read_source(folder / "net.safetensors"))


def picture(folder, mode="RGB", side=28):
    path = folder / "picture.png"
    channels = 3 if mode == "RGB" else 1
    pixels = torch.randint(256, (side, side, channels), dtype=torch.uint8).squeeze(2)
    Image.fromarray(pixels.numpy(), mode).save(path)
    return str(path)


def expected(found, path, channels, views=1):
    """Probabilities, computed here step by step."""
    image = pil_to_tensor(Image.open(path))[None]
    preprocess = Preprocess(64, 64, [73.0] * channels, [90.0] * channels, mirror=False)
    with torch.no_grad():
        each = [found.model(preprocess(image, view=view)).softmax(1) for view in VIEWS[views]]
    return torch.stack(each).mean(0)[0]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("views", [1, 10])
def test_probabilities_are_those_of_the_net(tmp_path, channels, mode, views):
    found = predictor(tmp_path, channels, test_views=views)
    path = picture(tmp_path, mode)
    guesses = found.top(path, 10)
    right = expected(found, path, channels, views)
    assert [guess.probability for guess in guesses] == pytest.approx(
        right.sort(descending=True).values.tolist(), rel=1e-4, abs=1e-7
    )
    assert guesses[0].number == right.argmax()
    assert all(guess.name == NAMES[guess.number] for guess in guesses)


def test_a_grey_net_is_given_grey_pictures(tmp_path):
    [guess] = predictor(tmp_path, channels=1).top(picture(tmp_path, "RGB", side=50), 1)
    assert 0.1 <= guess.probability <= 1


def test_without_names_classes_are_numbers(tmp_path):
    guesses = predictor(tmp_path, class_names=None).top(picture(tmp_path), 3)
    assert [guess.name for guess in guesses] == [str(guess.number) for guess in guesses]


def test_no_more_classes_are_told_than_there_are(tmp_path):
    assert len(predictor(tmp_path).top(picture(tmp_path), 99)) == 10


def test_a_net_of_other_channels_is_refused(tmp_path):
    with pytest.raises(ReportedError, match="reads images of 2 channels"):
        predictor(tmp_path, channels=2)
