"""Superpixels: connected, without crumbs, along the edges of colour."""

import numpy as np
import pytest
from scipy import ndimage

from semiseg_jax.ops import superpixels
from semiseg_jax.ops.slic import region_means, touching


def noise(height, width, seed=0):
    """Colours that change within a few pixels."""
    return 50 * ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width, 3)), (1, 1, 0))


@pytest.mark.parametrize(("height", "width", "number"), [(40, 60, 30), (33, 47, 12), (20, 20, 100)])
def test_regions_are_numbered_without_gaps_connected_and_no_crumbs(height, width, number):
    regions = superpixels(noise(height, width), number=number)
    assert regions.shape == (height, width)
    sizes = np.bincount(regions.ravel())
    assert 0.5 * number <= len(sizes) <= 1.5 * number
    assert sizes.min() >= 0.2 * height * width / number
    assert all(ndimage.label(regions == region)[1] == 1 for region in range(len(sizes)))


def test_no_region_crosses_an_edge_of_colour():
    disk = np.hypot(*(np.indices((48, 64)) - np.array([24, 30])[:, None, None])) < 15
    regions = superpixels(disk[..., None] * 60.0 + np.zeros(3), number=40)
    shares = region_means(regions, disk)
    assert set(np.unique(shares)) == {0.0, 1.0}


def test_a_flat_image_falls_into_its_cells():
    regions = superpixels(np.zeros((40, 60, 3), np.uint8), number=24)
    np.testing.assert_array_equal(regions, np.kron(np.arange(24).reshape(4, 6), np.ones((10, 10), int)))


@pytest.mark.parametrize(("height", "width", "number"), [(1, 1, 500), (1, 7, 3), (3, 2, 1)])
def test_tiny_images_have_regions(height, width, number):
    regions = superpixels(np.zeros((height, width, 3)), number=number)
    assert set(np.unique(regions)) == set(range(regions.max() + 1))


def test_means_and_touching_regions_are_those_of_the_pixels():
    regions, values = superpixels(noise(20, 30), number=12), noise(20, 30, seed=1)
    means, touch = region_means(regions, values), touching(regions)
    for region in range(len(means)):
        np.testing.assert_allclose(means[region], values[regions == region].mean(axis=0), rtol=1e-4, atol=1e-4)
        around = ndimage.binary_dilation(regions == region)  # 4 neighbours
        np.testing.assert_array_equal(np.flatnonzero(touch[region]), np.setdiff1d(regions[around], [region]))


@pytest.mark.parametrize(
    ("colors", "options", "message"),
    [
        (np.zeros((4, 4)), {}, "superpixels: colors"),
        (np.zeros((4, 4, 1)), {"number": 0}, "number is 0"),
        (np.zeros((4, 4, 1)), {"steps": 0}, "steps is 0"),
        (np.zeros((4, 4, 1)), {"compactness": np.nan}, "compactness is nan"),
    ],
)
def test_bad_arguments_are_named(colors, options, message):
    with pytest.raises(ValueError, match=message):
        superpixels(colors, **options)
