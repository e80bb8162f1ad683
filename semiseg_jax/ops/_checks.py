"""Argument checks that run at trace time: shapes and dtypes only, never values."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def check_shape(function: str, name: str, array: Any, expected: Sequence[int | str]) -> None:
    """Raises unless `array` is one, with an axis per entry of `expected`; an int entry is the exact size."""
    _check_array(function, name, array)
    shape = jnp.shape(array)
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or have == want for have, want in zip(shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"{function}: {name} is {_show(shape)} but must be {_show(expected)}")


def check_channels_last(function: str, name: str, array: jax.Array, size: Sequence[int]) -> None:
    """Raises where [B,K,H,W] was given for [B,H,W,K], as the [B,H,W] of what belongs to it tells."""
    shape = array.shape
    if shape[1:3] != tuple(size[1:]) and (shape[0], *shape[2:]) == tuple(size):
        raise ValueError(f"{function}: {name} is {_show(shape)}, channels first; it must be [B,H,W,K]")


def check_classes(function: str, name: str, array: jax.Array, instead: str) -> None:
    """Raises where the last axis is a map of one class, which says nothing against its complement."""
    if array.shape[-1] == 1:
        raise ValueError(f"{function}: {name} is {_show(array.shape)}, of one class; give two, {instead}")


def check_float(function: str, name: str, array: jax.Array) -> None:
    _check_array(function, name, array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{function}: {name} is {array.dtype} but must be floating point")


def check_integer(function: str, name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{function}: {name} is {array.dtype} but must be an integer array")


def check_at_least(function: str, name: str, array: jax.Array, size: Sequence[int]) -> None:
    """Raises where [B,h,w,...] has fewer rows or columns than `size`."""
    if array.shape[1] < size[0] or array.shape[2] < size[1]:
        raise ValueError(f"{function}: {name} is {_show(array.shape)}, smaller than the prediction of {_show(size)}")


def compute_dtype(array: jax.Array) -> jnp.dtype:
    """float32 for half precision and float32, float64 for float64."""
    return jnp.dtype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)


def _check_array(function: str, name: str, array: Any) -> None:
    if not hasattr(array, "dtype"):
        raise TypeError(f"{function}: {name} is a {type(array).__name__} but must be an array")


def _show(shape: Sequence[int | str]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
