"""Total variation: predictions should be piecewise constant, everywhere or along lines only."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.losses._inputs import number, pixel_weights
from semiseg_jax.ops._checks import (
    check_channels_last,
    check_float,
    check_probs,
    check_reduction,
    check_shape,
    compute_dtype,
    concrete,
)
from semiseg_jax.ops.pairwise import without_explicit_axes
from semiseg_jax.ops.reduce import divided, sum_last

# Half of the edges between 8-neighbours, (rows, columns), in the order of their angle: 0, 45, 90, 135 degrees.
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
AXES = ((1, 0), (0, 1))

Steps = tuple[tuple[int, int], ...]


def total_variation(
    probs: jax.Array,
    *,
    norm: str = "l1",
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    image: jax.Array | None = None,
    contrast: float | jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""Total variation of a probability map: how much neighbouring pixels differ.

    .. math::
      L_1 = \frac{1}{Z} \sum_{c,i,j} |P_{c,i+1,j} - P_{c,i,j}| + |P_{c,i,j+1} - P_{c,i,j}|, \qquad
      L_2 = \frac{1}{Z} \sum_{i,j} \sqrt{\sum_c (P_{c,i+1,j} - P_{c,i,j})^2 + (P_{c,i,j+1} - P_{c,i,j})^2}

    Z is the number of vertical pairs plus the number of horizontal pairs of counting pixels; it is not multiplied by
    the classes. With `weights` a pair weighs the smaller of the weights of its two pixels, in the sum and in Z. Where
    no pair counts the loss is 0. A one-hot map costs 2 (l1) or about 1.4 (l2) for each boundary pair. The gradient of
    equal neighbours is 0. A constant prediction is a minimum: start the term late, or with a small weight (0.1 to 1).

    With `image` and `contrast`, each difference is multiplied by :math:`\exp(-|I_p - I_q|^2 / 2\sigma^2)`, as the costs
    of `potts_mrf` are: predictions may then change where the image does, and larger weights (20 to 50) suit.

    Args:
      probs: [B,H,W,K] class probabilities (softmax output at full resolution), any floating dtype; computed in float32.
      norm: "l1", anisotropic, sums over directions and classes; "l2", isotropic, is the norm of each pixel's
        differences to its lower and right neighbours over all classes together.
      where: [B,H,W] bool; a pair counts if both its pixels do. Give the validity mask of padded images here.
      image: [B,H,W,C], float or uint8, at whose changes of colour boundaries are welcome. It gets no gradient.
      contrast: sigma, in the units of `image`; goes with it.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean"; "sum", not divided by Z; "none", the [B,H,W] map that adds up to the sum. Half of what a pair
        costs is at either of its pixels; with norm "l2" each root is at its pixel.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import total_variation
      >>> halves = jnp.zeros((1, 4, 4, 2)).at[:, :, :2, 0].set(1.0).at[:, :, 2:, 1].set(1.0)
      >>> print(round(float(total_variation(halves)), 4))  # 2 * 4 / (12 + 12)
      0.3333

    References:
      Javanmardi et al., Unsupervised Total Variation Loss for Semi-supervised Deep Learning of Semantic Segmentation,
      2016, https://arxiv.org/abs/1605.01368
    """
    name = "total_variation"
    if norm not in ("l1", "l2"):
        raise ValueError(f"{name}: norm is {norm!r} but must be 'l1' or 'l2'")
    probs, weighed = _prepare(name, probs, where, weights, reduction)
    pairs = [_pairs(weighed, *step) for step in AXES]
    costs = pairs if image is None and contrast is None else _alike(name, image, contrast, weighed, pairs)
    if norm == "l1":
        total = _variation(probs, costs, AXES, reduction)
    else:
        total = _isotropic_variation(probs, costs)
        total = total if reduction == "none" else jnp.sum(total)
    return total if reduction == "none" else divided(total, _count(weighed), reduction, axis_name)


