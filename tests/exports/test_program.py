"""An exported program: sizes are those of prediction, maps come back to the image, also those of its mirror image."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.data.letterbox import round_up
from semiseg_jax.engine.views import ROWS, rungs, whole_view
from semiseg_jax.exports.program import _placed, _rung, whole_image


@pytest.mark.parametrize("canvas", [(96, 128), (321, 321), (64, 512)])
def test_images_lie_on_the_canvas_of_prediction(canvas):
    steps = [rungs(round_up(side, ROWS)) for side in canvas]
    for size in [(h, w) for h in (1, 31, 32, 33, 64, 97, 320, 333, 500, 1001) for w in (1, 48, 65, 96, 128, 375, 640)]:
        view = whole_view(size, canvas, 1.0)
        placed = _placed(size, canvas)
        assert placed == view.placed, size
        assert tuple(_rung(side, of_side) for side, of_side in zip(placed, steps, strict=True)) == view.canvas, size


def test_maps_come_back_to_the_image_as_opencv_resizes_them():
    image = cv2.resize(
        np.random.default_rng(0).integers(0, 255, (8, 3, 3), np.uint8), (48, 128), interpolation=cv2.INTER_CUBIC
    )
    program = whole_image(lambda weights, tiles: tiles, (64, 96), ((64, 32), (96, 64, 32)))
    found = np.asarray(program({}, image[None])["probabilities"])[0]
    small = cv2.resize(image, (24, 64), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    np.testing.assert_allclose(found, cv2.resize(small, (48, 128), interpolation=cv2.INTER_LINEAR), atol=1e-5)


def test_the_maps_of_the_mirror_image_are_mirrored_back():
    image = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    tilted = jnp.linspace(0, 1, 64)[:, None]
    program = whole_image(lambda weights, tiles: tiles * tilted, (32, 64), ((32,), (64,)), flip=True)
    np.testing.assert_allclose(program({}, image[None])["probabilities"][0], image / 510, atol=1e-6)
