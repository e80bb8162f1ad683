"""Sums over pixel neighbourhoods, weighted by how alike the two pixels are.

Gated CRF, mean-field inference and label diffusion all need `y_i = sum_j k_ij p_j` over the pixels j of a window around
i. It is computed here, once, by shifting whole images: no window is ever built, so memory stays at a few copies of `p`.
The sum is linear in `p` and `k` is symmetric, so the gradient of `local_filter` is `local_filter` of the cotangent, and
a quadratic energy and its gradient come from one pass. Kernels are constants: no gradient flows into features.

Reverse mode works to any order, but only once through a filter in a loop (`scan`, `fori_loop`). Forward mode (`jvp`,
`jacfwd`) works once through `potts_energy` and raises a `TypeError` through `local_filter`. Nothing here talks to other
devices: sums are per device, add them outside.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from semiseg_jax.ops._checks import check_at_least, check_float, check_shape, compute_dtype
from semiseg_jax.ops.images import area_average, covered
from semiseg_jax.ops.reduce import sum_last

IMPLEMENTATIONS = (None, "xla", "pallas", "interpret")


class Gaussian(NamedTuple):
    """One term of the kernel: `weight * exp(-falloff * |i-j|^2 - |f_i - f_j|^2)` over the planes `start:stop`."""

    weight: float
    falloff: float
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Window:
    """What is fixed when a filter is compiled."""

    radius: int
    gaussians: tuple[Gaussian, ...]
    implementation: str | None = None


Features = jax.Array | Sequence[jax.Array | None] | None


def local_filter(
    p: jax.Array,
    features: Features,
    *,
    radius: int,
    xy_sigma: float | Sequence[float | None] | None = None,
    weights: Sequence[float] | None = None,
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
      weights: weight of each term, all 1 by default.
      implementation: None chooses: the Pallas kernel on CUDA devices, XLA elsewhere. "xla" and "pallas" insist;
        "interpret" runs the Pallas kernel without a GPU, slowly.

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
    planes, window = prepare(name, p.shape[:3], features, radius, xy_sigma, weights, implementation)
    return filtered(p.astype(compute_dtype(p)), planes, window)


def potts_energy(
    p: jax.Array,
    features: Features,
    *,
    radius: int,
    xy_sigma: float | Sequence[float | None] | None = None,
    weights: Sequence[float] | None = None,
    source: jax.Array | None = None,
    target: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""The relaxed Potts energy of a labelling; one filter pass gives the value and the gradient.

    .. math::
      E = \sum_i \sum_{0 < |j-i|_\infty \le r} t_i\, s_j\, k_{ij}\, (1 - \langle p_i, p_j \rangle)

    Args:
      p: [B,H,W,K] class probabilities.
      features, radius, xy_sigma, weights, implementation: as in `local_filter`.
      source: [B,H,W] gate of the neighbour j; all 1 by default.
      target: [B,H,W] gate of the centre i; all 1 by default.

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
    planes, window = prepare(name, p.shape[:3], features, radius, xy_sigma, weights, implementation)
    p, planes = vary_together(p.astype(compute_dtype(p)), planes)
    gates = None
    if source is not None or target is not None:
        pair = []
        for label, gate in (("source", source), ("target", target)):
            if gate is not None:
                check_shape(name, label, gate, p.shape[:3])
            ones = jnp.ones_like(p[..., 0])
            pair.append(ones if gate is None else ones * lax.stop_gradient(gate.astype(p.dtype)))
        gates = jnp.stack(pair)
    return _energy(p, planes, gates, window)


def kernel_terms(
    name: str, kernels: Sequence[Mapping[str, float]], modalities: Mapping[str, jax.Array], shape: Sequence[int]
) -> dict[str, Any]:
    """Kernels by name -> the `features`, `xy_sigma` and `weights` of `local_filter` for predictions [B,H,W,K].

    Each kernel maps `weight` (default 1), `xy` and names of `modalities` to numbers: the bandwidths. A modality is
    [B,h,w] or [B,h,w,F] at the prediction's resolution or a higher one, which is averaged down by area.
    """
    terms: dict[str, list[Any]] = {"features": [], "xy_sigma": [], "weights": []}
    if isinstance(kernels, Mapping) or not kernels:
        raise ValueError(f"{name}: kernels must be a sequence of at least one mapping")
    small: dict[str, jax.Array] = {}
    for kernel in kernels:
        bandwidths = {key: value for key, value in kernel.items() if key != "weight"}
        if not bandwidths:
            raise ValueError(f"{name}: kernels has {dict(kernel)}, which looks at nothing; give it xy or a modality")
        for key, value in bandwidths.items():
            if key != "xy" and key not in modalities:
                raise ValueError(
                    f"{name}: kernels has the unknown key {key!r}; known are weight, xy, {', '.join(modalities)}"
                )
            if not value > 0:
                raise ValueError(f"{name}: kernels has {key} {value!r} but a bandwidth must be positive")
        for key in bandwidths.keys() - {"xy"} - small.keys():
            small[key] = _to_prediction(name, "image" if key == "rgb" else key, modalities[key], shape)
        scaled = [small[key] / value for key, value in bandwidths.items() if key != "xy"]
        terms["features"].append(jnp.concatenate(scaled, axis=-1) if scaled else None)
        terms["xy_sigma"].append(bandwidths.get("xy"))
        terms["weights"].append(kernel.get("weight", 1.0))
    return terms


def _to_prediction(name: str, label: str, modality: jax.Array, shape: Sequence[int]) -> jax.Array:
    modality = modality[..., None] if jnp.ndim(modality) == 3 else modality
    check_shape(name, label, modality, (shape[0], "h", "w", "F"))
    if not jnp.issubdtype(modality.dtype, jnp.floating):
        raise TypeError(
            f"{name}: {label} is {modality.dtype} but must be floating point, in the units of the bandwidth; images as "
            "semiseg_jax.ops.standardize makes them suit the usual ones"
        )
    check_at_least(name, label, modality, shape[1:])
    size = (shape[1], shape[2])
    modality = modality.astype(compute_dtype(modality))
    if modality.shape[1:3] == size:
        return modality
    # What is not finite spoils the pixels that it lies in and no others, which a product of matrices would do.
    finite = jnp.all(jnp.isfinite(modality), axis=-1)
    average = area_average(jnp.where(finite[..., None], modality, 0.0), size)
    return jnp.where(covered(finite, size)[..., None], average, jnp.nan)


def prepare(
    name: str,
    shape: Sequence[int],
    features: Features,
    radius: int,
    xy_sigma: float | Sequence[float | None] | None,
    weights: Sequence[float] | None,
    implementation: str | None,
) -> tuple[jax.Array, Window]:
    """Checks the description of a kernel and brings it into the form of the engine: planes [F,B,H,W] and a `Window`."""
    check_radius(name, radius)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: implementation is {implementation!r} but must be one of {IMPLEMENTATIONS}")
    terms: list[Any] = list(features) if isinstance(features, (list, tuple)) else [features]
    sigmas: list[Any] = list(xy_sigma) if isinstance(xy_sigma, (list, tuple)) else [xy_sigma] * len(terms)
    weight_list = [1.0] * len(terms) if weights is None else [float(weight) for weight in weights]
    if not terms:
        raise ValueError(f"{name}: features is empty but must hold at least one array or None")
    for label, values in (("xy_sigma", sigmas), ("weights", weight_list)):
        if len(values) != len(terms):
            raise ValueError(f"{name}: {label} has {len(values)} entries but features has {len(terms)}")
    planes: list[jax.Array] = []
    gaussians = []
    for term, sigma, weight in zip(terms, sigmas, weight_list, strict=True):
        if sigma is not None and not sigma > 0:
            raise ValueError(f"{name}: xy_sigma is {sigma} but must be positive")
        start = len(planes)
        if term is not None:
            check_shape(name, "features", term, (*shape, "F"))
            check_float(name, "features", term)
            # exp(-|f|^2 / 2): the half goes into the features.
            scaled = term.astype(compute_dtype(term)) * math.sqrt(0.5)
            planes += [scaled[..., channel] for channel in range(term.shape[-1])]
        falloff = 0.0 if sigma is None else 0.5 / float(sigma) ** 2
        gaussians.append(Gaussian(weight, falloff, start, len(planes)))
    stacked = jnp.stack(planes) if planes else jnp.zeros((0, *shape), jnp.float32)
    return lax.stop_gradient(stacked), Window(int(radius), tuple(gaussians), implementation)


def check_radius(name: str, radius: int) -> None:
    if isinstance(radius, bool) or not isinstance(radius, numbers.Integral) or radius < 1:
        raise ValueError(f"{name}: radius is {radius!r} but must be a positive int")


def filtered(p: jax.Array, planes: jax.Array, window: Window) -> jax.Array:
    """`local_filter` of something prepared."""
    return _filter(*vary_together(p, planes), None, window)


def vary_together(p: jax.Array, planes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One dtype for both and, under `shard_map`, the same devices to vary over, as scans and gradients want it."""
    planes = planes.astype(p.dtype)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _filter(p: jax.Array, planes: jax.Array, gates: jax.Array | None, window: Window) -> jax.Array:
    """y_i = sum_j (t_i s_j + t_j s_i) / 2 * k_ij p_j with gates [2,B,H,W] (s, t); without gates, both are 1."""
    return _run(p, planes, gates, window)


