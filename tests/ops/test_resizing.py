"""Resizing on the device gives the bytes of OpenCV."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.ops import resizing

_shrink = jax.jit(resizing.shrink)
SIZES = [((64, 96), (32, 48)), ((80, 96), (60, 72)), ((65, 300), (21, 96)), ((61, 64), (60, 63)), ((72, 72), (12, 12))]
SIZES += [((64, 96), (64, 96)), ((2, 300), (1, 96)), ((96, 96), (32, 48)), ((90, 64), (90, 63))]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_shrunk_images_are_those_of_opencv_to_the_last_bit(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3)).astype(np.uint8)
    rows, columns = (jnp.arange(side, dtype=jnp.int32) for side in new)
    sizes = [tuple(jnp.asarray(side, jnp.int32) for side in size) for size in (old, new)]
    found = _shrink(image[None], *sizes, rows, columns)
    np.testing.assert_array_equal(found[0], cv2.resize(image, new[::-1], interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_mirrored_indices_are_those_of_opencv(size):
    row = np.arange(size, dtype=np.uint8)[None]
    expected = cv2.copyMakeBorder(row, 0, 0, 0, 17, cv2.BORDER_REFLECT)[0]
    np.testing.assert_array_equal(resizing.mirrored(jnp.arange(size + 17), jnp.asarray(size)), expected)
