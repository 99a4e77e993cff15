"""Single pictures: prepared as in training, their classes in the order of probability."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from common.errors import ReportedError
from data.preprocess import VIEWS, Preprocess
from tests.weights.nets import some_weights
from training.config import Config
from training.prediction import Predictor

pytestmark = pytest.mark.usefixtures("small_nets")

NAMES = [f"thing {number}" for number in range(10)]


def predictor(channels=3, class_names=NAMES, **data):
    data = {"size": 64, "stored_size": 28, "mean": 73.0, "std": 90.0, **data}
    weights = some_weights("d2l", channels=channels, class_names=class_names)
    return Predictor(weights, Config.model_validate({"variant": "d2l", "data": data}))


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
    found = predictor(channels, test_views=views)
    path = picture(tmp_path, mode)
    guesses = found.top(path, 10)
    right = expected(found, path, channels, views)
    assert [guess.probability for guess in guesses] == pytest.approx(
        right.sort(descending=True).values.tolist(), rel=1e-4, abs=1e-7
    )
    assert guesses[0].number == right.argmax()
    assert all(guess.name == NAMES[guess.number] for guess in guesses)


def test_a_grey_net_is_given_grey_pictures(tmp_path):
    [guess] = predictor(channels=1).top(picture(tmp_path, "RGB", side=50), 1)
    assert 0.1 <= guess.probability <= 1


def test_without_names_classes_are_numbers(tmp_path):
    guesses = predictor(class_names=None).top(picture(tmp_path), 3)
    assert [guess.name for guess in guesses] == [str(guess.number) for guess in guesses]


def test_no_more_classes_are_told_than_there_are(tmp_path):
    assert len(predictor().top(picture(tmp_path), 99)) == 10


def test_a_net_of_other_channels_is_refused():
    with pytest.raises(ReportedError, match=r"made up .* 2 channels"):
        predictor(channels=2)


def test_probabilities_that_are_not_numbers_are_refused(tmp_path):
    found = predictor()
    with torch.no_grad():
        found.model.fc8.bias.fill_(torch.inf)  # as where a sum is beyond the precision's range
    with pytest.raises(ReportedError, match="picture"):
        found.top(picture(tmp_path), 1)
