"""The neighbourhood filter for any platform: a scan over the rows of the window."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.ops.form import for_cpu
from semiseg_jax.ops.kernels import Window

_LANES = 8  # float32 numbers in a vector of a CPU


def filter_xla(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> jax.Array:
    """A scan over the row offsets of the window, its column offsets unrolled.

    Every shifted view is its own `dynamic_slice` of one array: XLA on CPU then runs one vectorised loop over 11
    columns at a time (radius 5). Slices of slices, or of stacked planes, cost 3 to 15 times as much. That loop goes
    over the channels of `p`, 1.2 to 1.9 times faster if they fill whole vectors.
    """
    channels = p.shape[-1]
    if for_cpu() and channels >= _LANES - 1:
        p = jnp.pad(p, [(0, 0)] * 3 + [(0, -channels % _LANES)])
    radius = window.radius
    width = 2 * radius + 1
    shape = p.shape[:3]

    def pad(array: jax.Array) -> jax.Array:
        return jnp.pad(array, [(0, 0), (radius, radius), (radius, radius), *[(0, 0)] * (array.ndim - 3)])

    centres, shifted_planes, padded = list(planes), [pad(plane) for plane in planes], pad(p)
    gate_centres = [] if gates is None else list(gates)
    shifted_gates = [pad(gate) for gate in gate_centres]

    def add_row(total: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        y, exponents = row
        for x in range(width):
            kernel: Any = 0.0
            for term, (start, stop) in enumerate(window.spans):
                exponent = jnp.broadcast_to(exponents[term, x], shape)
                for plane in range(start, stop):
                    difference = lax.dynamic_slice(shifted_planes[plane], (0, y, x), shape) - centres[plane]
                    exponent -= difference * difference
                kernel += jnp.exp(exponent)
            if gates is not None:
                source, target = (lax.dynamic_slice(gate, (0, y, x), shape) for gate in shifted_gates)
                kernel *= 0.5 * (gate_centres[1] * source + gate_centres[0] * target)
            total += kernel[..., None] * lax.dynamic_slice(padded, (0, y, x, 0), p.shape)
        return total, None

    rows = (jnp.arange(width), exponents.swapaxes(0, 1))
    return lax.scan(add_row, jnp.zeros_like(p), rows)[0][..., :channels]
