"""Convolutions in the form that their compiler runs fast.

GPUs and TPUs have libraries for every convolution. XLA on CPU has one for dense convolutions. There, depthwise ones run
many times faster as shifted multiply-adds; 1x1 ones and those with few channels out are faster as matrix products. All
forms have the same values and derivatives up to rounding, of any order, forward and reverse.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.ops.form import convolution_form, for_cpu

Pads = Sequence[tuple[int, int]]
__all__ = ["convolution_form", "convolve", "depthwise_convolve", "for_cpu"]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    pads: Pads,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """x [B,H,W,C], kernel [k,k,C,D] -> [B,h,w,D]; `pads` are rows and columns of zeros around x (before, after)."""
    if for_cpu():
        if x.dtype.itemsize < 4:  # XLA on CPU may add up half precision in half precision, which loses most of a sum
            single = convolve(
                x.astype(jnp.float32),
                kernel.astype(jnp.float32),
                stride=stride,
                dilation=dilation,
                pads=pads,
                precision=precision,
            )
            return single.astype(x.dtype)
        height, width, inputs, features = kernel.shape
        if height * width == 1 and not any(map(any, pads)):
            return jnp.einsum("bhwc,cd->bhwd", x[:, ::stride, ::stride], kernel[0, 0], precision=precision)
        if stride == 1 and height * width * features <= inputs:
            return _taps_first(x, kernel, dilation, pads, precision)
    return _library(x, kernel, stride, dilation, pads, precision=precision)


def depthwise_convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1, pads: Pads) -> jax.Array:
    """x [B,H,W,C], kernel [k,k,1,C] -> [B,h,w,C]: every channel has its own kernel."""
    if for_cpu():
        return _shifted_sum(x, kernel, stride, dilation, pads)
    return _library(x, kernel, stride, dilation, pads, groups=x.shape[-1])


def _library(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    dilation: int,
    pads: Pads,
    *,
    groups: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def _taps_first(x: jax.Array, kernel: jax.Array, dilation: int, pads: Pads, precision: lax.PrecisionLike) -> jax.Array:
    """One product with all taps, then a sum of their few output channels, shifted."""
    height, width = _output_size(x, kernel, 1, dilation, pads)
    products = jnp.einsum("bhwc,ijcd->ijbhwd", x, kernel, precision=precision)
    products = jnp.pad(products, [(0, 0)] * 3 + [*pads, (0, 0)])
    total = jnp.zeros((), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            corner = (0, i * dilation, j * dilation, 0)
            total = total + lax.dynamic_slice(products[i, j], corner, (x.shape[0], height, width, kernel.shape[3]))
    return total


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads) -> jax.Array:
    """In float32, as are the gradients: sums over all pixels.

    Columns are shifted before the taps of a row are summed, and rows after: six shifts instead of nine, of which each
    is a program to compile, forward and backward.
    """
    height, width = _output_size(x, kernel, stride, dilation, pads)
    rows, columns, _, channels = kernel.shape
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)]).astype(jnp.float32)
    shifted = [_view(padded, 2, j * dilation, stride, width) for j in range(columns)]
    # Split, whose gradient is one concatenation; that of indexing is a padded array for every tap.
    taps = lax.split(kernel.astype(jnp.float32).reshape(rows * columns, channels), [1] * (rows * columns))
    total = jnp.zeros((), jnp.float32)
    for i in range(rows):
        row = jnp.zeros((), jnp.float32)
        for j in range(columns):
            row = row + shifted[j] * taps[i * columns + j][0]
        total = total + _view(row, 1, i * dilation, stride, height)
    return total.astype(x.dtype)


def _output_size(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, pads: Pads) -> tuple[int, int]:
    height, width = (
        (size + before + after - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, (before, after) in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True)
    )
    return height, width


def _view(x: jax.Array, axis: int, start: int, stride: int, size: int) -> jax.Array:
    """Entries start, start + stride, ... of an axis; with stride 1 as a dynamic slice, which vectorises better."""
    if stride == 1:
        return lax.dynamic_slice_in_dim(x, start, size, axis)
    return lax.slice_in_dim(x, start, start + stride * (size - 1) + 1, stride, axis)
