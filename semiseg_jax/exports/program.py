"""What an export computes: pictures of any size -> probabilities and labels of that size, as `semiseg predict` does.

Only jax and `ops` are needed here, since other Python environments run it too.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from semiseg_jax.ops import resizing
from semiseg_jax.ops.images import to_unit

Forward = Callable[[Any, jax.Array], jax.Array]  # weights, RGB [B,H,W,3] in [0,1] -> probabilities [B,H,W,K]
Rungs = Sequence[int]  # the lengths that a side of the canvas may have, from the longest to the shortest


def whole_image(
    forward: Forward, largest: Sequence[int], rungs: Sequence[Rungs], *, flip: bool = False
) -> Callable[..., Any]:
    """-> a function (weights, images [B,H,W,3] uint8) -> {"probabilities" [B,H,W,K] float32, "labels" [B,H,W] uint8}.

    Args:
      forward: the network, which takes images of the sizes of canvases.
      largest: height and width that an image may have; a larger one is shrunk to fit.
      rungs: of height and width of the canvas; the shortest that hold the image are taken.
      flip: average with the mirror image.
    """

    def program(weights: Any, images: jax.Array) -> Mapping[str, jax.Array]:
        size = images.shape[1], images.shape[2]
        placed = _placed(size, largest)
        canvas = [_rung(side, of_side) for side, of_side in zip(placed, rungs, strict=True)]
        old, new = _traced(size), _traced(placed)
        rows, columns = (
            resizing.mirrored(jnp.arange(length, dtype=jnp.int32), side)
            for length, side in zip(canvas, new, strict=True)
        )
        tiles = to_unit(resizing.shrink(images, old, new, rows, columns).astype(jnp.uint8))
        probs = forward(weights, tiles)
        if flip:
            probs = (probs + forward(weights, tiles[:, :, ::-1])[:, :, ::-1]) / 2
        for axis in (2, 1):
            probs = _enlarged(probs, axis, new[axis - 1], old[axis - 1], size[axis - 1])
        return {"probabilities": probs, "labels": jnp.argmax(probs, axis=-1).astype(jnp.uint8)}

    return program


def _traced(sides: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(sides[0], jnp.int32), jnp.asarray(sides[1], jnp.int32)


def _placed(size: Sequence[Any], largest: Sequence[int]) -> tuple[Any, Any]:
    """Height and width of the image on its canvas, as `Letterbox.fit`; of symbolic sizes too."""
    (height, width), (most_high, most_wide) = size, largest
    return (
        _at_least_one(_smallest(height, most_high, _scaled(height, most_wide, width))),
        _at_least_one(_smallest(width, most_wide, _scaled(width, most_high, height))),
    )


def _scaled(side: Any, new: int, old: Any) -> Any:
    """side * new / old, rounded to the nearest whole number, halves to the even one."""
    up = (2 * side * new + old) // (2 * old)
    at_half = 1 - jax.core.min_dim(1, (2 * side * new + old) % (2 * old))
    return up - at_half * (up % 2)


def _rung(side: Any, rungs: Rungs) -> Any:
    """The shortest rung that holds `side`, as a sum over steps, since a symbolic size cannot be compared."""
    length: Any = rungs[-1]
    for longer, shorter in itertools.pairwise(rungs):
        above = (side + rungs[0] - shorter - 1) // rungs[0]  # 1 where side > shorter, else 0: it is at most the longest
        length += (longer - shorter) * above
    return length


def _smallest(*sides: Any) -> Any:
    first, *others = sides
    for other in others:
        first = jax.core.min_dim(first, other)
    return first


def _at_least_one(side: Any) -> Any:
    return jax.core.max_dim(1, side)


def _enlarged(maps: jax.Array, axis: int, placed: jax.Array, size: jax.Array, length: Any) -> jax.Array:
    """The first `placed` entries of an axis, resized to `size`."""
    first, second, share = resizing.linear_taps(jnp.arange(length, dtype=jnp.int32), placed, size)
    shape = [1] * maps.ndim
    shape[axis] = -1
    one, other = (jnp.take(maps, at, axis=axis, mode="clip") for at in (first, second))
    return resizing.mix(one, other, share.reshape(shape))
