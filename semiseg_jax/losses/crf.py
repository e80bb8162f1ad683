"""Gated CRF: neighbouring pixels of similar colour should have the same class."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.ops._checks import check_at_least, check_classes, check_float, check_shape, compute_dtype
from semiseg_jax.ops.images import covered
from semiseg_jax.ops.pairwise import check_radius, kernel_terms, local_filter, potts_energy
from semiseg_jax.ops.reduce import sum_last

NAME = "gated_crf"


def gated_crf(
    probs: jax.Array,
    image: jax.Array,
    *,
    kernels: Sequence[Mapping[str, float]] = ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},),
    radius: int = 5,
    source_mask: jax.Array | None = None,
    target_mask: jax.Array | None = None,
    compatibility: jax.Array | Sequence[Sequence[float]] | None = None,
    features: Mapping[str, jax.Array] | None = None,
    border: str = "exclude",
    axis_name: str | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""Gated CRF loss: the relaxed Potts energy of a dense CRF restricted to a window around each pixel.

    .. math::
      L = \frac{1}{Z} \sum_i \sum_{0 < |j-i|_\infty \le r} t_i\, s_j\, k_{ij}\, (1 - \langle P_i, P_j \rangle), \qquad
      k_{ij} = \sum_m w_m \exp\Big(-\frac12 \sum_f \frac{|f_i - f_j|^2}{\sigma_{m,f}^2}\Big)

    with the source gate `s` of the neighbour, the target gate `t` of the centre, and Z the number of target pixels if
    there is a target mask, else of source pixels if there is a source mask, else of all pixels (at least 1). Gradients
    flow into both P; the kernels are constants. Value and gradient take one pass over the window and never build it.

    The sum over the window is not normalised: a uniform prediction of 21 classes costs 87.6 at radius 5 on a constant
    colour. The usual weight in a total loss is 0.1, on predictions at a quarter of the input resolution, after the
    first 0.5 % of the steps.

    Args:
      probs: [B,H,W,K] class probabilities, any floating dtype; computed in float32.
      image: [B,h,w,C] colours at the resolution of `probs` or any higher one; averaged down by area. Standardised
        colours (zero mean, unit variance over ImageNet: `semiseg_jax.ops.standardize`) are what the default bandwidth
        0.1 is made for: about 6 grey levels of 255. Images in [0,1] need a bandwidth about 4.4 times smaller.
      kernels: Gaussian terms, each a mapping with `weight` (default 1) and the bandwidths of what it looks at: `xy`
        in pixels of `probs`, `rgb` in the units of `image`, and names of `features`.
      radius: the window is (2 radius + 1) pixels wide.
      source_mask: [B,h,w] bool or float at any resolution of at least `probs`: neighbours that may pull. A pixel
        counts if all of its area is 1; NaN counts as 0. Give the validity mask of padded images here, as the paper
        does; given as `target_mask` too, padding matters not even as the centre of a window.
      target_mask: likewise, pixels that may be the centre of a window.
      compatibility: [K,K] cost of each pair of classes, zero on the diagonal; rows are scaled to sum to K-1. Then
        `sum_ab M_ab P_i(a) P_j(b)` takes the place of `1 - <P_i, P_j>`.
      features: more modalities by name, [B,h,w] or [B,h,w,F] each: `{"depth": depth}` for a kernel that has "depth".
      border: "exclude" counts only neighbours inside the image. "reference" reproduces the published code, where
        neighbours outside have zero features and add a constant to the loss; gradients are the same.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.
      implementation: as in `semiseg_jax.ops.local_filter`; "xla" where a program is exported for several platforms.

    Returns:
      A float32 scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import gated_crf
      >>> image = jnp.zeros((1, 16, 16, 3))
      >>> certain = jnp.zeros((1, 16, 16, 2)).at[..., 0].set(1.0)
      >>> print(float(gated_crf(certain, image)), float(gated_crf(jnp.full((1, 16, 16, 2), 0.5), image)) > 30)
      0.0 True

    References:
      Obukhov et al., Gated CRF Loss for Weakly Supervised Semantic Image Segmentation, 2019,
      https://arxiv.org/abs/1906.04651
    """
    check_shape(NAME, "probs", probs, ("B", "H", "W", "K"))
    check_float(NAME, "probs", probs)
    check_classes(NAME, "probs", probs, "jnp.concatenate([1 - p, p], -1) for the probability p")
    if border not in ("exclude", "reference"):
        raise ValueError(f"{NAME}: border is {border!r} but must be 'exclude' or 'reference'")
    probs = probs.astype(compute_dtype(probs))
    check_radius(NAME, radius)
    _check_image(image, probs)
    reserved = {"rgb", "xy", "weight"} & set(features or {})
    if reserved:
        raise ValueError(f"{NAME}: features may not be called {', '.join(sorted(reserved))}")
    terms = kernel_terms(NAME, kernels, {**(features or {}), "rgb": image}, probs.shape[:3])
    source = None if source_mask is None else _gate("source_mask", source_mask, probs)
    target = None if target_mask is None else _gate("target_mask", target_mask, probs)
    if source is not None and target is not None:
        # What neither gate lets through may hold anything, NaN too.
        used = (source + target > 0)[..., None]
        probs = jnp.where(used, probs, 0.0)
        terms["features"] = [None if term is None else jnp.where(used, term, 0.0) for term in terms["features"]]

    if compatibility is None:
        total = potts_energy(probs, **terms, radius=radius, source=source, target=target, implementation=implementation)
        if border == "reference" and source is None:
            total += _outside_energy(terms, radius, probs, target)
    else:
        matrix = _normalized(compatibility, probs.shape[-1], probs.dtype)
        pulling = probs if source is None else probs * source[..., None]
        pulled = local_filter(pulling, **terms, radius=radius, implementation=implementation)
        energy = sum_last(jnp.matmul(probs, matrix, precision="highest") * pulled)
        total = jnp.sum(energy if target is None else energy * target)

    counted = source if target is None else target
    count = jnp.sum(jnp.ones_like(probs[..., 0]) if counted is None else counted)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


