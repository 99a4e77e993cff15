"""Images in folders: every kind of file becomes one square, and every fault names its file."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from common.errors import ReportedError
from data.decoding import decode
from data.image_folder import ImageFolder
from tests.data.conftest import save_picture

SIZE = 16


def open_pictures(folder, split="train"):
    return ImageFolder(split, folder, SIZE)


@pytest.fixture
def refused():
    """Calls a function that must raise a ReportedError; returns its one line."""

    def message(function, *arguments):
        with pytest.raises(ReportedError) as caught:
            function(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


@pytest.mark.parametrize("size", [(40, 40), (300, 200), (200, 300), (1, 50), (50, 1), (3, 2)])
@pytest.mark.parametrize(
    ("mode", "suffix", "color", "expected"),
    [
        ("L", "jpg", 120, (120, 120, 120)),
        ("L", "png", 120, (120, 120, 120)),
        ("1", "png", 1, (255, 255, 255)),
        ("LA", "png", (120, 9), (120, 120, 120)),
        ("RGB", "jpg", (200, 100, 50), (200, 100, 50)),
        ("RGB", "png", (200, 100, 50), (200, 100, 50)),
        ("RGBA", "png", (200, 100, 50, 9), (200, 100, 50)),
        ("P", "png", (200, 100, 50), (200, 100, 50)),
        ("CMYK", "jpg", (0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_every_kind_of_image_becomes_an_rgb_square(tmp_path, mode, suffix, color, expected, size):
    path = save_picture(tmp_path / f"one.{suffix}", color, size, mode)
    image = decode(str(path), SIZE)
    assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
    difference = image.int() - torch.tensor(expected)[:, None, None]
    assert difference.abs().max() <= 5


@pytest.mark.parametrize("size", [(320, 160), (160, 320), (48, 32), (16, 20), (4, 8)])
def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path, size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator)
    picture = Image.fromarray(pixels.numpy())
    picture.save(tmp_path / "one.png")
    width, height = (side * SIZE // min(size) for side in size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    whole = picture.resize((width, height), Image.Resampling.BILINEAR)
    expected = pil_to_tensor(whole.crop((left, top, left + SIZE, top + SIZE)))
    assert (decode(str(tmp_path / "one.png"), SIZE).int() - expected).abs().max() <= 1


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path):
    stripes = Image.new("L", (320, 320))
    stripes.putdata([255 * (x % 2) for _ in range(320) for x in range(320)])
    stripes.save(tmp_path / "one.png")
    assert (decode(str(tmp_path / "one.png"), SIZE).float() - 127.5).abs().max() < 10


def test_labels_follow_the_sorted_class_names(tmp_path):
    names = ["wasp", "Zebra", "moth", "10", "bee", "fly", "9", "ant"]
    for brightness, name in enumerate(names):
        save_picture(tmp_path / "train" / name / "1.png", (brightness,) * 3)
    dataset = open_pictures(tmp_path)
    images, labels = dataset.read(torch.arange(len(names)))
    assert dataset.classes == ["10", "9", "Zebra", "ant", "bee", "fly", "moth", "wasp"]
    brightness = images[:, 0, 0, 0].tolist()
    assert [dataset.classes[label] for label in labels] == [names[value] for value in brightness]


def test_images_are_read_by_their_positions(pictures):
    dataset = open_pictures(pictures)
    images, labels = dataset.read(torch.tensor([5, 0, 5]))
    assert (images.shape, images.dtype) == ((3, 3, SIZE, SIZE), torch.uint8)
    assert images[:, 0, 0, 0].tolist() == [5, 0, 5]
    assert (labels.tolist(), labels.dtype) == ([1, 0, 1], torch.int64)
    assert len(dataset) == 8
    assert dataset.read(torch.tensor([], dtype=torch.int64))[0].shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_the_test_images_may_lie_in_test_or_val(pictures, name):
    (pictures / "test").rename(pictures / name)
    dataset = open_pictures(pictures, "test")
    images, labels = dataset.read(torch.arange(len(dataset)))
    assert images[:, 0, 0, 0].tolist() == [8, 9]
    assert labels.tolist() == [0, 1]


def test_training_images_need_no_test_images(pictures):
    (pictures / "test").rename(pictures / "elsewhere")
    assert len(open_pictures(pictures)) == 8


@pytest.fixture
def unlabelled(pictures):
    """Like most copies of ImageNet: labelled images in val/, and test/ without labels."""
    (pictures / "test").rename(pictures / "val")
    save_picture(pictures / "test" / "1.png")
    return pictures


@pytest.mark.parametrize(
    "change",
    [
        lambda test: None,
        lambda test: (test / "1.png").unlink(),
        lambda test: save_picture(test / "images" / "2.png"),
        lambda test: save_picture(test / ".cache" / "2.png"),
        lambda test: save_picture(test / "ant" / "2.png"),
    ],
    ids=["flat", "empty", "one folder", "a hidden folder", "one class of two"],
)
@pytest.mark.parametrize("train", ["train", "elsewhere"])
def test_a_test_folder_without_the_classes_is_passed_over(unlabelled, train, change, caplog):
    change(unlabelled / "test")
    (unlabelled / "train").rename(unlabelled / train)
    caplog.set_level("INFO")
    dataset = open_pictures(unlabelled, "test")
    assert dataset.classes == ["ant", "bee"]
    assert dataset.read(torch.arange(len(dataset)))[0][:, 0, 0, 0].tolist() == [8, 9]
    assert [str(unlabelled / "val") in each for each in caplog.messages] == [True]


@pytest.mark.parametrize("names", [["test"], ["val"], ["test", "val"], ["test", "validation"]])
def test_images_without_class_folders_are_refused_with_what_to_do(pictures, refused, names):
    (pictures / "test").rename(pictures / "elsewhere")
    for name in names:
        save_picture(pictures / name / "1.png")
    message = refused(open_pictures, pictures, "test")
    assert all(str(pictures / name) in message for name in [*names, "val"])
    assert "--val-labels" in message


LEFT_BY_OTHERS = (
    *("._0.png", ".hidden.png", ".ipynb_checkpoints/0-checkpoint.png", ".git/0.png"),
    *("@eaDir/0.png/SYNOPHOTO_THUMB_M.png", "__MACOSX/._0.png", "#recycle/0.png"),
    *("lost+found/0.png", "$RECYCLE.BIN/0.png", "System Volume Information/0.png"),
    *("Thumbs.db", ".DS_Store", "desktop.ini", "list.txt"),
)


@pytest.mark.parametrize("place", ["", "train", "train/ant", "train/ant/more", "test", "test/bee"])
def test_what_others_leave_is_passed_over_at_every_level(pictures, place):
    save_picture(pictures / "train/ant/more/3b.png", (3, 3, 3))
    before = {split: open_pictures(pictures, split).samples for split in ("train", "test")}
    for name in LEFT_BY_OTHERS:
        path = pictures / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture")
    for split, samples in before.items():
        dataset = open_pictures(pictures, split)
        assert (dataset.classes, dataset.samples) == (["ant", "bee"], samples)


@pytest.mark.parametrize(
    ("split", "names"), [("train", ["train"]), ("test", ["test", "val", "validation"])]
)
def test_a_missing_split_is_refused_with_the_places_searched(pictures, refused, split, names):
    (pictures / split).rename(pictures / "elsewhere")
    message = refused(open_pictures, pictures, split)
    assert all(str(pictures / name) in message for name in names)


def test_a_folder_that_does_not_exist_is_refused(tmp_path, refused):
    assert str(tmp_path / "nowhere" / "train") in refused(open_pictures, tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_classes_is_refused(pictures, refused, split):
    (pictures / split).rename(pictures / "elsewhere")
    save_picture(pictures / split / "1.png")
    message = refused(open_pictures, pictures, split)
    assert f"{pictures / split} " in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_images_is_refused(pictures, refused, split):
    for picture in (pictures / split / "bee").iterdir():
        picture.rename(picture.with_suffix(".txt"))
    message = refused(open_pictures, pictures, split)
    assert f"{pictures / split / 'bee'} " in message


@pytest.mark.parametrize("where", ["train", "test"])
def test_test_classes_other_than_those_of_training_are_refused(pictures, refused, where):
    save_picture(pictures / where / "cat" / "1.png")
    message = refused(open_pictures, pictures, "test")
    assert str(pictures / "test") in message
    assert "in cat:" in message


def test_of_many_differing_classes_only_some_are_listed(pictures, refused):
    for number in range(8):
        save_picture(pictures / "test" / f"cat{number}" / "1.png")
    message = refused(open_pictures, pictures, "test")
    assert "cat0, cat1, cat2, cat3, cat4, …" in message


def truncated(path):
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        lambda path: path.write_text("not a picture"),
        lambda path: path.write_bytes(b""),
        lambda path: path.symlink_to(path.with_name("nowhere")),
    ],
    ids=["truncated", "text", "empty", "dangling link"],
)
def test_a_file_that_is_no_image_is_refused(pictures, refused, spoil, suffix):
    path = pictures / "train" / "ant" / f"00.{suffix}"
    spoil(path)
    dataset = open_pictures(pictures)
    message = refused(dataset.read, torch.arange(len(dataset)))
    assert message.startswith(f"{path} ")


def test_whatever_the_decoder_raises_names_the_file(tmp_path, refused):
    path = tmp_path / "one.png"
    Image.effect_noise((400, 400), 50).save(path)
    content = path.read_bytes()
    second_chunk = content.index(b"IDAT", content.index(b"IDAT") + 4)
    path.write_bytes(content[:second_chunk] + b"\0\0\0\0" + content[second_chunk + 4 :])
    with pytest.raises(SyntaxError, match="broken PNG"), Image.open(path) as image:
        image.load()
    assert refused(decode, str(path), SIZE).startswith(f"{path} ")


def test_a_file_that_vanished_is_refused(pictures, refused):
    dataset = open_pictures(pictures)
    path = pictures / "train" / "ant" / "1.png"
    path.unlink()
    assert refused(dataset.read, torch.tensor([1])).startswith(f"{path} ")


@pytest.mark.parametrize("side", [11, 30], ids=["PIL would warn", "PIL would raise"])
def test_an_image_bomb_is_refused_with_the_limit(tmp_path, refused, monkeypatch, side):
    path = save_picture(tmp_path / "one.png", size=(side, side))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = refused(decode, str(path), SIZE)
    assert message.startswith(f"{path} ")
    assert "of 100:" in message


def test_an_image_of_just_the_limit_is_read(tmp_path, monkeypatch):
    path = save_picture(tmp_path / "one.png", size=(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(str(path), SIZE).shape == (3, SIZE, SIZE)
