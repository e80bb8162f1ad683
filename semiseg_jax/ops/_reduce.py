"""Sums over the last axis."""

import jax
import jax.numpy as jnp


def sum_last(array: jax.Array) -> jax.Array:
    """[...,K] -> [...], as a product with ones: XLA on CPU sums a computed array several times faster this way."""
    return jnp.matmul(array, jnp.ones(array.shape[-1], array.dtype), precision="highest")
