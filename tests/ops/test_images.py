"""Image operations against direct numpy computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.ops import images


def random_image(shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def numpy_blur(image, sigma):
    """Every output pixel as the normalised Gaussian average of all input pixels."""
    height, width, _ = image.shape
    ys, xs = np.mgrid[:height, :width]
    out = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            kernel = np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * sigma**2))
            out[y, x] = (kernel[..., None] * image).sum((0, 1)) / kernel.sum()
    return out


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 5, 7, 3), (2, 3, 1, 3)])
def test_to_unit_maps_bytes_to_the_unit_range(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    unit = images.to_unit(jnp.asarray(image))
    assert unit.dtype == jnp.float32
    np.testing.assert_allclose(unit, image / 255.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_to_unit_leaves_floating_values_alone(dtype):
    image = jnp.asarray(random_image((2, 3, 3)), dtype)
    unit = images.to_unit(image)
    assert unit.dtype == jnp.float32
    np.testing.assert_array_equal(unit, image.astype(jnp.float32))


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 5, 7, 3), (2, 1, 3, 3)])
def test_fill_padding_changes_invalid_pixels_only(shape):
    image = random_image(shape)
    valid = np.random.default_rng(1).uniform(size=shape[:-1]) < 0.5
    filled = np.asarray(images.fill_padding(jnp.asarray(image), jnp.asarray(valid)))
    np.testing.assert_array_equal(filled[valid], image[valid])
    np.testing.assert_allclose(filled[~valid], np.broadcast_to(images.MEAN, filled[~valid].shape), rtol=1e-6)


def test_filled_padding_standardizes_to_zero():
    image = jnp.asarray(random_image((4, 5, 3)))
    filled = images.fill_padding(image, jnp.zeros((4, 5), bool))
    np.testing.assert_allclose(images.standardize(filled), 0.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 4, 3)])
def test_standardize_is_the_same_for_bytes_and_unit_values(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = (image / 255.0 - images.MEAN) / images.STD
    np.testing.assert_allclose(images.standardize(jnp.asarray(image)), expected, atol=1e-5)
    np.testing.assert_allclose(images.standardize(jnp.asarray(image / 255.0)), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6, 3), (5, 9, 1), (1, 7, 3)])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_gaussian_blur_equals_a_direct_weighted_average(shape, sigma):
    image = random_image(shape)
    blurred = jax.jit(images.gaussian_blur)(image, sigma)
    np.testing.assert_allclose(blurred, numpy_blur(image, sigma), atol=1e-5)


def test_gaussian_blur_keeps_a_flat_image_and_its_range():
    np.testing.assert_allclose(images.gaussian_blur(jnp.full((5, 8, 3), 0.3), 2.0), 0.3, atol=1e-6)
    blurred = np.asarray(images.gaussian_blur(jnp.asarray(random_image((9, 8, 3))), 1.5))
    assert blurred.min() >= 0
    assert blurred.max() <= 1 + 1e-6


def test_a_tiny_sigma_leaves_the_image_as_it_is():
    image = random_image((6, 7, 3))
    np.testing.assert_allclose(images.gaussian_blur(jnp.asarray(image), 0.1), image, atol=1e-6)
