"""Sums over pixel neighbourhoods, weighted by how alike the two pixels are.

Gated CRF, mean-field inference and label diffusion all need `y_i = sum_j k_ij p_j` over the pixels j of a window around
i. It is computed here, once, by shifting whole images: no window is ever built, so memory stays at a few copies of `p`.
The sum is linear in `p` and `k` is symmetric, so the gradient of `local_filter` is `local_filter` of the cotangent, and
a quadratic energy and its gradient come from one pass. Kernels are constants: no gradient flows into features, weights
or bandwidths.

Reverse mode works to any order, but only once through a filter in a loop (`scan`, `fori_loop`). Forward mode (`jvp`,
`jacfwd`) works once through `potts_energy` and raises a `TypeError` through `local_filter`. Nothing here talks to other
devices: sums are per device, add them outside.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from semiseg_jax.ops._checks import check_float, check_shape, compute_dtype
from semiseg_jax.ops._pairwise_xla import filter_xla
from semiseg_jax.ops.kernels import (
    Affinity,
    Number,
    Term,
    Window,
    check_bandwidth,
    check_features,
    check_weight,
    prepare,
)
from semiseg_jax.ops.reduce import sum_last

Features = jax.Array | Sequence[jax.Array | None] | None
Sigmas = Number | Sequence[Number | None] | None


def local_filter(
    p: jax.Array,
    features: Features,
    *,
    radius: int,
    xy_sigma: Sigmas = None,
    weights: Sequence[Number] | jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""Sums each pixel's neighbours, weighted by Gaussian kernels of position and features.

    .. math::
      y_i = \sum_{0 < |j-i|_\infty \le r} k_{ij} p_j, \qquad
      k_{ij} = \sum_m w_m \exp\Big(-\frac{|i-j|^2}{2\sigma_m^2} - \frac{|f_m(i)-f_m(j)|^2}{2}\Big)

    The pixel itself does not count, nor does anything outside the image. Gates are products outside:
    `target * local_filter(source * p, ...)`; the sum of the kernel is the filter of an array of ones.

    Args:
      p: [B,H,W,K], any floating dtype; computed in float32 (float64 stays).
      features: [B,H,W,F], each channel divided by its bandwidth. Several Gaussian terms take a sequence of such
        arrays; None stands for a term of position alone. Constants: they get no gradient.
      radius: the window is (2 radius + 1) pixels wide.
      xy_sigma: bandwidth of position in pixels, one for all terms or one each; None for no fall-off inside the window.
        It may be traced.
      weights: weight of each term, at least 0, all 1 by default. They may be traced.
      implementation: "xla", the default, runs anywhere. "pallas" is a kernel for NVIDIA GPUs of compute capability 8
        or higher, tried once in each process; where it does not run, a warning says why and XLA takes its place.
        "interpret" runs that kernel without a GPU, slowly.

    Returns:
      [B,H,W,K], float32.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.ops import local_filter
      >>> ones = jnp.ones((1, 5, 5, 1))
      >>> grey = jnp.zeros((1, 5, 5, 1))
      >>> print(int(local_filter(ones, grey, radius=1)[0, 2, 2, 0]))  # neighbours of the centre
      8
    """
    name = "local_filter"
    check_shape(name, "p", p, ("B", "H", "W", "K"))
    check_float(name, "p", p)
    p = p.astype(compute_dtype(p))
    terms = plain_terms(name, p.shape[:3], features, xy_sigma, weights)
    return filtered(p, *prepare(name, terms, p, radius, implementation))


