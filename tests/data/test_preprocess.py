"""From stored pixels to the network's input."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import ReportedError
from data.preprocess import VIEWS, Preprocess
from native.crop import can_crop


def preprocess(size, resize=None, mirror=False, channels=1):
    return Preprocess(size, resize or size, [0.0] * channels, [1.0] * channels, mirror)


def random_images(count, channels, side):
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def copies(count, side):
    """``count`` times one image whose pixels all differ."""
    return (
        torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side).repeat(count, 1, 1, 1)
    )


def test_each_channel_is_standardized_by_its_own_numbers():
    images = random_images(4, 3, 8)
    out = Preprocess(8, 8, [10.0, 20.0, 30.0], [2.0, 3.0, 4.0], mirror=False)(images)
    for channel, (mean, std) in enumerate([(10, 2), (20, 3), (30, 4)]):
        expected = (images[:, channel].float() - mean) / std
        torch.testing.assert_close(out[:, channel], expected)


@pytest.mark.parametrize(("size", "resize", "start"), [(8, 12, 2), (7, 12, 2), (12, 12, 0)])
def test_evaluation_crops_the_center_and_never_mirrors(size, resize, start):
    images = random_images(20, 1, resize)
    out = preprocess(size, resize, mirror=True)(images)
    stop = start + size
    assert torch.equal(out, images[:, :, start:stop, start:stop].float())


@pytest.mark.parametrize(
    ("number", "corners"),
    [(1, [(2, 2)]), (2, [(2, 2)] * 2), (10, [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)] * 2)],
)
def test_the_views_of_a_test_image_are_its_center_its_corners_and_their_mirror_images(
    number, corners
):
    images = random_images(3, 1, 12)
    transform = preprocess(8, 12)
    for place, (view, (top, left)) in enumerate(zip(VIEWS[number], corners, strict=True)):
        expected = images[:, :, top : top + 8, left : left + 8].float()
        mirrored = place >= number / 2 and number > 1
        assert torch.equal(transform(images, view=view), expected.flip(3) if mirrored else expected)


@pytest.mark.parametrize("side", [12, 28], ids=["as stored", "resized"])
def test_training_depends_on_an_image_and_its_key_not_on_the_batch(side):
    images, keys = random_images(40, 3, side), torch.arange(40) * 7919
    training = preprocess(8, 12, mirror=True, channels=3)
    together = training(images, keys)
    shuffled = torch.randperm(40)
    assert torch.equal(training(images[shuffled], keys[shuffled]), together[shuffled])
    assert torch.equal(training(images[3:4], keys[3:4]), together[3:4])
    torch.manual_seed(1)
    assert torch.equal(training(images, keys), together)


def test_half_of_the_images_are_flipped_left_to_right():
    images = copies(4000, 6)
    out = preprocess(6, mirror=True)(images, torch.arange(4000))
    flipped = (out == images.flip(3)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_crops_reach_every_place_equally_with_and_without_the_flip():
    images, places = copies(8000, 7), {}
    for top in range(4):
        for left in range(4):
            window = images[0, :, top : top + 4, left : left + 4].float()
            places[top, left, False], places[top, left, True] = window, window.flip(2)
    out = preprocess(4, 7, mirror=True)(images, torch.arange(8000))
    counts = [(out == window).flatten(1).all(1).sum().item() for window in places.values()]
    assert sum(counts) == 8000
    assert min(counts) > 180
    assert max(counts) < 320


def test_without_mirror_crops_are_never_flipped():
    images = copies(500, 7)
    out = preprocess(4, 7)(images, torch.arange(500))
    assert (out[..., 1:] - out[..., :-1] == 1).all()
    assert len(out.unique(dim=0)) == 16


def test_an_image_is_cropped_anew_under_another_key():
    training = preprocess(8, 32)
    images = random_images(100, 1, 32)
    first, second = (training(images, torch.arange(100) + start) for start in (0, 100))
    assert (first != second).flatten(1).any(1).float().mean() > 0.9


def test_training_without_margin_or_mirror_is_evaluation():
    images = random_images(4, 1, 8)
    assert torch.equal(preprocess(8)(images, torch.arange(4)), preprocess(8)(images))


@pytest.mark.parametrize("keys", [None, torch.arange(4)], ids=["evaluation", "training"])
@pytest.mark.parametrize("resize", [8, 12, 16, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_output_is_in_channels_last_memory(channels, resize, keys):
    transform = preprocess(8, resize, mirror=True, channels=channels)
    out = transform(random_images(4, channels, 16), keys)
    assert (out.shape, out.dtype) == ((4, channels, 8, 8), torch.float32)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=["fused", "plain"])
def form(request):
    """Both forms: the compiled kernel, and plain PyTorch."""
    if request.param == "fused" and not can_crop(torch.device("cpu"), torch.float32):
        pytest.skip("no C++ compiler here")
    return request.param


def some_extras(extras, channels, resize):
    """A mean image and changes of color, if there are to be any."""
    if not extras:
        return {}
    colors = 50 * torch.randn(channels, channels)
    return {"mean_image": 255 * torch.rand(resize, resize, channels), "colors": colors}


@pytest.mark.parametrize("keys", [None, torch.arange(40)], ids=["evaluation", "training"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "mean image and colors"])
def test_without_resizing_kernel_and_plain_form_are_equal(extras, channels, dtype, keys):
    means, stds = [10.0, 20.0, 30.0][:channels], [2.0, 3.0, 4.0][:channels]
    more = some_extras(extras, channels, 60)
    transform = Preprocess(50, 60, means, stds, mirror=True, dtype=dtype, **more)
    images = random_images(40, channels, 60)
    windows, colors = transform.windows(images, keys), transform.color_changes(images, keys)
    expected = transform.plain(images, windows, colors)
    assert expected.dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(transform(images, keys), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (60, 28), (90, 131)])
@pytest.mark.parametrize(("size", "resize"), [(60, 60), (50, 60), (5, 6)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "mean image and colors"])
def test_the_kernel_resizes_as_the_plain_form_does(
    extras, channels, size, resize, height, width, dtype
):
    means, stds = [10.0, 20.0, 30.0][:channels], [2.0, 3.0, 4.0][:channels]
    more = some_extras(extras, channels, resize)
    exact, ours = (
        Preprocess(size, resize, means, stds, mirror=True, dtype=each, **more)
        for each in (torch.float32, dtype)
    )
    images, keys = random_images(40, channels, 131)[:, :, :height, :width], torch.arange(40)
    windows, colors = exact.windows(images, keys), exact.color_changes(images, keys)
    expected = exact.plain(images, windows, colors)
    rounding = max(1e-5, torch.finfo(dtype).eps)
    torch.testing.assert_close(ours(images, keys).float(), expected, rtol=rounding, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [12, 8], ids=["whole", "cropped"])
def test_without_resizing_a_crop_is_a_slice_exactly(size, dtype, form):
    images = random_images(9, 3, 12)
    transform = Preprocess(size, 12, [0.0] * 3, [1.0] * 3, mirror=True, dtype=dtype)
    windows = torch.tensor(
        [[top, left, flip] for top in range(3) for left in range(3) for flip in (0, 1)]
    )
    windows = windows[: len(images)] * torch.tensor([size < 12, size < 12, 1])
    out = getattr(transform, form)(images, windows, torch.zeros(9, 3))
    for image, (top, left, flip), found in zip(images, windows.tolist(), out, strict=True):
        window = image[:, top : top + size, left : left + size].to(dtype)
        assert torch.equal(found, window.flip(2) if flip else window)


def test_an_image_in_contiguous_memory_gives_the_same_crop():
    images, keys = random_images(10, 3, 12), torch.arange(10)
    last = images.contiguous(memory_format=torch.channels_last)
    transform = preprocess(8, 12, mirror=True, channels=3)
    assert torch.equal(transform(images, keys), transform(last, keys))


@pytest.mark.parametrize(("resize", "stored"), [(96, 28), (120, 28), (96, 150)])
def test_resizing_in_bf16_is_exact_to_its_rounding(resize, stored):
    images, keys = random_images(10, 1, stored), torch.arange(10)
    exact, rounded = (
        Preprocess(96, resize, [73.0], [90.0], mirror=True, dtype=dtype)(images, keys).float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exact - rounded).abs().max() < 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("resize", [12, 16], ids=["whole", "cropped"])
def test_a_mirrored_crop_is_the_crop_mirrored(resize, form):
    images = random_images(2, 3, 7)
    resized = getattr(preprocess(12, resize, channels=3), form)
    straight = torch.tensor([[1, 3, 0]] * 2) * (resize > 12)
    mirrored = straight + torch.tensor([0, 0, 1])
    colors = torch.randn(2, 3)
    expected = resized(images, straight, colors).flip(3)
    torch.testing.assert_close(resized(images, mirrored, colors), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("keys", [None, torch.arange(0)], ids=["evaluation", "training"])
@pytest.mark.parametrize("side", [12, 28], ids=["as stored", "resized"])
def test_an_empty_batch_gives_an_empty_input(side, keys):
    transform = preprocess(8, 12, mirror=True, channels=3)
    assert transform(random_images(0, 3, side), keys).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(("stored", "antialias"), [(28, False), (128, True)])
def test_resizing_is_bilinear_and_smooth_where_it_shrinks(stored, antialias):
    images = random_images(3, 1, stored)
    expected = F.interpolate(images.float(), (96, 96), mode="bilinear", antialias=antialias)
    torch.testing.assert_close(preprocess(96)(images), expected)
    cropped = preprocess(64, 96)(images)
    torch.testing.assert_close(cropped, expected[:, :, 16:80, 16:80])


@pytest.mark.parametrize(("height", "width"), [(12, 9), (9, 12), (12, 20), (20, 12)])
def test_oblong_images_become_squares(height, width):
    images = random_images(2, 1, 20)[:, :, :height, :width]
    antialias = max(height, width) > 12
    expected = F.interpolate(images.float(), (12, 12), mode="bilinear", antialias=antialias)
    torch.testing.assert_close(preprocess(12)(images), expected)


@pytest.mark.parametrize("stored", [12, 28], ids=["as stored", "resized"])
def test_the_center_of_the_mean_image_is_subtracted_from_every_crop(stored):
    images, mean = random_images(20, 3, stored), 255 * torch.rand(12, 12, 3)
    plain = preprocess(8, 12, mirror=True, channels=3)
    ours = Preprocess(8, 12, [0.0] * 3, [2.0] * 3, mirror=True, mean_image=mean)
    for keys in (None, torch.arange(20)):
        expected = (plain(images, keys) - mean[2:10, 2:10].permute(2, 0, 1)) / 2
        torch.testing.assert_close(ours(images, keys), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("stored", [12, 28], ids=["as stored", "resized"])
def test_each_training_image_has_a_color_change_of_its_own(stored):
    images, colors = random_images(5000, 3, stored), torch.randn(3, 3)
    plain = Preprocess(8, 12, [0.0] * 3, [2.0, 3.0, 4.0], mirror=True)
    ours = Preprocess(8, 12, [0.0] * 3, [2.0, 3.0, 4.0], mirror=True, colors=colors)
    assert torch.equal(ours(images), plain(images))
    keys = torch.arange(5000)
    changes = (ours(images, keys) - plain(images, keys)) * torch.tensor([2.0, 3, 4]).view(3, 1, 1)
    each = changes.mean((2, 3))
    assert (changes - each[:, :, None, None]).abs().max() < 1e-3, "all pixels of an image alike"
    torch.testing.assert_close(each.T.cov(), colors.T @ colors, rtol=0.1, atol=0.2)
    assert each.mean(0).abs().max() < 0.2


def test_a_mean_and_a_std_that_do_not_fit_are_refused():
    with pytest.raises(ReportedError, match=r"data\.mean is \[1.0, 2.0\] and data\.std \[3.0\]"):
        Preprocess(8, 8, [1.0, 2.0], [3.0], mirror=False)


@pytest.mark.parametrize("channels", [1, 2])
def test_images_of_other_channels_than_the_means_are_refused(channels):
    with pytest.raises(ReportedError, match=rf"{channels} channels.*data\.mean.* 3 "):
        preprocess(8, channels=3)(random_images(2, channels, 8))
