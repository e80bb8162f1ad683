"""Sums and means: one way to the mean of the pixels that count, exact over devices, and a fast sum of classes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType


def masked_mean(values: jax.Array, weights: jax.Array, axis_name: str | None) -> jax.Array:
    """`sum(weights * values) / max(sum(weights), 1)`, both sums taken over `axis_name` where it is given.

    Values under a zero weight never matter, not even when they are infinite or NaN.
    """
    weights = weights.astype(jnp.float32)
    total = jnp.sum(jnp.where(weights > 0, values, 0.0) * weights)
    count = jnp.sum(weights)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


def sum_last(array: jax.Array) -> jax.Array:
    """[...,K] -> [...], as a product with ones: XLA on CPU sums a computed array several times faster this way."""
    return jnp.matmul(array, jnp.ones(array.shape[-1], array.dtype), precision="highest")


def without_explicit_axes(function: Callable[..., jax.Array], like: jax.Array) -> Callable[..., jax.Array]:
    """`function` for arrays on a mesh with explicit axes too, whose rules are too strict for it.

    The compiler spreads its work over the devices; the result is sharded as `like`.
    """
    sharding = jax.typeof(like).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function
    return jax.sharding.auto_axes(function, out_sharding=sharding)
