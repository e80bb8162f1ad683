"""Gated CRF: neighbouring pixels of similar colour should have the same class."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.ops._checks import (
    check_at_least,
    check_classes,
    check_float,
    check_mask,
    check_probs,
    check_reduction,
    check_shape,
    check_weights,
    compute_dtype,
    concrete,
)
from semiseg_jax.ops.crf import per_root_mass
from semiseg_jax.ops.images import covered
from semiseg_jax.ops.kernels import Affinity, Kernels, Window, finite_average, kernel_terms, prepare
from semiseg_jax.ops.pairwise import energy, filtered, only_where
from semiseg_jax.ops.reduce import divided, sum_last

NAME = "gated_crf"


def gated_crf(
    probs: jax.Array,
    image: jax.Array,
    *,
    kernels: Kernels = ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},),
    radius: int = 5,
    source_mask: jax.Array | None = None,
    target_mask: jax.Array | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    compatibility: jax.Array | Sequence[Sequence[float]] | None = None,
    features: Mapping[str, jax.Array] | None = None,
    border: str = "exclude",
    normalize: bool = False,
    reduction: str = "mean",
    axis_name: str | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""Gated CRF loss: the relaxed Potts energy of a dense CRF restricted to a window around each pixel.

    .. math::
      L = \frac{1}{Z} \sum_i \sum_{0 < |j-i|_\infty \le r} t_i\, s_j\, k_{ij}\, (1 - \langle P_i, P_j \rangle), \qquad
      k_{ij} = \sum_m w_m \exp\Big(-\frac12 \sum_f \frac{|f_i - f_j|^2}{\sigma_{m,f}^2}\Big)

    with the source gate `s` of the neighbour, the target gate `t` of the centre, and Z the number of target pixels if
    there is `where` or a target mask, else of source pixels if there is a source mask, else of all pixels (at least 1).
    Gradients flow into both P; the kernels are constants. Value and gradient take one pass over the window and never
    build it.

    The sum over the window is not normalised: a uniform prediction of 21 classes costs 87.6 at radius 5 on a constant
    colour. The usual weight in a total loss is 0.1, on predictions at a quarter of the input resolution, after the
    first 0.5 % of the steps. With `normalize=True` the same prediction costs almost 1 - 1/21 at every radius and with
    any kernels, and a weight of about 10 stands for that 0.1.

    Args:
      probs: [B,H,W,K] class probabilities, any floating dtype; computed in float32.
      image: [B,h,w,C] colours at the resolution of `probs` or any higher one; averaged down by area. Standardised
        colours (zero mean, unit variance over ImageNet: `semiseg_jax.ops.standardize`) are what the default bandwidth
        0.1 is made for: about 6 grey levels of 255. Images in [0,1] need a bandwidth about 4.4 times smaller.
      kernels: Gaussian terms, each a `semiseg_jax.ops.Kernel` or a mapping with `weight` (default 1) and the bandwidths
        of what it looks at: `xy` in pixels of `probs`, `rgb` in the units of `image`, and names of `features`. Their
        numbers may be traced; they get no gradient.
      radius: the window is (2 radius + 1) pixels wide.
      source_mask: [B,h,w] bool or float at any resolution of at least `probs`: neighbours that may pull. A pixel
        counts if all of its area is 1; NaN counts as 0.
      target_mask: likewise, pixels that may be the centre of a window.
      where: [B,h,w] bool, likewise: pixels that exist, which is what padded images need. They alone pull and are
        centres, and what the others hold does not matter. It joins the two masks by "and".
      weights: [B,h,w] float, at any resolution of at least `probs`: what each neighbour counts. They are scaled to a
        mean of 1 over the pixels that may pull, so that only their ratios matter.
      compatibility: [K,K] cost of each pair of classes, zero on the diagonal; rows are scaled to sum to K-1. Then
        `sum_ab M_ab P_i(a) P_j(b)` takes the place of `1 - <P_i, P_j>`.
      features: more modalities by name, [B,h,w] or [B,h,w,F] each: `{"depth": depth}` for a kernel that has "depth".
      border: "exclude" counts only neighbours inside the image. "reference" reproduces the published code, where
        neighbours outside have zero features and add a constant to the loss; gradients are the same.
      normalize: divides k_ij by sqrt(n_i n_j), where n_i = sum_m w_m + sum_j k_ij, so that a weight in the total loss
        keeps its meaning when radius or kernels change. The sum is over the neighbours in `where`, or without it over
        those that one of both masks lets through.
      reduction: "mean"; "sum", which does not divide by Z; or "none", [B,H,W]: what each centre pays.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.
      implementation: as in `semiseg_jax.ops.local_filter`.

    Returns:
      A float32 scalar, or [B,H,W] with `reduction="none"`.

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
    _check(probs, image, border, normalize, reduction)
    probs = probs.astype(compute_dtype(probs))
    size = probs.shape[:3]
    valid = None if where is None else _gate("where", check_mask(NAME, "where", where, (size[0], "h", "w")), probs)
    source = _both(valid, _gate("source_mask", source_mask, probs))
    target = _both(valid, _gate("target_mask", target_mask, probs))
    used = None if source is None or target is None else source | target
    check_probs(NAME, "probs", probs, jnp.ones(size, bool) if used is None else used)
    terms = kernel_terms(NAME, kernels, image, features, size, used)
    affinity, window = prepare(NAME, terms, probs, radius, implementation)
    pull, scale = _pull(source, weights, probs, axis_name)
    centre = None if target is None else target.astype(probs.dtype)
    if normalize:
        per_root = _per_root(used if valid is None else valid, probs, affinity, window)
        pull = per_root if pull is None else pull * per_root
        centre = per_root if centre is None else centre * per_root
    if used is not None:
        probs, affinity = only_where(used, probs, affinity)
    if compatibility is None and reduction != "none":
        total = energy(probs, pull, centre, affinity, window)
    else:
        total = _each_centre(probs, pull, centre, compatibility, affinity, window)
    if scale is not None:
        total *= scale
    if border == "reference" and source is None and compatibility is None:
        outside = _outside_energy(affinity, window, probs, centre)
        total += outside if reduction == "none" else jnp.sum(outside)
    if reduction == "none":
        return total
    counted = source if target is None else target
    count = jnp.sum(jnp.ones_like(probs[..., 0]) if counted is None else counted.astype(probs.dtype))
    return divided(jnp.sum(total), count, reduction, axis_name)


def _check(probs: jax.Array, image: jax.Array, border: str, normalize: bool, reduction: str) -> None:
    check_shape(NAME, "probs", probs, ("B", "H", "W", "K"))
    check_float(NAME, "probs", probs)
    check_classes(NAME, "probs", probs, "jnp.concatenate([1 - p, p], -1) for the probability p")
    check_reduction(NAME, reduction)
    if border not in ("exclude", "reference"):
        raise ValueError(f"{NAME}: border is {border!r} but must be 'exclude' or 'reference'")
    if normalize and border == "reference":
        raise ValueError(f"{NAME}: normalize is True, which needs border='exclude': nothing outside has a mass")
    _check_image(image, probs)


def _check_image(image: jax.Array, probs: jax.Array) -> None:
    check_shape(NAME, "image", image, (probs.shape[0], "h", "w", "C"))
    same = image.shape[1:3] == probs.shape[1:3] and image.shape[-1] != probs.shape[-1]
    if image.shape[1] in (1, 3) and image.shape[-1] > 4 and not same:
        raise ValueError(f"{NAME}: image is {list(image.shape)}, channels first; it must be [B,h,w,3]")
    if probs.shape[2:] == image.shape[1:3] != probs.shape[1:3]:
        raise ValueError(f"{NAME}: probs is {list(probs.shape)}, channels first; it must be [B,H,W,K]")


def _gate(name: str, mask: jax.Array | None, probs: jax.Array) -> jax.Array | None:
    """A mask at any resolution, with or without a channel axis -> True where all of a pixel's area is 1."""
    if mask is None:
        return None
    if np.ndim(mask) == 4:
        check_shape(NAME, name, mask, ("B", "h", "w", 1))
        mask = mask[..., 0]
    check_shape(NAME, name, mask, (probs.shape[0], "h", "w"))
    check_at_least(NAME, name, mask, probs.shape[1:3])
    return covered(mask, (probs.shape[1], probs.shape[2]))


