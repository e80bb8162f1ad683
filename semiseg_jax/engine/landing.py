"""From the network's maps on canvases to each image at its own size, on the device, for shapes that do not change.

Sizes of images are traced: a program is compiled for a canvas, and serves every image that fits it. All functions here
run on one device, inside `shard_map` over the axis "data"; leading axes [r] or [n] count what lies on that device.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.metrics import BINS
from semiseg_jax.engine.views import ROWS, Size
from semiseg_jax.ops.resizing import linear_taps, mix


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to come back of an image beside its labels."""

    probabilities: bool = False  # [H,W,K]
    certainty: bool = False  # [H,W] uint8, the largest probability in 255ths


@functools.cache
def landing(
    mesh: Mesh, canvas: Size, exact: tuple[bool, ...], wanted: Wanted, *, scored: bool
) -> Callable[..., dict[str, jax.Array]]:
    """A program `(maps, row, placed, size, truth) -> results` that lands one image on each device.

    Args:
      mesh: the devices.
      canvas: [H,W] that hold these images, sides multiples of 32.
      exact: of each scale, whether maps have the resolution of the image, so that nothing is resized.
      wanted: also gives these, as `probs` and `certainty`.
      scored: compares with `truth` [1,H,W] uint8, which is 255 outside of the image.

    `maps` are those of each scale, [r,Hs,Ws,K]; `row` [1] is that of the image among them, `placed` [1,S,2] its size
    on each, `size` [1,2] the one that it gets back. Results have a leading axis of one image a device: `labels` [H,W]
    uint8, and by strips of 32 rows the sum of the largest probability, `confidence`; if scored, `confusion` [K,K] and
    by strips `calibration` [3,BINS], see `metrics.Calibration`.
    """

    def land(maps: Sequence[jax.Array], row: jax.Array, placed: jax.Array, size: jax.Array, truth: Any) -> Any:
        mine = [jax.lax.dynamic_index_in_dim(of_scale, row[0], keepdims=False) for of_scale in maps]
        found = _land(mine, placed[0], size[0], truth[0] if scored else None, canvas, exact, wanted)
        return jax.tree.map(lambda x: x[None], found)

    mapped = jax.shard_map(land, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    return jax.jit(mapped)


@functools.cache
def pasting(mesh: Mesh) -> Callable[..., jax.Array]:
    """A program that adds tiles to the maps of their images, which are given up.

    (maps [r,Hc,Wc,K], tiles [n,h,w,K], row [n], corner [n,2], shares [n,h] and [n,w]) -> maps.
    """

    def paste(
        maps: jax.Array, tiles: jax.Array, row: jax.Array, corner: jax.Array, down: jax.Array, across: jax.Array
    ) -> jax.Array:
        def one(i: jax.Array, maps: jax.Array) -> jax.Array:
            start = (row[i], corner[i, 0], corner[i, 1], 0)
            tile = tiles[i] * (down[i][:, None] * across[i])[..., None]
            before = jax.lax.dynamic_slice(maps, start, (1, *tile.shape))
            return jax.lax.dynamic_update_slice(maps, before + tile, start)

        return jax.lax.fori_loop(0, len(tiles), one, maps)

    mapped = jax.shard_map(paste, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    return jax.jit(mapped, donate_argnums=0)


def _land(
    maps: Sequence[jax.Array],
    placed: jax.Array,
    size: jax.Array,
    truth: jax.Array | None,
    canvas: Size,
    exact: tuple[bool, ...],
    wanted: Wanted,
) -> dict[str, jax.Array]:
    """Goes down the image in strips, so that all classes at full resolution are never held unless asked for."""
    height, width = canvas
    classes = maps[0].shape[-1]
    strips = height // ROWS
    wide = [
        _fit_columns(of_scale, width) if same else _resize_columns(of_scale, placed[s], size, width)
        for s, (of_scale, same) in enumerate(zip(maps, exact, strict=True))
    ]
    out = {"labels": jnp.zeros((height, width), jnp.uint8), "confidence": jnp.zeros(strips)}
    if wanted.probabilities:
        out["probs"] = jnp.zeros((height, width, classes))
    if wanted.certainty:
        out["certainty"] = jnp.zeros((height, width), jnp.uint8)
    if truth is not None:
        out["confusion"] = jnp.zeros((classes, classes), jnp.int32)
        out["calibration"] = jnp.zeros((strips, 3, BINS))

    def strip(i: jax.Array, out: dict[str, jax.Array]) -> dict[str, jax.Array]:
        parts = [
            jax.lax.dynamic_slice_in_dim(of_scale, i * ROWS, ROWS) if same else _rows(of_scale, i, rows, size[0])
            for of_scale, same, rows in zip(wide, exact, placed[:, 0], strict=True)
        ]
        probs = parts[0] if len(parts) == 1 else sum(parts[1:], parts[0]) / len(parts)
        labels, top = probs.argmax(-1).astype(jnp.uint8), probs.max(-1)
        inside = (i * ROWS + jnp.arange(ROWS) < size[0])[:, None] & (jnp.arange(width) < size[1])
        found = {"labels": labels}
        if wanted.probabilities:
            found["probs"] = probs
        if wanted.certainty:
            found["certainty"] = in_bytes(top)
        out = out | {
            name: jax.lax.dynamic_update_slice_in_dim(out[name], value, i * ROWS, 0) for name, value in found.items()
        }
        out["confidence"] = out["confidence"].at[i].set(jnp.sum(top, where=inside))
        if truth is not None:
            known = jax.lax.dynamic_slice_in_dim(truth, i * ROWS, ROWS)
            out["confusion"] = _count(out["confusion"], known, labels)
            out["calibration"] = out["calibration"].at[i].set(_calibration(known, labels, top))
        return out

    return jax.lax.fori_loop(0, -(-size[0] // ROWS), strip, out)


def in_bytes(top: Any) -> Any:
    """Probabilities in 255ths, uint8."""
    return (top * 255 + 0.5).astype("uint8")


def _count(confusion: jax.Array, truth: jax.Array, labels: jax.Array) -> jax.Array:
    classes = len(confusion)
    pairs = jnp.where(truth == IGNORE, classes**2, truth.astype(jnp.int32) * classes + labels)
    return confusion.ravel().at[pairs.ravel()].add(1, mode="drop").reshape(confusion.shape)


def _calibration(truth: jax.Array, labels: jax.Array, top: jax.Array) -> jax.Array:
    """[3,BINS]: pixels, sum of the largest probability and hits, by that probability."""
    bins = jnp.clip((top * BINS).astype(jnp.int32), 0, BINS - 1)
    at = jnp.where(truth == IGNORE, BINS, bins).ravel()
    columns = jnp.ones_like(top), top, (truth == labels).astype(top.dtype)
    return jnp.stack([jnp.zeros(BINS).at[at].add(column.ravel(), mode="drop") for column in columns])


def _fit_columns(maps: jax.Array, width: int) -> jax.Array:
    return jnp.pad(maps[:, :width], ((0, 0), (0, max(0, width - maps.shape[1])), (0, 0)))


def _resize_columns(maps: jax.Array, placed: jax.Array, size: jax.Array, width: int) -> jax.Array:
    """[Hs,Ws,K] -> [Hs,width,K], rows below `placed` left empty."""
    left, right, share = linear_taps(jnp.arange(width), placed[1], size[1])

    def strip(i: jax.Array, out: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(maps, i * ROWS, ROWS)
        mixed = mix(rows.at[:, left].get(mode="clip"), rows.at[:, right].get(mode="clip"), share[:, None])
        return jax.lax.dynamic_update_slice_in_dim(out, mixed, i * ROWS, 0)

    empty = jnp.zeros((maps.shape[0], width, maps.shape[-1]))
    return jax.lax.fori_loop(0, -(-placed[0] // ROWS), strip, empty)


def _rows(maps: jax.Array, i: jax.Array, placed: jax.Array, size: jax.Array) -> jax.Array:
    """The i-th strip of output rows."""
    top, bottom, share = linear_taps(i * ROWS + jnp.arange(ROWS), placed, size)
    return mix(maps.at[top].get(mode="clip"), maps.at[bottom].get(mode="clip"), share[:, None, None])
