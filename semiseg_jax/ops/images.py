"""Colour statistics and the input scale of every network: RGB in [0,1], standardised with ImageNet's numbers."""

import jax
import jax.numpy as jnp
import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def to_unit(image: jax.Array | np.ndarray) -> jax.Array:
    """uint8 [0,255] -> float32 [0,1]; floating input passes through as float32."""
    if image.dtype == jnp.uint8:
        return jnp.asarray(image, jnp.float32) / 255.0
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image is {image.dtype} but must be uint8, or floating point in [0,1]")
    return jnp.asarray(image, jnp.float32)


def fill_padding(image: jax.Array, valid: jax.Array) -> jax.Array:
    """Gives pixels outside the image the mean colour, which standardises to 0. image [...,H,W,3], valid [...,H,W]."""
    return jnp.where(valid[..., None], image, _of_channels(MEAN, image))


def standardize(image: jax.Array | np.ndarray) -> jax.Array:
    """[...,3] uint8 or RGB in [0,1] -> zero mean, unit variance over ImageNet."""
    if image.shape[-1] != 3:
        raise ValueError(f"standardize: image is {list(image.shape)} but its last axis must be RGB")
    unit = to_unit(image)
    return (unit - _of_channels(MEAN, unit)) / _of_channels(STD, unit)


def _of_channels(values: tuple[float, ...], image: jax.Array) -> jax.Array:
    """One value a channel, in the rank and dtype of the image."""
    return jnp.asarray(values, image.dtype).reshape((1,) * (image.ndim - 1) + (-1,))


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """[H,W,C] blurred with a Gaussian of (traced) `sigma` pixels; weights are renormalised at the border."""

    def weights(length: int) -> jax.Array:
        distance = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
        kernel = jnp.exp(-0.5 * jnp.square(distance / sigma))
        return kernel / kernel.sum(axis=1, keepdims=True)

    # Two matrix products: faster than a depthwise convolution on CPU and TPU at these sizes, and sigma may be traced.
    return jnp.einsum("yh,hwc,xw->yxc", weights(image.shape[0]), image, weights(image.shape[1]))


def area_average(image: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B,h,w,C] -> [B,H,W,C] of `size`, at most as large: the exact mean over the area of each new pixel."""
    height, width = image.shape[1:3]
    if (height, width) == tuple(size):
        return image
    if height % size[0] or width % size[1]:
        return _area_sum(image, size) / (height * width)
    # One axis at a time, which sharded arrays allow.
    rows = image.reshape(image.shape[0], size[0], height // size[0], width, image.shape[3]).sum(axis=2)
    blocks = rows.reshape(image.shape[0], size[0], size[1], width // size[1], image.shape[3]).sum(axis=3)
    return blocks * (size[0] * size[1] / (height * width))


def covered(mask: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B,h,w] bool or float -> [B,H,W] bool: pixels of `size` whose whole area is 1 in the mask. NaN counts as 0."""
    height, width = mask.shape[1:3]
    filled = jnp.minimum(jnp.nan_to_num(mask.astype(jnp.float32), nan=0.0), 1.0)
    if (height, width) == tuple(size):
        return filled >= 1.0
    # Any hole leaves more than 0; a mean of ones would be rounded in masks of more than 2^24 pixels.
    return area_average(1.0 - filled[..., None], size)[..., 0] <= 0.0


def _area_sum(image: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Sums weighted by overlap, in units in which every overlap is a whole number."""

    def overlaps(length: int, pixels: int) -> jax.Array:
        start, old = jnp.arange(pixels)[:, None] * length, jnp.arange(length)[None, :] * pixels
        overlap = jnp.minimum(start + length, old + pixels) - jnp.maximum(start, old)
        return jnp.maximum(overlap, 0).astype(image.dtype)

    rows, columns = (overlaps(length, pixels) for length, pixels in zip(image.shape[1:3], size, strict=True))
    return jnp.einsum("yh,bhwc,xw->byxc", rows, image, columns, precision="highest")