def potts_energy(
    p: jax.Array,
    features: Features,
    *,
    radius: int,
    xy_sigma: Sigmas = None,
    weights: Sequence[Number] | jax.Array | None = None,
    source: jax.Array | None = None,
    target: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""The relaxed Potts energy of a labelling; one filter pass gives the value and the gradient.

    .. math::
      E = \sum_i \sum_{0 < |j-i|_\infty \le r} t_i\, s_j\, k_{ij}\, (1 - \langle p_i, p_j \rangle)

    Args:
      p: [B,H,W,K] class probabilities.
      features: as in `local_filter`.
      radius: as in `local_filter`.
      xy_sigma: as in `local_filter`.
      weights: as in `local_filter`.
      implementation: as in `local_filter`.
      source: [B,H,W] gate of the neighbour j; all 1 by default.
      target: [B,H,W] gate of the centre i; all 1 by default. Pixels that neither gate lets through may hold anything,
        NaN too.

    Returns:
      A scalar, the sum over all images.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.ops import potts_energy
      >>> halves = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # two pixels of different classes
      >>> print(float(potts_energy(halves, jnp.zeros((1, 1, 2, 1)), radius=1)))  # each sees the other
      2.0
    """
    name = "potts_energy"
    check_shape(name, "p", p, ("B", "H", "W", "K"))
    check_float(name, "p", p)
    p = p.astype(compute_dtype(p))
    terms = plain_terms(name, p.shape[:3], features, xy_sigma, weights)
    affinity, window = prepare(name, terms, p, radius, implementation)
    for label, gate in (("source", source), ("target", target)):
        if gate is not None:
            check_shape(name, label, gate, p.shape[:3])
    if source is not None and target is not None:
        p, affinity = only_where((jnp.asarray(source) != 0) | (jnp.asarray(target) != 0), p, affinity)
    return energy(p, source, target, affinity, window)


def plain_terms(
    name: str,
    shape: Sequence[int],
    features: Features,
    xy_sigma: Sigmas,
    weights: Sequence[Number] | jax.Array | None,
) -> list[Term]:
    """Checks the arguments of `local_filter` -> one term for each array of features, or None among them."""
    arrays: list[Any] = list(features) if isinstance(features, (list, tuple)) else [features]
    several = isinstance(xy_sigma, (list, tuple)) or getattr(xy_sigma, "ndim", 0) == 1
    sigmas: Any = xy_sigma if several else [xy_sigma] * len(arrays)
    scales: list[Any] = [1.0] * len(arrays) if weights is None else list(weights)
    if not arrays:
        raise ValueError(f"{name}: features is empty but must hold at least one array or None")
    for label, values in (("xy_sigma", sigmas), ("weights", scales)):
        if len(values) != len(arrays):
            raise ValueError(f"{name}: {label} has {len(values)} entries but features has {len(arrays)}")
    for array, sigma, scale in zip(arrays, sigmas, scales, strict=True):
        if sigma is not None:
            check_bandwidth(name, f"xy_sigma is {sigma}", sigma)
        check_weight(name, f"weights has {scale}", scale)
        if array is not None:
            check_features(name, array, shape)
    return [Term(scale, sigma, array) for array, sigma, scale in zip(arrays, sigmas, scales, strict=True)]


def filtered(p: jax.Array, affinity: Affinity, window: Window) -> jax.Array:
    """`local_filter` of something prepared."""
    p, planes = _vary_together(p, affinity.planes)
    return _filter(p, planes, None, _exponents(affinity, window), window)


def energy(
    p: jax.Array, source: jax.Array | None, target: jax.Array | None, affinity: Affinity, window: Window
) -> jax.Array:
    """`potts_energy` of something prepared."""
    p, planes = _vary_together(p, affinity.planes)
    gates = None
    if source is not None or target is not None:
        ones = jnp.ones_like(p[..., 0])
        pair = [ones if gate is None else ones * lax.stop_gradient(gate.astype(p.dtype)) for gate in (source, target)]
        gates = jnp.stack(pair)
    return _energy(p, planes, gates, _exponents(affinity, window), window)


def only_where(used: jax.Array, p: jax.Array, affinity: Affinity) -> tuple[jax.Array, Affinity]:
    """Empties pixels that do not count, which may hold anything."""
    planes = jnp.where(used[None], affinity.planes, 0.0)
    return jnp.where(used[..., None], p, 0.0), affinity._replace(planes=planes)


def _exponents(affinity: Affinity, window: Window) -> jax.Array:
    """[M,rows,columns] of the window: what position and weight give; nothing for the pixel itself."""
    offset = jnp.arange(2 * window.radius + 1) - window.radius
    distance = (jnp.square(offset)[:, None] + jnp.square(offset)[None, :]).astype(affinity.falloffs.dtype)[None]
    exponents = jnp.log(affinity.weights)[:, None, None] - distance * affinity.falloffs[:, None, None]
    return jnp.where(distance == 0, -jnp.inf, exponents)


def _vary_together(p: jax.Array, planes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Under `shard_map`, both vary over the same devices, as scans and gradients want it."""
    if not planes.shape[0]:
        return p, planes
    zero = jnp.zeros_like(p[..., 0] * planes[0])
    return p + zero[..., None], planes + zero[None]


def without_explicit_axes(function: Callable[..., jax.Array], like: jax.Array) -> Callable[..., jax.Array]:
    """`function` for arrays on a mesh with explicit axes too, whose rules are too strict for it.

    The compiler spreads its work over the devices; the result is sharded as `like`.
    """
    sharding = jax.typeof(like).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function
    return jax.sharding.auto_axes(function, out_sharding=sharding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _filter(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> jax.Array:
    """y_i = sum_j (t_i s_j + t_j s_i) / 2 * k_ij p_j with gates [2,B,H,W] (s, t); without gates, both are 1."""
    return _run(p, planes, gates, exponents, window)


def _filter_forward(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> tuple[jax.Array, Any]:
    return _filter(p, planes, gates, exponents, window), (planes, gates, exponents)


def _filter_backward(window: Window, residuals: Any, cotangent: jax.Array) -> tuple[jax.Array, None, None, None]:
    return _filter(cotangent, *residuals, window), None, None, None


_filter.defvjp(_filter_forward, _filter_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _energy(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> jax.Array:
    return _energy_and_filtered(p, planes, gates, exponents, window)[0]


@_energy.defjvp
def _energy_jvp(window: Window, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    p, planes, gates, exponents = primals
    energy, summed = _energy_and_filtered(p, planes, gates, exponents, window)
    # The gated kernel is symmetric: d/dp sum(mass - <p, Sp>) = -2 Sp.
    return energy, -2.0 * jnp.sum(summed * tangents[0])


def _energy_and_filtered(
    p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window
) -> tuple[jax.Array, jax.Array]:
    # A channel of ones brings along the sum of the kernel: its own filter result.
    with_ones = jnp.concatenate([p, jnp.ones_like(p[..., :1])], axis=-1)
    both = _filter(with_ones, planes, gates, exponents, window)
    summed, mass = both[..., :-1], both[..., -1]
    return jnp.sum(mass - sum_last(p * summed)), summed


@functools.partial(jax.jit, static_argnames="window")
def _run(p: jax.Array, planes: jax.Array, gates: jax.Array | None, exponents: jax.Array, window: Window) -> jax.Array:
    run: Callable[..., jax.Array] = filter_xla
    if window.implementation != "xla":
        # Imported where it is used: some builds of jax have no Triton.
        from semiseg_jax.ops._pairwise_gpu import filter_sharded

        run = filter_sharded
    return without_explicit_axes(functools.partial(run, window=window), p)(p, planes, gates, exponents)
