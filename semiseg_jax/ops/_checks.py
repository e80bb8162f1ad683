"""Argument checks: shapes and dtypes at trace time, values only where they are concrete, never those of tracers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.ops.reduce import REDUCTIONS

# Pixels of which a value check looks at the channels, so that it costs little.
CHECKED_PIXELS = 4096


def check_shape(function: str, name: str, array: Any, expected: Sequence[int | str]) -> None:
    """Raises unless `array` is one, with an axis per entry of `expected`; an int entry is the exact size."""
    _check_array(function, name, array)
    shape = np.shape(array)
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


def concrete(array: Any) -> np.ndarray | None:
    """The values of an array that is not being traced and lies on this process; None where they cannot be seen."""
    if isinstance(array, jax.core.Tracer) or not getattr(array, "is_fully_addressable", True):
        return None
    return np.asarray(array)


def sample(array: jax.Array) -> np.ndarray | None:
    """[B,H,W,...] -> some thousand evenly spread rows [N,...]; None where they cannot be seen."""
    if isinstance(array, jax.core.Tracer) or not getattr(array, "is_fully_addressable", True):
        return None
    step = max(1, math.isqrt(math.prod(array.shape[:3]) // CHECKED_PIXELS))
    with jax.ensure_compile_time_eval():  # within jit, a part of an array that is no argument would be traced
        return np.asarray(array[:, ::step, ::step]).reshape(-1, *array.shape[3:])


def check_probs(function: str, name: str, probs: jax.Array, weighed: jax.Array) -> None:
    """Raises where [...,K] that count are no probabilities, as far as values can be seen: logits, channels first."""
    rows, counts = sample(probs), sample(weighed)
    if rows is None or counts is None:
        return
    rows = rows[counts > 0].astype(np.float32)
    tolerance = 1e-3 if probs.dtype.itemsize >= 4 else 2e-2
    outside = rows[~((rows >= -tolerance) & (rows <= 1 + tolerance))]
    if outside.size:
        raise ValueError(f"{function}: {name} has {outside[0]:.3g} but must be probabilities; apply jax.nn.softmax")
    sums = rows.sum(-1)
    wrong = sums[np.abs(sums - 1) > tolerance]
    if probs.shape[-1] > 1 and wrong.size:
        raise ValueError(
            f"{function}: {name} sums to {wrong[0]:.3g} over its last axis but probabilities, [B,H,W,K], sum to 1"
        )


def check_mask(function: str, name: str, mask: jax.Array, shape: Sequence[int | str]) -> jax.Array:
    """A bool mask of that shape, given as bool or as integers; what is 0.5 is no mask but a weight."""
    check_shape(function, name, mask, shape)
    if jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(f"{function}: {name} is {mask.dtype} but must be bool; give fractions as `weights`")
    return jnp.asarray(mask).astype(bool)


def check_weights(function: str, name: str, weights: jax.Array, shape: Sequence[int | str]) -> jax.Array:
    """Weights of that shape, floating point, finite and not negative where their values can be seen."""
    check_shape(function, name, weights, shape)
    check_float(function, name, weights)
    values = concrete(weights)
    if values is not None and not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"{function}: {name} must be finite and not negative")
    return lax.stop_gradient(jnp.asarray(weights))


def check_reduction(function: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{function}: reduction is {reduction!r} but must be one of {', '.join(REDUCTIONS)}")