def _filter_forward(p: jax.Array, planes: jax.Array, gates: jax.Array | None, window: Window) -> tuple[jax.Array, Any]:
    return _filter(p, planes, gates, window), (planes, gates)


def _filter_backward(window: Window, residuals: Any, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    planes, gates = residuals
    return _filter(cotangent, planes, gates, window), None, None


_filter.defvjp(_filter_forward, _filter_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _energy(p: jax.Array, planes: jax.Array, gates: jax.Array | None, window: Window) -> jax.Array:
    return _energy_and_filtered(p, planes, gates, window)[0]


@_energy.defjvp
def _energy_jvp(window: Window, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    p, planes, gates = primals
    energy, filtered = _energy_and_filtered(p, planes, gates, window)
    # The gated kernel is symmetric: d/dp sum(mass - <p, Sp>) = -2 Sp.
    return energy, -2.0 * jnp.sum(filtered * tangents[0])


def _energy_and_filtered(p: jax.Array, planes: jax.Array, gates: Any, window: Window) -> tuple[jax.Array, jax.Array]:
    # A channel of ones brings along the sum of the kernel: its own filter result.
    with_ones = jnp.concatenate([p, jnp.ones_like(p[..., :1])], axis=-1)
    filtered = _filter(with_ones, planes, gates, window)
    filtered, mass = filtered[..., :-1], filtered[..., -1]
    return jnp.sum(mass - sum_last(p * filtered)), filtered


@functools.partial(jax.jit, static_argnames="window")
def _run(p: jax.Array, planes: jax.Array, gates: jax.Array | None, window: Window) -> jax.Array:
    # The import waits until a filter is compiled: the losses stay light to load.
    from semiseg_jax.ops._pairwise_gpu import filter_gpu

    xla = functools.partial(filter_xla, window=window)
    gpu = functools.partial(filter_gpu, window=window, interpret=window.implementation == "interpret")

    def run(p: jax.Array, planes: jax.Array, gates: jax.Array | None) -> jax.Array:
        if window.implementation is None:
            return lax.platform_dependent(p, planes, gates, cuda=gpu, default=xla)
        return (xla if window.implementation == "xla" else gpu)(p, planes, gates)

    return without_explicit_axes(run, p)(p, planes, gates)


def filter_xla(p: jax.Array, planes: jax.Array, gates: jax.Array | None, window: Window) -> jax.Array:
    """A scan over the row offsets of the window, its column offsets unrolled.

    Every shifted view is its own `dynamic_slice` of one array: XLA on CPU then runs one vectorised loop over 11
    columns at a time (radius 5). Slices of slices, or of stacked planes, cost 3 to 15 times as much.
    """
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
            for term, gaussian in enumerate(window.gaussians):
                exponent = jnp.broadcast_to(exponents[term, x], shape)
                for plane in range(gaussian.start, gaussian.stop):
                    difference = lax.dynamic_slice(shifted_planes[plane], (0, y, x), shape) - centres[plane]
                    exponent -= difference * difference
                kernel += gaussian.weight * jnp.exp(exponent)
            if gates is not None:
                source, target = (lax.dynamic_slice(gate, (0, y, x), shape) for gate in shifted_gates)
                kernel *= 0.5 * (gate_centres[1] * source + gate_centres[0] * target)
            total += kernel[..., None] * lax.dynamic_slice(padded, (0, y, x, 0), p.shape)
        return total, None

    offset = jnp.arange(width) - radius
    distance = (jnp.square(offset)[:, None] + jnp.square(offset)[None, :]).astype(p.dtype)
    falloffs = jnp.array([gaussian.falloff for gaussian in window.gaussians], p.dtype)
    exponents = jnp.where(distance == 0, -jnp.inf, -distance[None] * falloffs[:, None, None])  # [terms,rows,columns]
    return lax.scan(add_row, jnp.zeros_like(p), (jnp.arange(width), exponents.swapaxes(0, 1)))[0]
