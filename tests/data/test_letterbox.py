"""Placing on the canvas and bringing maps back."""

import numpy as np
import pytest

from semiseg_jax.data.letterbox import FILL, Letterbox, resize, round_up
from semiseg_jax.data.types import IGNORE


def random_maps(size, channels=4, seed=0):
    return np.random.default_rng(seed).normal(size=(*size, channels)).astype(np.float32)


def random_image(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(32, 48), (31, 17), (1, 1), (32, 1), (5, 48)])
@pytest.mark.parametrize("channels", [1, 3, 7, 21])
def test_what_was_not_resized_comes_back_exactly(size, channels):
    canvas = (32, 48)
    box = Letterbox.fit(size, canvas)
    assert box.placed == size
    maps = random_maps(size, channels)
    placed = np.zeros((*canvas, channels), np.float32)
    placed[: size[0], : size[1]] = maps
    np.testing.assert_array_equal(box.unplace(placed), maps)


@pytest.mark.parametrize("size", [(32, 48), (31, 17), (1, 1)])
def test_smaller_images_are_copied_to_the_top_left_and_padded(size):
    box = Letterbox.fit(size, (32, 48))
    image, mask = random_image(size), random_image(size)[..., 0]
    canvas_image, canvas_mask = box.place_image(image), box.place_mask(mask)
    np.testing.assert_array_equal(canvas_image[: size[0], : size[1]], image)
    np.testing.assert_array_equal(canvas_mask[: size[0], : size[1]], mask)
    outside = np.ones((32, 48), bool)
    outside[: size[0], : size[1]] = False
    assert (canvas_image[outside] == FILL).all()
    assert (canvas_mask[outside] == IGNORE).all()


@pytest.mark.parametrize("size", [(64, 96), (100, 20), (33, 200), (1, 500), (500, 1)])
def test_larger_images_are_shrunk_to_fit_with_their_proportions(size):
    canvas = (32, 48)
    box = Letterbox.fit(size, canvas)
    assert box.placed[0] <= canvas[0]
    assert box.placed[1] <= canvas[1]
    assert box.placed[0] == canvas[0] or box.placed[1] == canvas[1]
    factor = min(canvas[0] / size[0], canvas[1] / size[1])
    for placed, side in zip(box.placed, size, strict=True):
        assert abs(placed - max(1, side * factor)) <= 0.5
    assert box.place_image(random_image(size)).shape == (*canvas, 3)
    assert (box.place_mask(np.zeros(size, np.uint8)) == IGNORE).sum() == 32 * 48 - np.prod(box.placed)
    assert box.unplace(random_maps(canvas, 5)).shape == (*size, 5)


@pytest.mark.parametrize(("scale", "placed"), [(1.0, (10, 12)), (2.0, (20, 24)), (9.0, (40, 48)), (0.5, (5, 6))])
def test_only_scale_enlarges(scale, placed):
    assert Letterbox.fit((10, 12), (40, 48), scale).placed == placed


def test_masks_are_never_blended():
    mask = np.where(np.random.default_rng(0).uniform(size=(70, 90)) < 0.5, 3, 200).astype(np.uint8)
    assert set(np.unique(Letterbox.fit(mask.shape, (32, 48)).place_mask(mask))) <= {3, 200, IGNORE}


@pytest.mark.parametrize("size", [(64, 96), (63, 90), (32, 48)])
def test_a_flat_image_stays_flat_and_comes_back_flat(size):
    box = Letterbox.fit(size, (32, 48))
    image = box.place_image(np.full((*size, 3), 77, np.uint8))
    assert (image[: box.placed[0], : box.placed[1]] == 77).all()
    np.testing.assert_allclose(box.unplace(np.full((32, 48, 2), 0.3, np.float32)), 0.3, rtol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (96, 60), (128, 192), (24, 30)])
def test_geometry_follows_the_pixels(size):
    """A bright square's pixel rows and edge rows land where the square lands."""
    y0, x0, y1, x1 = size[0] // 4, size[1] // 3, size[0] // 4 + 16, size[1] // 3 + 8
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    box = Letterbox.fit(size, (32, 48))
    ys, xs = np.nonzero(box.place_mask(mask) == 1)
    edges = box.place_rows(np.array([[y0, x0, y1, x1]]), pixels=False)[0]
    np.testing.assert_allclose(edges, [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1], atol=0.51)
    middle = box.place_rows(np.array([[(y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2, 1]]), pixels=True)[0]
    np.testing.assert_allclose(middle, [(edges[0] + edges[2] - 1) / 2, (edges[1] + edges[3] - 1) / 2, 1], rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (100, 20), (20, 30)])
@pytest.mark.parametrize("columns", [3, 5])
def test_pixel_rows_stay_in_the_placed_image_and_keep_their_class(size, columns):
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [rng.integers(0, size * (columns // 2), (50, columns - 1)), rng.integers(0, 9, (50, 1))], -1
    ).astype(np.float32)
    original = rows.copy()
    box = Letterbox.fit(size, (32, 48))
    placed = box.place_rows(rows, pixels=True)
    np.testing.assert_array_equal(rows, original)
    np.testing.assert_array_equal(placed[:, -1], rows[:, -1])
    pixels = np.floor(placed[:, :-1].reshape(-1, 2) + 0.5)
    assert (pixels >= 0).all()
    assert (pixels < box.placed).all()
    if box.placed == size:
        np.testing.assert_array_equal(placed, rows)


def test_no_rows_stay_no_rows():
    box = Letterbox.fit((64, 96), (32, 48))
    assert box.place_rows(np.zeros((0, 5), np.float32), pixels=True).shape == (0, 5)


@pytest.mark.parametrize(("size", "target"), [((5, 7), (10, 14)), ((8, 8), (4, 4)), ((5, 7), (5, 7)), ((4, 9), (8, 3))])
@pytest.mark.parametrize("channels", [None, 1, 3, 19])
def test_resize_keeps_channels_and_dtype(size, target, channels):
    shape = size if channels is None else (*size, channels)
    out = resize(np.ones(shape, np.float32), target)
    assert out.shape == (*target, *shape[2:])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, 1.0, rtol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(1, 32), (32, 32), (33, 64)])
def test_round_up_gives_the_next_multiple(value, expected):
    assert round_up(value, 32) == expected
