"""How alike two pixels are: Gaussian kernels of position, colour and other features, and their checks.

A kernel is described by a `Kernel` or by a mapping such as `{"weight": 1.0, "xy": 6.0, "rgb": 0.1}`. Its numbers may be
traced, so that one compiled program serves every weight and bandwidth.
"""

import dataclasses
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.ops._checks import check_at_least, check_float, check_shape, compute_dtype, concrete, sample
from semiseg_jax.ops.images import area_average, covered

IMPLEMENTATIONS = (None, "xla", "pallas", "interpret")
Number = float | jax.Array


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One Gaussian term: `weight * exp(-sum_f |f_i - f_j|^2 / (2 sigma_f^2))`, as `gated_crf` and `mean_field` take it.

    With plain numbers it is hashable, so it may be a static argument; as a traced argument its numbers are traced.

    Args:
      weight: what the term counts.
      xy: bandwidth of the position, in pixels of the prediction; None to look at no position.
      rgb: bandwidth of the colours, in the units of the image; None to look at no colour.
      others: pairs of the name of another modality and its bandwidth.

    Examples:
      >>> from semiseg_jax.ops import Kernel
      >>> Kernel(xy=6.0, rgb=0.1) == Kernel(1.0, 6.0, 0.1)
      True
    """

    weight: Number = 1.0
    xy: Number | None = None
    rgb: Number | None = None
    others: tuple[tuple[str, Number], ...] = ()

    def bandwidths(self) -> dict[str, Number]:
        """Bandwidth of each thing that it looks at, by name."""
        known = {"xy": self.xy, "rgb": self.rgb}
        return {name: value for name, value in known.items() if value is not None} | dict(self.others)


def _flatten(kernel: Kernel) -> tuple[Any, Any]:
    names = tuple(name for name, _ in kernel.others)
    return (kernel.weight, kernel.xy, kernel.rgb, tuple(value for _, value in kernel.others)), names


def _unflatten(names: tuple[str, ...], numbers: Any) -> Kernel:
    weight, xy, rgb, values = numbers
    return Kernel(weight, xy, rgb, tuple(zip(names, values, strict=True)))


jax.tree_util.register_pytree_node(Kernel, _flatten, _unflatten)

Kernels = Sequence[Kernel | Mapping[str, Number]]


class Term(NamedTuple):
    """A checked kernel, with [B,H,W,F] features already divided by their bandwidths."""

    weight: Number
    sigma: Number | None
    features: jax.Array | None


class Affinity(NamedTuple):
    """`k_ij = sum_m weights_m exp(-falloffs_m |i-j|^2 - |f_i - f_j|^2)`, over the planes [F,B,H,W] of the term m."""

    planes: jax.Array
    weights: jax.Array
    falloffs: jax.Array


@dataclasses.dataclass(frozen=True)
class Window:
    """What is fixed when a filter is compiled: its reach, the planes `start:stop` of each term, and what runs it."""

    radius: int
    spans: tuple[tuple[int, int], ...]
    implementation: str


def prepare(
    name: str, terms: Sequence[Term], p: jax.Array, radius: int, implementation: str | None
) -> tuple[Affinity, Window]:
    """Brings checked terms into the form of the engine, in the dtype of `p` [B,H,W,K]; they get no gradient."""
    check_radius(name, radius)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: implementation is {implementation!r} but must be one of {IMPLEMENTATIONS}")
    if implementation == "pallas":
        from semiseg_jax.ops._pairwise_probe import usable

        implementation = "pallas" if usable() else "xla"
    planes: list[jax.Array] = []
    spans, falloffs = [], []
    for term in terms:
        start = len(planes)
        if term.features is not None:
            # exp(-|f|^2 / 2): the half goes into the features.
            scaled = term.features.astype(p.dtype) * jnp.asarray(math.sqrt(0.5), p.dtype)
            planes += [scaled[..., channel] for channel in range(scaled.shape[-1])]
        spans.append((start, len(planes)))
        falloffs.append(0.0 if term.sigma is None else 0.5 / term.sigma**2)
    stacked = jnp.stack(planes) if planes else jnp.zeros((0, *p.shape[:3]), p.dtype)
    affinity = Affinity(stacked, _vector([term.weight for term in terms], p.dtype), _vector(falloffs, p.dtype))
    return lax.stop_gradient(affinity), Window(int(radius), tuple(spans), implementation or "xla")


def _vector(values: Sequence[Number], dtype: Any) -> jax.Array:
    if any(isinstance(value, jax.Array) for value in values):
        return jnp.stack([jnp.asarray(value).astype(dtype) for value in values])
    return jnp.asarray(np.array(values, np.float64), dtype)


def kernel_terms(
    name: str,
    kernels: Kernels,
    image: jax.Array,
    features: Mapping[str, jax.Array] | None,
    shape: Sequence[int],
    used: jax.Array | None = None,
) -> list[Term]:
    """Kernels by name -> terms for predictions [B,H,W,K].

    `image` and `features` are [B,h,w] or [B,h,w,F] at the prediction's resolution or a higher one, which is averaged
    down by area. Only the pixels of `used` [B,H,W] are held to what colours look like.
    """
    reserved = {"rgb", "xy", "weight"} & set(features or {})
    if reserved:
        raise ValueError(f"{name}: features may not be called {', '.join(sorted(reserved))}; rename them")
    if isinstance(kernels, (Mapping, Kernel)) or not kernels:
        raise ValueError(f"{name}: kernels must be a sequence of at least one mapping or Kernel")
    modalities = {**(features or {}), "rgb": image}
    small: dict[str, jax.Array] = {}
    terms = []
    for kernel in kernels:
        weight, bandwidths = _checked(name, kernel, modalities)
        for key in bandwidths.keys() - {"xy"} - small.keys():
            small[key] = _to_prediction(name, "image" if key == "rgb" else key, modalities[key], shape)
        if "rgb" in bandwidths:
            _check_colors(name, small["rgb"], bandwidths["rgb"], used)
        scaled = [small[key] / _like(value, small[key]) for key, value in bandwidths.items() if key != "xy"]
        terms.append(Term(weight, bandwidths.get("xy"), jnp.concatenate(scaled, axis=-1) if scaled else None))
    return terms


def _like(value: Number, array: jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(array.dtype)


def _checked(name: str, kernel: Any, modalities: Mapping[str, Any]) -> tuple[Number, dict[str, Number]]:
    """-> weight and bandwidths of a kernel."""
    if isinstance(kernel, Kernel):
        weight, bandwidths = kernel.weight, kernel.bandwidths()
    elif isinstance(kernel, Mapping):
        weight = kernel.get("weight", 1.0)
        bandwidths = {key: value for key, value in kernel.items() if key != "weight"}
    else:
        raise TypeError(f"{name}: kernels has a {type(kernel).__name__} but must hold mappings or Kernels")
    if not bandwidths:
        raise ValueError(f"{name}: kernels has {kernel}, which looks at nothing; give it xy or a modality")
    for key, value in bandwidths.items():
        if key != "xy" and key not in modalities:
            known = ", ".join(("weight", "xy", *modalities))
            raise ValueError(f"{name}: kernels has the unknown key {key!r}; known are {known}")
        check_bandwidth(name, f"kernels has {key} {value!r}", value)
    check_weight(name, f"kernels has weight {weight!r}", weight)
    return weight, bandwidths


def check_bandwidth(name: str, what: str, value: Any) -> None:
    _check_number(name, what, value)
    seen = concrete(value)
    if seen is not None and not seen > 0:
        raise ValueError(f"{name}: {what} but a bandwidth must be positive")


def check_weight(name: str, what: str, value: Any) -> None:
    _check_number(name, what, value)
    seen = concrete(value)
    if seen is not None and not 0 <= seen < math.inf:
        raise ValueError(f"{name}: {what} but a weight must be finite and not negative")


def _check_number(name: str, what: str, value: Any) -> None:
    scalar = getattr(value, "ndim", None) == 0 and jnp.issubdtype(value.dtype, jnp.number)
    if not (scalar or isinstance(value, numbers.Real)):
        raise TypeError(f"{name}: {what} but must be a number")


def check_radius(name: str, radius: int) -> None:
    if isinstance(radius, bool) or not isinstance(radius, numbers.Integral) or radius < 1:
        raise ValueError(f"{name}: radius is {radius!r} but must be a positive int")


_warned: set[str] = set()


def _check_colors(name: str, image: jax.Array, bandwidth: Number, used: jax.Array | None) -> None:
    """Raises or warns where colours that can be seen are on another scale than their bandwidth."""
    values, sigma = sample(image), concrete(bandwidth)
    kept = np.ones(1, bool) if used is None else sample(used)
    if values is None or sigma is None or kept is None:
        return
    values = values[np.isfinite(values) & kept[:, None]]
    if not values.size:
        return
    low, high = values.min(), values.max()
    if max(-low, high) > max(20.0, 200.0 * float(sigma)):
        raise ValueError(
            f"{name}: image holds values up to {max(-low, high):.4g}, far beyond the bandwidth {float(sigma):.4g} of "
            "rgb; give semiseg_jax.ops.standardize(image), or a bandwidth in the units of the image"
        )
    if low >= 0.0 and 0.5 < high <= 1.0 and sigma >= 0.1 and name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name}: image lies in [0,1], where the bandwidth {float(sigma):.4g} of rgb is 4.4 times wider than for "
            "standardised colours; give semiseg_jax.ops.standardize(image), or a smaller bandwidth",
            stacklevel=4,
        )


def _to_prediction(name: str, label: str, modality: jax.Array, shape: Sequence[int]) -> jax.Array:
    modality = modality[..., None] if np.ndim(modality) == 3 else modality
    check_shape(name, label, modality, (shape[0], "h", "w", "F"))
    if not jnp.issubdtype(modality.dtype, jnp.floating):
        raise TypeError(
            f"{name}: {label} is {modality.dtype} but must be floating point, in the units of the bandwidth; images as "
            "semiseg_jax.ops.standardize makes them suit the usual ones"
        )
    check_at_least(name, label, modality, shape[1:])
    return finite_average(modality.astype(compute_dtype(modality)), (shape[1], shape[2]))


def finite_average(array: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`area_average`, in which what is not finite spoils the pixels that it lies in and no others."""
    if array.shape[1:3] == size:
        return array
    finite = jnp.all(jnp.isfinite(array), axis=-1)
    average = area_average(jnp.where(finite[..., None], array, 0.0), size)
    return jnp.where(covered(finite, size)[..., None], average, jnp.nan)


def check_features(name: str, features: jax.Array, shape: Sequence[int]) -> None:
    check_shape(name, "features", features, (*shape, "F"))
    check_float(name, "features", features)