def curvilinear_total_variation(
    probs: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    sigma: float | jax.Array = 1.0,
    max_sigma: float | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""Total variation for thin structures: smooth along a line, free across it.

    Plain total variation charges a line of 1 to 3 pixels for both its sides and erases it. Here the structure tensor of
    the (blurred, constant) prediction tells the direction of lines and how line-like a place is:

    .. math::
      J = G_{2\sigma} * \sum_c \nabla \bar P_c \nabla \bar P_c^\top, \quad \bar P = \mathrm{sg}[G_\sigma * P], \quad
      w = \Big(\frac{\lambda_1 - \lambda_2}{\lambda_1 + \lambda_2}\Big)^2

      L = \frac{1}{Z} \sum_{(p,q)} \bar\omega_{pq} \sum_c \frac{|P_c(q) - P_c(p)|}{|q - p|}, \qquad
      \omega_{pq} = w\, a_{pq} + (1 - w)\, [q - p \text{ is an axis}]

    over pairs of 8-neighbours, with Z as in `total_variation`. `a` splits the direction of the line (the eigenvector
    of the smaller eigenvalue) between the two nearest of the four pair directions, and a pair weighs the mean of its
    two pixels. Where nothing is line-like (w = 0) this is `total_variation`; the same weights suit. No gradient flows
    through J. Smooth boundaries of large regions are line-like too: what pays are noise, dots, corners and ends of
    lines, and lines that stand out by less than about 0.01, for which J is too small to tell a direction.

    Args:
      probs: [B,H,W,K] class probabilities, any floating dtype; computed in float32.
      where: [B,H,W] bool, pixels that may count.
      sigma: scale in pixels at which lines are looked for: about half of their width, and at least 0.7.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false. A pair weighs the
        smaller of the weights of its two pixels. The structure tensor asks only which pixels count.
      max_sigma: static bound of `sigma`, for a `sigma` that is traced: it sets how far the blurs reach.
      reduction: "mean"; "sum", not divided by Z; "none", the [B,H,W] map that adds up to the sum, in which half of what
        a pair costs is at either of its pixels.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import curvilinear_total_variation, total_variation
      >>> line = jnp.zeros((1, 15, 15)).at[:, 7].set(1.0)
      >>> probs = jnp.stack([1 - line, line], axis=-1)
      >>> print(bool(curvilinear_total_variation(probs) < 0.05 * total_variation(probs)))
      True

    References:
      Javanmardi et al., https://arxiv.org/abs/1605.01368, announce a loss for curvilinear structures; this one is ours.
    """
    name = "curvilinear_total_variation"
    probs, weighed = _prepare(name, probs, where, weights, reduction)
    reach = _reach(name, sigma, max_sigma)
    sigma = number(name, "sigma", sigma, lambda x: 0 < x <= reach, "positive and at most max_sigma", probs.dtype)
    weigh = without_explicit_axes(functools.partial(_curvilinear_costs, reach=reach), probs)
    costs = lax.stop_gradient(weigh(lax.stop_gradient(probs), weighed, lax.stop_gradient(sigma)))
    total = _variation(probs, jnp.unstack(costs, axis=1), DIRECTIONS, reduction)
    return total if reduction == "none" else divided(total, _count(weighed), reduction, axis_name)


def _prepare(
    name: str, probs: jax.Array, where: jax.Array | None, weights: jax.Array | None, reduction: str
) -> tuple[jax.Array, jax.Array]:
    """(probabilities, 0 where they do not count; weight of each pixel)"""
    check_reduction(name, reduction)
    check_shape(name, "probs", probs, ("B", "H", "W", "K"))
    check_float(name, "probs", probs)
    for plane in (where, weights):
        if plane is not None and np.ndim(plane) == 3:
            check_channels_last(name, "probs", probs, np.shape(plane))
    dtype = compute_dtype(probs)
    weighed = pixel_weights(name, probs.shape[:3], where, weights, dtype)
    check_probs(name, "probs", probs, weighed)
    probs = probs.astype(dtype)
    if where is None and weights is None:
        return probs, weighed
    return jnp.where(weighed[..., None] > 0, probs, 0.0), weighed


def _variation(probs: jax.Array, costs: Sequence[jax.Array], steps: Steps, reduction: str) -> jax.Array:
    """The absolute differences along each step, over all classes, by their (constant) costs: their sum or a map."""
    if reduction != "none":
        return _absolute_variation(probs, tuple(costs), steps)
    total = jnp.zeros(probs.shape[:3], probs.dtype)
    for cost, step in zip(costs, steps, strict=True):
        difference = _differences(probs, *step)
        # Not `abs`, whose gradient at 0 is 1.
        change = sum_last(difference * lax.stop_gradient(jnp.sign(difference)))
        here, there = _placed(0.5 * change * _ends(cost, *step)[0], *step)
        total += here + there
    return total


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _absolute_variation(probs: jax.Array, costs: tuple[jax.Array, ...], steps: Steps) -> jax.Array:
    changes = jnp.zeros_like(probs)
    for cost, step in zip(costs, steps, strict=True):
        changes += _placed(jnp.abs(_differences(probs, *step)), *step)[0] * cost[..., None]
    return jnp.sum(sum_last(changes))


@_absolute_variation.defjvp
def _absolute_variation_jvp(steps: Steps, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The gradient of a pixel is a sum of signs, computed in one pass: 3 to 5 times as fast as transposing."""
    probs, costs = primals
    height, width = probs.shape[1:3]

    def moved(array: jax.Array, dy: int, dx: int) -> jax.Array:
        return array[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    # Slices of one padded array: XLA on CPU runs them as one vectorised loop.
    around = jnp.pad(probs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    gradient = jnp.zeros_like(probs)
    for cost, (dy, dx) in zip(costs, steps, strict=True):
        before = moved(jnp.pad(cost, ((0, 0), (1, 1), (1, 1))), -dy, -dx)
        gradient += before[..., None] * jnp.sign(probs - moved(around, -dy, -dx))
        gradient -= cost[..., None] * jnp.sign(moved(around, dy, dx) - probs)
    return _absolute_variation(probs, costs, steps), jnp.sum(gradient * tangents[0])


def _isotropic_variation(probs: jax.Array, costs: Sequence[jax.Array]) -> jax.Array:
    """[B,H,W]: the length of each pixel's differences to the pixels below and beside it, by their costs."""
    squared = jnp.zeros(probs.shape[:3], probs.dtype)
    for cost, step in zip(costs, AXES, strict=True):
        change = sum_last(jnp.square(_differences(probs, *step)))
        squared += _placed(change * jnp.square(_ends(cost, *step)[0]), *step)[0]
    # The inner `where` keeps the gradient of the root at 0 from being infinite.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)


@functools.partial(jax.jit, static_argnames="reach")
def _curvilinear_costs(probs: jax.Array, weighed: jax.Array, sigma: jax.Array, reach: float) -> jax.Array:
    """[B,4,H,W]: what a difference along each of DIRECTIONS costs the pair that begins at each pixel."""
    coherence, tangent = _lines(probs, (weighed > 0).astype(probs.dtype), sigma, reach)
    costs = []
    for direction, step in enumerate(DIRECTIONS):
        turned = jnp.abs(tangent - direction * math.pi / 4)
        along = jnp.maximum(0.0, 1.0 - jnp.minimum(turned, math.pi - turned) / (math.pi / 4))
        here, there = _ends(coherence * along + (1.0 - coherence) * float(0 in step), *step)
        costs.append(_placed(here + there, *step)[0] * _pairs(weighed, *step))
    return _scaled(costs, [0.5 / math.hypot(*step) for step in DIRECTIONS])


def _lines(probs: jax.Array, valid: jax.Array, sigma: jax.Array, reach: float) -> tuple[jax.Array, jax.Array]:
    """How line-like each pixel is, from 0 to 1, and the angle of the line, from 0 to pi, [B,H,W] both."""
    smooth = _blur(probs, valid, sigma, math.ceil(2.5 * reach))
    # Central differences of pixels that count; 0 beside those that do not.
    smooth = jnp.pad(smooth, ((0, 0), (1, 1), (1, 1), (0, 0)))
    there = jnp.pad(valid, ((0, 0), (1, 1), (1, 1)))
    inside_y, inside_x = there[:, 2:, 1:-1] * there[:, :-2, 1:-1], there[:, 1:-1, 2:] * there[:, 1:-1, :-2]
    dy = 0.5 * (smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1])
    dx = 0.5 * (smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2])
    # The three sums over classes in one pass.
    zeros = (jnp.zeros((), probs.dtype),) * 3
    yy, xx, yx = lax.reduce((dy * dy, dx * dx, dy * dx), zeros, _add_each, (3,))
    tensor = (yy * inside_y, xx * inside_x, yx * inside_y * inside_x)
    yy, xx, yx = (_blur(part, valid, 2.0 * sigma, math.ceil(5.0 * reach)) for part in tensor)
    # Of the symmetric 2x2 tensor: trace = l1 + l2, and (l1 - l2)^2.
    trace, gap_squared = yy + xx, jnp.square(xx - yy) + 4.0 * jnp.square(yx)
    # The gradient's angle is half of this; the line runs at a right angle to it.
    tangent = 0.5 * jnp.arctan2(2.0 * yx, xx - yy) + 0.5 * math.pi
    coherence, tangent = jnp.unstack(_scaled([gap_squared / jnp.square(trace + 1e-6), tangent], [1.0, 1.0]), axis=1)
    return coherence, tangent


def _scaled(planes: Sequence[jax.Array], factors: Sequence[float]) -> jax.Array:
    """n [B,H,W] by a factor each -> [B,n,H,W], as a product: XLA keeps its result, and would compute what leads to the
    planes anew for each of their uses, of which there is one a class.
    """
    scale = jnp.diag(jnp.array(factors, planes[0].dtype))
    return jnp.einsum("ij,bjhw->bihw", scale, jnp.stack(planes, axis=1), precision="highest")


def _add_each(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _reach(name: str, sigma: float | jax.Array, max_sigma: float | None) -> float:
    """The largest sigma that the blurs have to reach for."""
    if max_sigma is None:
        known = concrete(sigma)
        if known is None:
            raise ValueError(f"{name}: sigma is traced, so that max_sigma must be given, the largest that it may be")
        return float(known) if np.shape(sigma) == () else math.inf
    if not 0 < max_sigma < math.inf:
        raise ValueError(f"{name}: max_sigma is {max_sigma} but must be a positive number")
    return float(max_sigma)


def _blur(values: jax.Array, valid: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Gaussian mean over the pixels that count. values [B,H,W] or [B,H,W,C]."""
    mass = jnp.maximum(_gaussian_sum(valid, sigma, radius), 1e-6)
    weights = (valid, mass) if values.ndim == 3 else (valid[..., None], mass[..., None])
    return _gaussian_sum(values * weights[0], sigma, radius) / weights[1]


def _gaussian_sum(values: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """The sum over the window around each pixel by a Gaussian of the distance: along columns, then along rows."""
    kernel = jnp.exp(-0.5 * jnp.square(jnp.arange(-radius, radius + 1, dtype=values.dtype) / sigma))
    for axis in (1, 2):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (radius, radius)
        # Stored before it is read at each shift: XLA on CPU would compute it anew for every one of them.
        padded = lax.optimization_barrier(jnp.pad(values, padding))
        length = values.shape[axis]
        shifts = (lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(2 * radius + 1))
        values = sum(weight * shifted for weight, shifted in zip(kernel, shifts, strict=True))
    return values


def _alike(
    name: str,
    image: jax.Array | None,
    contrast: float | jax.Array | None,
    weighed: jax.Array,
    pairs: Sequence[jax.Array],
) -> list[jax.Array]:
    """The weights of vertical and of horizontal pairs, by how alike the two pixels are in the image, in (0, 1]."""
    if image is None or contrast is None:
        raise ValueError(f"{name}: image and contrast go together")
    contrast = number(name, "contrast", contrast, lambda x: x > 0, "positive", weighed.dtype)
    check_shape(name, "image", image, (*weighed.shape, "C"))
    colors = jnp.where(weighed[..., None] > 0, jnp.asarray(image).astype(weighed.dtype), 0.0)
    costs = []
    for pair, step in zip(pairs, AXES, strict=True):
        change, _ = _placed(sum_last(jnp.square(_differences(colors, *step))), *step)
        costs.append(lax.stop_gradient(pair * jnp.exp(change / (-2.0 * jnp.square(contrast)))))
    return costs


def _ends(array: jax.Array, dy: int, dx: int) -> tuple[jax.Array, jax.Array]:
    """[B,H,W,...] -> its values at p and at p + (dy, dx), for every p where both are inside; dy is 0 or 1."""
    height, width = array.shape[1:3]
    left, right = max(0, -dx), max(0, dx)
    return array[:, : height - dy, left : width - right], array[:, dy:, left + dx : width - right + dx]


def _placed(pairs: jax.Array, dy: int, dx: int) -> tuple[jax.Array, jax.Array]:
    """Values of pairs [B,h,w,...] at p and at p + (dy, dx) of [B,H,W,...], and 0 where no pair begins or ends."""
    rest = [(0, 0)] * (pairs.ndim - 3)
    left, right = max(0, -dx), max(0, dx)
    here = jnp.pad(pairs, [(0, 0), (0, dy), (left, right), *rest])
    there = jnp.pad(pairs, [(0, 0), (dy, 0), (right, left), *rest])
    return here, there


def _differences(probs: jax.Array, dy: int, dx: int) -> jax.Array:
    here, there = _ends(probs, dy, dx)
    return there - here


def _count(weighed: jax.Array) -> jax.Array:
    """What all vertical and horizontal pairs weigh."""
    return jnp.sum(_pairs(weighed, 1, 0)) + jnp.sum(_pairs(weighed, 0, 1))


def _pairs(weighed: jax.Array, dy: int, dx: int) -> jax.Array:
    """[B,H,W]: what the pair that begins at each pixel weighs, the smaller of its pixels' weights; 0 without a pair."""
    return _placed(jnp.minimum(*_ends(weighed, dy, dx)), dy, dx)[0]
