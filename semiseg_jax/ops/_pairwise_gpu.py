"""The neighbourhood filter as one Pallas kernel for NVIDIA GPUs: one pass over the window, sums in registers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

# Pixels of one program; powers of two, as Triton wants them.
TILE = (4, 32)


def filter_gpu(p: jax.Array, planes: jax.Array, gates: jax.Array | None, window: Any, interpret: bool) -> jax.Array:
    """As `filter_xla`. Everything is padded first, so that no load needs a mask."""
    batch, height, width, channels = p.shape
    radius, (tile_h, tile_w) = window.radius, TILE
    tall, wide = (-(-size // tile) * tile for size, tile in zip((height, width), TILE, strict=True))
    padding = [(radius, radius + tall - height), (radius, radius + wide - width)]
    chunks = _powers_of_two(channels)
    filled = sum(chunks)
    padded = jnp.pad(p, [(0, 0), *padding, (0, filled - channels)])
    guides = planes if gates is None else jnp.concatenate([planes, gates.astype(planes.dtype)])
    guides = jnp.pad(guides, [(0, 0), (0, 0), *padding])
    has_guides = guides.shape[0] > 0
    side = 2 * radius + 1

    def kernel(*refs: Any) -> None:
        p_ref, guide_ref, out_ref = refs if has_guides else (refs[0], None, refs[1])
        image = pl.program_id(0)
        y0, x0 = pl.program_id(1) * tile_h, pl.program_id(2) * tile_w

        def guide(plane: int, dy: Any, dx: Any) -> jax.Array:
            return guide_ref[plane, image, pl.ds(y0 + dy, tile_h), pl.ds(x0 + dx, tile_w)]

        centres = [guide(plane, radius, radius) for plane in range(guides.shape[0])]

        def add(offset: Any, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dy, dx = lax.div(offset, side), lax.rem(offset, side)
            distance = (jnp.square(dy - radius) + jnp.square(dx - radius)).astype(p.dtype)
            weight = jnp.zeros(TILE, p.dtype)
            for gaussian in window.gaussians:
                exponent = jnp.full(TILE, -gaussian.falloff * distance)
                for plane in range(gaussian.start, gaussian.stop):
                    exponent -= jnp.square(guide(plane, dy, dx) - centres[plane])
                weight += gaussian.weight * jnp.exp(exponent)
            if gates is not None:
                source, target = planes.shape[0], planes.shape[0] + 1
                weight *= 0.5 * (centres[target] * guide(source, dy, dx) + centres[source] * guide(target, dy, dx))
            weight = jnp.where(distance == 0, 0.0, weight)[..., None]
            start, sums = 0, []
            for chunk, total in zip(chunks, totals, strict=True):
                there = p_ref[image, pl.ds(y0 + dy, tile_h), pl.ds(x0 + dx, tile_w), pl.ds(start, chunk)]
                sums.append(total + weight * there)
                start += chunk
            return tuple(sums)

        totals = lax.fori_loop(0, side * side, add, tuple(jnp.zeros((*TILE, chunk), p.dtype) for chunk in chunks))
        start = 0
        for chunk, total in zip(chunks, totals, strict=True):
            out_ref[image, pl.ds(y0, tile_h), pl.ds(x0, tile_w), pl.ds(start, chunk)] = total
            start += chunk

    # `eval_shape` rather than a shape alone: under `shard_map` it also says over which devices the result varies.
    result = jax.eval_shape(lambda x: x[:, :tall, :wide], padded)
    operands = (padded, guides) if has_guides else (padded,)
    filtered = pl.pallas_call(
        kernel,
        out_shape=result,
        grid=(batch, tall // tile_h, wide // tile_w),
        interpret=interpret,
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=4),
        name="local_filter",
    )(*operands)
    return filtered[:, :height, :width, :channels]


def _powers_of_two(channels: int) -> list[int]:
    """Sizes to take the channels in: 22 -> [16, 8]. The last is at least 4, so that little is read in vain."""
    sizes = []
    while channels > 0:
        size = max(4, 1 << int(math.log2(channels)))
        sizes.append(size)
        channels -= size
    return sizes