def _both(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    return other if one is None else one if other is None else one & other


def _pull(
    source: jax.Array | None, weights: jax.Array | None, probs: jax.Array, axis_name: str | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """-> the gate of the neighbours, and what brings weights to a mean of 1 over all that may pull."""
    if weights is None:
        return None if source is None else source.astype(probs.dtype), None
    weights = check_weights(NAME, "weights", weights, (probs.shape[0], "h", "w")).astype(probs.dtype)
    check_at_least(NAME, "weights", weights, probs.shape[1:3])
    weights = finite_average(weights[..., None], (probs.shape[1], probs.shape[2]))[..., 0]
    source = jnp.ones(probs.shape[:3], bool) if source is None else source
    pull = jnp.where(source, weights, 0.0)
    sums = jnp.sum(source.astype(probs.dtype)), jnp.sum(pull)
    count, sum_of_weights = sums if axis_name is None else lax.psum(sums, axis_name)
    return pull, count / jnp.where(sum_of_weights > 0, sum_of_weights, 1.0)


def _per_root(existing: jax.Array | None, probs: jax.Array, affinity: Affinity, window: Window) -> jax.Array:
    if existing is None:
        return per_root_mass(jnp.ones_like(probs[..., 0]), affinity, window)
    probs, affinity = only_where(existing, probs, affinity)
    return per_root_mass(existing.astype(probs.dtype), affinity, window)


def _each_centre(
    probs: jax.Array,
    pull: jax.Array | None,
    centre: jax.Array | None,
    compatibility: jax.Array | Sequence[Sequence[float]] | None,
    affinity: Affinity,
    window: Window,
) -> jax.Array:
    """[B,H,W]: what each centre pays."""
    costs = probs
    if compatibility is None:  # 1 - <P_i, P_j>: a class of ones beside the negative ones
        costs = jnp.concatenate([jnp.ones_like(probs[..., :1]), -probs], axis=-1)
        probs = jnp.concatenate([jnp.ones_like(probs[..., :1]), probs], axis=-1)
    else:
        costs = jnp.matmul(probs, _normalized(compatibility, probs.shape[-1], probs.dtype), precision="highest")
    pulled = filtered(probs if pull is None else probs * pull[..., None], affinity, window)
    paid = sum_last(costs * pulled)
    return paid if centre is None else paid * centre


def _outside_energy(affinity: Affinity, window: Window, probs: jax.Array, centre: jax.Array | None) -> jax.Array:
    """[B,H,W]: what neighbours outside the image add in the published code, where position and features are 0."""
    height, width = probs.shape[1:3]
    y, x = jnp.arange(height, dtype=probs.dtype), jnp.arange(width, dtype=probs.dtype)

    def inside(position: jax.Array, length: int) -> jax.Array:
        return jnp.minimum(position + window.radius, length - 1) - jnp.maximum(position - window.radius, 0) + 1

    outside = (2 * window.radius + 1) ** 2 - inside(y, height)[:, None] * inside(x, width)[None, :]
    squared = (jnp.square(y)[:, None] + jnp.square(x)[None, :])[None]
    kernel: Any = 0.0
    for weight, falloff, (start, stop) in zip(affinity.weights, affinity.falloffs, window.spans, strict=True):
        exponent = -falloff * squared - jnp.sum(jnp.square(affinity.planes[start:stop]), axis=0)
        kernel += weight * jnp.exp(exponent)
    paid = outside[None] * kernel
    return paid if centre is None else paid * centre


def _normalized(compatibility: Any, classes: int, dtype: Any) -> jax.Array:
    check_shape(NAME, "compatibility", jnp.asarray(compatibility), (classes, classes))
    values = concrete(compatibility)
    if values is not None:
        values = values.astype(np.float64)
        if np.any(np.diag(values) != 0):
            raise ValueError(f"{NAME}: compatibility must be zero on the diagonal")
        if np.any(values < 0) or not np.all(np.isfinite(values)):
            raise ValueError(f"{NAME}: compatibility must be finite and not negative")
    matrix = jnp.asarray(compatibility, dtype)
    rows = jnp.sum(jnp.abs(matrix), axis=1, keepdims=True)
    return matrix / jnp.where(rows > 0, rows, 1.0) * (classes - 1)
