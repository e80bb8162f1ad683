"""Image operations against direct numpy computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import block_average
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from semiseg_jax.ops import images

area_average = jax.jit(images.area_average, static_argnums=1)
covered = jax.jit(images.covered, static_argnums=1)


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


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, bool])
def test_integers_of_an_unknown_scale_are_refused(dtype):
    with pytest.raises(TypeError, match=f"image is {np.dtype(dtype).name} but must be uint8"):
        images.standardize(np.ones((1, 2, 2, 3), dtype))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_than_three_channels_are_refused(channels):
    with pytest.raises(ValueError, match="last axis must be RGB"):
        images.standardize(np.ones((1, 2, 2, channels), np.uint8))


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


def test_images_of_any_rank_need_no_promotion_of_ranks_or_dtypes():
    image, valid = jnp.zeros((2, 4, 5, 3), jnp.float32), jnp.zeros((2, 4, 5), bool)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.enable_x64(True):
        filled = images.fill_padding(image, valid)
        assert images.standardize(filled).dtype == filled.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 4, 4, 3)])
def test_standardize_is_the_same_for_bytes_and_unit_values(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = (image / 255.0 - images.MEAN) / images.STD
    np.testing.assert_allclose(images.standardize(jnp.asarray(image)), expected, atol=1e-5)
    np.testing.assert_allclose(images.standardize(jnp.asarray(image / 255.0)), expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "sigma"), [((6, 6, 3), 3.0), ((6, 6, 3), 0.4), ((5, 9, 1), 1.0), ((1, 7, 3), 1.0)])
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


@pytest.mark.parametrize(
    ("old", "new"),
    [((12, 8), (4, 2)), ((6, 6), (6, 3)), ((7, 5), (3, 5)), ((9, 10), (8, 9)), ((5, 7), (1, 1)), ((3, 1000), (2, 333))],
)
def test_area_average_is_the_mean_over_the_area_of_each_new_pixel(old, new):
    image = random_image((2, *old, 3))
    average = area_average(image, new)
    assert average.shape == (2, *new, 3)
    np.testing.assert_allclose(average, block_average(image, new), rtol=1e-5)


def test_area_average_of_whole_blocks_is_their_plain_mean_and_needs_no_product_of_matrices():
    image = random_image((2, 6, 8, 3))
    expected = image.reshape(2, 3, 2, 2, 4, 3).astype(np.float64).mean((2, 4))
    np.testing.assert_allclose(area_average(image, (3, 2)), expected, rtol=1e-6)
    assert "dot_general" not in str(jax.make_jaxpr(images.area_average, static_argnums=1)(image, (3, 2)))


def test_area_average_to_the_same_size_changes_nothing():
    image = random_image((1, 5, 7, 3))
    np.testing.assert_array_equal(area_average(image, (5, 7)), image)


@pytest.mark.parametrize(("old", "new"), [((6, 8), (3, 2)), ((7, 9), (3, 4))])
def test_images_that_are_split_over_devices_with_explicit_axes_are_averaged_like_any_other(old, new):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    image = random_image((2, *old, 3))
    spread = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(area_average(spread, new), area_average(image, new), rtol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((13, 29), (5, 11)), ((1000, 3), (333, 2))])
def test_area_average_keeps_the_mean_of_the_image(old, new):
    image = random_image((2, *old, 3))
    average = area_average(image, new)
    np.testing.assert_allclose(np.mean(average, (1, 2)), image.astype(np.float64).mean((1, 2)), rtol=1e-5)


RATIOS = [(7, 3), (321, 81), (1000, 333), (97, 96), (8, 2), (5, 5)]


@pytest.mark.parametrize(("old", "new"), RATIOS)
def test_a_full_mask_covers_every_pixel_at_any_ratio(old, new):
    result = covered(np.ones((1, old, old), bool), (new, new))
    assert result.dtype == bool
    assert result.shape == (1, new, new)
    assert result.all()


def test_a_full_mask_of_more_pixels_than_float32_counts_covers_every_pixel():
    assert covered(np.ones((1, 4801, 4799), bool), (313, 313)).all()


@pytest.mark.parametrize(("old", "new"), RATIOS)
@pytest.mark.parametrize("hole", [0.0, 0.5, 0.999, np.nan])
def test_a_hole_uncovers_exactly_the_pixels_that_it_touches(old, new, hole):
    mask = np.ones((1, old, old), np.float32)
    y, x = old // 2, old // 3
    mask[0, y, x] = hole
    start, stop = np.arange(new) * old, (np.arange(new) + 1) * old
    touched = [(start < (at + 1) * new) & (stop > at * new) for at in (y, x)]
    result = np.asarray(covered(mask, (new, new)))
    np.testing.assert_array_equal(result[0], ~(touched[0][:, None] & touched[1][None, :]))


@pytest.mark.parametrize(("old", "new"), [((6, 8), (3, 2)), ((7, 9), (3, 4)), ((13, 12), (5, 7)), ((4, 5), (4, 5))])
def test_covered_pixels_are_those_whose_average_is_one(old, new):
    mask = np.random.default_rng(0).uniform(size=(2, *old)) < 0.9
    expected = block_average(mask, new) > 1 - 1e-9
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(covered(mask, new), expected)
