"""Resizing images of sizes that are traced, to the same bytes as OpenCV on the host.

Positions along an axis are index arrays, sizes are integers or traced int32, so that a program of any shapes can use
them, a symbolic one too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Size = Any  # int, symbolic dimension or traced int32


def linear_taps(at: jax.Array, placed: Size, size: Size) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The two source pixels of each output pixel along an axis, and the share of the second; centres at halves.

    As cv2's INTER_LINEAR; in whole numbers, so that nothing is lost at large coordinates.

    >>> linear_taps(jnp.arange(4), jnp.asarray(2), jnp.asarray(4))[2]
    Array([0.  , 0.25, 0.75, 0.  ], dtype=float32)
    """
    halves = jnp.clip((2 * at + 1) * placed - size, 0, (placed - 1) * 2 * size)
    first = halves // (2 * size)
    share = (halves % (2 * size)).astype(jnp.float32) / (2 * size).astype(jnp.float32)
    return first, jnp.minimum(first + 1, placed - 1), share


def mix(one: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return one * (1 - share) + other * share


def mirrored(at: jax.Array, size: jax.Array) -> jax.Array:
    """Indices beyond `size` -> those of the image mirrored at its edge, as cv2's BORDER_REFLECT, however far.

    >>> mirrored(jnp.arange(7), jnp.asarray(3))
    Array([0, 1, 2, 2, 1, 0, 0], dtype=int32)
    """
    at = at % (2 * size)
    return jnp.minimum(at, 2 * size - 1 - at)


def shrink(
    images: jax.Array, old: tuple[jax.Array, jax.Array], new: tuple[jax.Array, jax.Array], rows: Any, columns: Any
) -> jax.Array:
    """[B,H,W,C] uint8 -> float32 [B,len(rows),len(columns),C] of whole numbers: pixels of the images shrunk to `new`.

    These are the bytes of cv2's INTER_AREA: sums in its order, rounded as it does, since halves are common among
    averages of bytes.

    Args:
      images: of the size `old`.
      old, new: height and width, traced; `new` is nowhere larger.
      rows, columns: which pixels of the shrunk images are wanted.
    """
    whole = (old[0] % new[0] == 0) & (old[1] % new[1] == 0)  # then cv2 sums whole pixels as integers
    across = _sums(images.astype(jnp.float32), 2, old[1], new[1], columns, whole)
    total = _sums(across, 1, old[0], new[0], rows, whole)
    down, right = old[0] // new[0], old[1] // new[1]
    by_four = jnp.floor((total + 2) / 4)
    mean = jnp.round(total * jnp.where(whole, 1 / (down * right).astype(jnp.float32), 1.0))
    return jnp.clip(jnp.where(whole & (down == 2) & (right == 2), by_four, mean), 0, 255)


def _sums(x: jax.Array, axis: int, old: jax.Array, new: jax.Array, at: jax.Array, whole: jax.Array) -> jax.Array:
    """Along an axis, the sum over the pixels that each new pixel covers, weighted by overlap or, if `whole`, by 1."""
    start = at * old
    shape = [1] * x.ndim
    shape[axis] = -1
    # Hidden from the compiler, which would turn a division by a constant into a product that rounds otherwise.
    divisor = lax.optimization_barrier(old.astype(jnp.float32))

    def step(tap: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, product = sums
        pixel = start // new + tap
        overlap = jnp.minimum(start + old, (pixel + 1) * new) - jnp.maximum(start, pixel * new)  # in 1/new
        overlap = jnp.where(overlap * 1000 > new, overlap, 0)
        weight = jnp.where(whole, (overlap > 0).astype(jnp.float32), overlap.astype(jnp.float32) / divisor)
        taken = jnp.take(x, jnp.minimum(pixel, old - 1), axis=axis, mode="clip")
        # Each product is added a round later: nothing can fuse the two and skip a rounding.
        return total + product, taken * weight.reshape(shape)

    taken = jax.eval_shape(lambda x: jnp.take(x, at, axis=axis, mode="clip"), x)
    nothing = jnp.zeros(taken.shape, jnp.float32)
    taps = -(-old // new) + jnp.where(old % new == 0, 0, 1)
    total, product = lax.fori_loop(0, taps, step, (nothing, nothing))
    return total + product
