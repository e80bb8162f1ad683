"""The neighbourhood filter as one Pallas kernel for NVIDIA GPUs: one pass over the window, sums in registers."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType

from semiseg_jax.ops._pairwise_xla import filter_xla
from semiseg_jax.ops.kernels import Window

# Pixels of one program; powers of two, as Triton wants them.
TILE = (4, 32)


def filter_sharded(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> jax.Array:
    """As `filter_xla`. A batch that is sharded over devices stays so: each device filters its own images."""
    mesh = jax.sharding.get_abstract_mesh()
    if AxisType.Manual in mesh.axis_types:  # inside `shard_map`, arrays are those of one device
        return filter_gpu(p, planes, gates, exponents, window)
    operands = (p, planes, exponents) if gates is None else (p, planes, exponents, gates)
    return _on_each_device(window, len(operands))(*operands)


@functools.cache
def _on_each_device(window: Window, count: int) -> Callable[..., jax.Array]:
    """The filter of (p, planes, exponents, and gates or nothing), which the partitioner may split between images."""

    def run(p: jax.Array, planes: jax.Array, exponents: jax.Array, *gates: jax.Array) -> jax.Array:
        return filter_gpu(p, planes, gates[0] if gates else None, exponents, window)

    def split(mesh: Any, arguments: Any, result: Any) -> Any:
        return mesh, run, result.sharding, tuple(argument.sharding for argument in arguments)

    partitioned = custom_partitioning(run)
    rule = ", ".join(("b h w k", "f b h w", "m y x", "g b h w")[:count]) + " -> b h w k"
    whole = ("h", "w", "f", "m", "y", "x", "g")[: 6 + (count == 4)]
    partitioned.def_partition(partition=split, sharding_rule=rule, need_replication_factors=whole)
    mapped = jax.custom_batching.custom_vmap(lambda *operands: partitioned(*operands))

    @mapped.def_vmap
    def _(size: int, batched: Sequence[bool], *operands: jax.Array) -> tuple[jax.Array, bool]:
        return _fold(mapped, size, batched, operands), True

    return mapped


def _fold(
    function: Callable[..., jax.Array], size: int, batched: Sequence[bool], operands: Sequence[jax.Array]
) -> jax.Array:
    """A mapped axis becomes more images; only kernels that differ along it have to be taken one after another."""
    full = [
        array if flag else jnp.broadcast_to(array, (size, *array.shape))
        for array, flag in zip(operands, batched, strict=True)
    ]
    if batched[2]:
        return lax.map(lambda one: function(*one), tuple(full))
    p, planes, _, *gates = full
    images = size * p.shape[1]

    def folded(array: jax.Array) -> jax.Array:  # [V,F,B,H,W] -> [F,V*B,H,W]
        return jnp.moveaxis(array, 0, 1).reshape(array.shape[1], images, *array.shape[3:])

    one = function(p.reshape(images, *p.shape[2:]), folded(planes), operands[2], *map(folded, gates))
    return one.reshape(p.shape)


def filter_gpu(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> jax.Array:
    """As `filter_xla`. Everything is padded first, so that no load needs a mask."""
    batch, height, width, channels = p.shape
    radius, (tile_h, tile_w) = window.radius, TILE
    tall, wide = (-(-size // tile) * tile for size, tile in zip((height, width), TILE, strict=True))
    padding = [(radius, radius + tall - height), (radius, radius + wide - width)]
    chunks = powers_of_two(channels)
    filled = sum(chunks)
    guides = planes if gates is None else jnp.concatenate([planes, gates])
    side = 2 * radius + 1
    pixels = batch * (tall + side - 1) * (wide + side - 1)
    if pixels * max(filled, guides.shape[0]) >= 2**31:
        warnings.warn(
            f"local_filter: {list(p.shape)} has too many elements for the 32-bit offsets of the Pallas kernel; "
            "XLA filters it instead",
            stacklevel=2,
        )
        return filter_xla(p, planes, gates, exponents, window)
    padded = jnp.pad(p, [(0, 0), *padding, (0, filled - channels)])
    guides = jnp.pad(guides, [(0, 0), (0, 0), *padding])
    has_guides = guides.shape[0] > 0
    # One row a term, flat over the window.
    table = exponents.reshape(len(window.spans), side * side)

    kernel = _make_kernel(window, chunks, planes.shape[0], guides.shape[0], p.dtype)
    # `eval_shape` rather than a shape alone: under `shard_map` it also says over which devices the result varies.
    result = jax.eval_shape(lambda x: x[:, :tall, :wide], padded)
    operands = (padded, guides, table) if has_guides else (padded, table)
    summed = pl.pallas_call(
        kernel,
        out_shape=result,
        grid=(batch, tall // tile_h, wide // tile_w),
        interpret=window.implementation == "interpret",
        compiler_params=_compiler_params(window),
        name="local_filter",
    )(*operands)
    return summed[:, :height, :width, :channels]


def _make_kernel(window: Window, chunks: Sequence[int], planes: int, guides: int, dtype: Any) -> Callable[..., None]:
    """The program of one tile. The guides are the planes of the features, and the two gates where there are any."""
    radius, side, (tile_h, tile_w) = window.radius, 2 * window.radius + 1, TILE

    def kernel(*refs: Any) -> None:
        p_ref, guide_ref, table_ref, out_ref = refs if guides else (refs[0], None, *refs[1:])
        image = pl.program_id(0)
        y0, x0 = pl.program_id(1) * tile_h, pl.program_id(2) * tile_w

        def guide(plane: int, dy: Any, dx: Any) -> jax.Array:
            return guide_ref[plane, image, pl.ds(y0 + dy, tile_h), pl.ds(x0 + dx, tile_w)]

        centres = [guide(plane, radius, radius) for plane in range(guides)]

        def add(offset: Any, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dy, dx = lax.div(offset, side), lax.rem(offset, side)
            weight = jnp.zeros(TILE, dtype)
            for term, (start, stop) in enumerate(window.spans):
                exponent = jnp.full(TILE, table_ref[term, offset])
                for plane in range(start, stop):
                    exponent -= jnp.square(guide(plane, dy, dx) - centres[plane])
                weight += jnp.exp(exponent)
            if guides > planes:
                source, target = planes, planes + 1
                weight *= 0.5 * (centres[target] * guide(source, dy, dx) + centres[source] * guide(target, dy, dx))
            start, sums = 0, []
            for chunk, total in zip(chunks, totals, strict=True):
                there = p_ref[image, pl.ds(y0 + dy, tile_h), pl.ds(x0 + dx, tile_w), pl.ds(start, chunk)]
                sums.append(total + weight[..., None] * there)
                start += chunk
            return tuple(sums)

        totals = lax.fori_loop(0, side * side, add, tuple(jnp.zeros((*TILE, chunk), dtype) for chunk in chunks))
        start = 0
        for chunk, total in zip(chunks, totals, strict=True):
            out_ref[image, pl.ds(y0, tile_h), pl.ds(x0, tile_w), pl.ds(start, chunk)] = total
            start += chunk

    return kernel


def _compiler_params(window: Window) -> Any:
    if window.implementation == "interpret":
        return None
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=4)


def powers_of_two(channels: int) -> list[int]:
    """Sizes to take the channels in, at least 4 each and as few as fill no more room: 22 -> [16, 8]."""
    whole = max(4, 1 << (channels - 1).bit_length())
    if whole == 4:
        return [whole]
    parts = [whole // 2, *powers_of_two(channels - whole // 2)]
    return [whole] if sum(parts) >= whole else parts