def _check_image(image: jax.Array, probs: jax.Array) -> None:
    check_shape(NAME, "image", image, (probs.shape[0], "h", "w", "C"))
    fits = image.shape[1] >= probs.shape[1] and image.shape[2] >= probs.shape[2]
    if not fits and image.shape[1] in (1, 3) and image.shape[-1] not in (1, 3):
        raise ValueError(f"{NAME}: image is {list(image.shape)}, channels first; it must be [B,h,w,3]")
    if probs.shape[2:] == image.shape[1:3] != probs.shape[1:3]:
        raise ValueError(f"{NAME}: probs is {list(probs.shape)}, channels first; it must be [B,H,W,K]")


def _gate(name: str, mask: jax.Array, probs: jax.Array) -> jax.Array:
    """A mask at any resolution -> 1 where all of a pixel's area is 1, else 0."""
    if jnp.ndim(mask) == 4:
        check_shape(NAME, name, mask, ("B", "h", "w", 1))
        mask = mask[..., 0]
    check_shape(NAME, name, mask, (probs.shape[0], "h", "w"))
    check_at_least(NAME, name, mask, probs.shape[1:3])
    return covered(mask, (probs.shape[1], probs.shape[2])).astype(probs.dtype)


def _outside_energy(terms: Mapping[str, Any], radius: int, probs: jax.Array, target: jax.Array | None) -> jax.Array:
    """What neighbours outside the image add in the published code: their features, position included, are 0."""
    height, width = probs.shape[1:3]
    y, x = jnp.arange(height, dtype=probs.dtype), jnp.arange(width, dtype=probs.dtype)

    def inside(position: jax.Array, length: int) -> jax.Array:
        return jnp.minimum(position + radius, length - 1) - jnp.maximum(position - radius, 0) + 1

    outside = (2 * radius + 1) ** 2 - inside(y, height)[:, None] * inside(x, width)[None, :]
    kernel: Any = 0.0
    for term, sigma, weight in zip(terms["features"], terms["xy_sigma"], terms["weights"], strict=True):
        squared = jnp.zeros(probs.shape[:3], probs.dtype)
        if sigma is not None:
            squared += (jnp.square(y)[:, None] + jnp.square(x)[None, :])[None] / sigma**2
        if term is not None:
            squared += jnp.sum(jnp.square(term.astype(probs.dtype)), axis=-1)
        kernel += weight * jnp.exp(-0.5 * squared)
    energy = lax.stop_gradient(outside[None] * kernel)
    return jnp.sum(energy if target is None else energy * target)


def _normalized(compatibility: Any, classes: int, dtype: Any) -> jax.Array:
    check_shape(NAME, "compatibility", jnp.asarray(compatibility), (classes, classes))
    if not isinstance(compatibility, jax.core.Tracer):
        values = np.asarray(compatibility, np.float64)
        if np.any(np.diag(values) != 0):
            raise ValueError(f"{NAME}: compatibility must be zero on the diagonal")
        if np.any(values < 0) or not np.all(np.isfinite(values)):
            raise ValueError(f"{NAME}: compatibility must be finite and not negative")
    matrix = jnp.asarray(compatibility, dtype)
    rows = jnp.sum(jnp.abs(matrix), axis=1, keepdims=True)
    return matrix / jnp.where(rows > 0, rows, 1.0) * (classes - 1)
