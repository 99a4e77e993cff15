"""Sums of pixels, against NumPy."""

import numpy as np
import pytest

from data.packed.statistics import Sums, added, mean_and_covariance


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3))
    pixels[..., 1] = (pixels[..., 0] + pixels[..., 1]) // 2  # so that channels are related
    return pixels.astype(np.uint8)


def sums_of(images):
    sums = Sums(images.shape[1])
    for image in images:
        sums.add(image)
    return sums


def test_mean_and_covariance_are_numpy_s(images):
    sums, pixels = sums_of(images), images.reshape(-1, 3).astype(np.float64)
    totals = sums.places.sum((0, 1)).tolist()
    mean, covariance = mean_and_covariance(totals, sums.products, len(pixels))
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(pixels.T, bias=True), rtol=1e-12)
    np.testing.assert_array_equal(sums.places, images.astype(np.int64).sum(0))


def test_any_order_and_any_parts_have_the_very_same_sums(images):
    whole, turned = sums_of(images), sums_of(images[::-1])
    parts = [sums_of(images[:2]), sums_of(images[2:])]
    assert whole.products == turned.products == added(parts[0].products, parts[1].products)
    np.testing.assert_array_equal(whole.places, parts[0].places + parts[1].places)


def test_of_images_of_one_color_nothing_is_left_to_rounding():
    sums = sums_of(np.full((3, 8, 8, 3), (255, 254, 1), np.uint8))
    mean, covariance = mean_and_covariance(
        sums.places.sum((0, 1)).tolist(), sums.products, 3 * 8 * 8
    )
    assert mean == (255, 254, 1)
    assert covariance == ((0, 0, 0),) * 3
