"""Sums and means over the pixels that count, exact over devices, and a fast sum of classes."""

import jax
import jax.numpy as jnp

REDUCTIONS = ("mean", "sum", "none")


def masked_mean(values: jax.Array, weights: jax.Array, axis_name: str | None) -> jax.Array:
    """`sum(weights * values) / sum(weights)`, both sums taken over `axis_name` where it is given; 0 if nothing counts.

    Values under a zero weight never matter, not even when they are infinite or NaN.
    """
    return reduced(values, weights, "mean", axis_name)


def reduced(values: jax.Array, weights: jax.Array, reduction: str, axis_name: str | None) -> jax.Array:
    """The weighted mean or sum of `values`, or with "none" each weighted value, 0 where the weight is 0.

    Weights are 0 (or False) where a value does not count and may be any positive number elsewhere.
    """
    weights = weights.astype(jnp.promote_types(jnp.float32, values.dtype))
    weighted = jnp.where(weights > 0, values, 0.0) * weights
    if reduction == "none":
        return weighted
    return divided(jnp.sum(weighted), jnp.sum(weights), reduction, axis_name)


def divided(total: jax.Array, count: jax.Array, reduction: str, axis_name: str | None) -> jax.Array:
    """`total / count` ("mean", 0 where the count is 0) or `total` ("sum"), both summed over `axis_name` first."""
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total if reduction == "sum" else total / jnp.where(count > 0, count, 1.0)


def sum_last(array: jax.Array) -> jax.Array:
    """[...,K] -> [...], as a product with ones: XLA on CPU sums a computed array several times faster this way."""
    return jnp.matmul(array, jnp.ones(array.shape[-1], array.dtype), precision="highest")
