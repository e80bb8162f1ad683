"""Total variation: predictions should be piecewise constant, everywhere or along lines only."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.ops._checks import check_float, check_shape, compute_dtype
from semiseg_jax.ops.pairwise import local_filter, without_explicit_axes
from semiseg_jax.ops.reduce import sum_last

# Half of the edges between 8-neighbours, (rows, columns), in the order of their angle: 0, 45, 90, 135 degrees.
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))


def total_variation(
    probs: jax.Array,
    *,
    norm: str = "l1",
    where: jax.Array | None = None,
    image: jax.Array | None = None,
    contrast: float | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Total variation of a probability map: how much neighbouring pixels differ.

    .. math::
      L_1 = \frac{1}{Z} \sum_{c,i,j} |P_{c,i+1,j} - P_{c,i,j}| + |P_{c,i,j+1} - P_{c,i,j}|, \qquad
      L_2 = \frac{1}{Z} \sum_{i,j} \sqrt{\sum_c (P_{c,i+1,j} - P_{c,i,j})^2 + (P_{c,i,j+1} - P_{c,i,j})^2}

    Z is the number of vertical pairs plus the number of horizontal pairs of counting pixels, at least 1; it is not
    multiplied by the classes. A one-hot map costs 2 (l1) or about 1.4 (l2) for each boundary pair. The gradient of
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
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

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
    probs, valid = _check(name, probs, where)
    down_pairs, right_pairs = _pairs(valid, 1, 0), _pairs(valid, 0, 1)
    down_alike, right_alike = _alike(name, image, contrast, valid)
    down, right = down_pairs * down_alike, right_pairs * right_alike
    if norm == "l1":
        total = _absolute_variation(probs, down, right)
    else:
        down_squared = sum_last(jnp.square(_differences(probs, 1, 0))) * jnp.square(down)
        right_squared = sum_last(jnp.square(_differences(probs, 0, 1))) * jnp.square(right)
        squared = jnp.pad(down_squared, ((0, 0), (0, 1), (0, 0))) + jnp.pad(right_squared, ((0, 0), (0, 0), (0, 1)))
        # The inner `where` keeps the gradient of the root at 0 from being infinite.
        total = jnp.sum(jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0))
    return _mean(total, jnp.sum(down_pairs) + jnp.sum(right_pairs), axis_name)


def curvilinear_total_variation(
    probs: jax.Array, *, where: jax.Array | None = None, sigma: float = 1.0, axis_name: str | None = None
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
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

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
    if not sigma > 0:
        raise ValueError(f"{name}: sigma is {sigma} but must be positive")
    probs, valid = _check(name, probs, where)
    weigh = without_explicit_axes(functools.partial(_direction_weights, sigma=float(sigma)), probs)
    weights = lax.stop_gradient(weigh(lax.stop_gradient(probs), valid))
    total = jnp.zeros((), probs.dtype)
    for direction, (dy, dx) in enumerate(DIRECTIONS):
        pair_weights = 0.5 * sum(_ends(weights[..., direction], dy, dx)) * _pairs(valid, dy, dx)
        difference = _differences(probs, dy, dx)
        # Not `abs`, whose gradient at 0 is 1.
        change = sum_last(difference * lax.stop_gradient(jnp.sign(difference))) / math.hypot(dy, dx)
        total += jnp.sum(change * pair_weights)
    return _mean(total, jnp.sum(_pairs(valid, 1, 0)) + jnp.sum(_pairs(valid, 0, 1)), axis_name)


@jax.custom_jvp
def _absolute_variation(probs: jax.Array, down: jax.Array, right: jax.Array) -> jax.Array:
    """Sum over pairs and classes of the absolute differences, by the (constant) weights of the pairs."""
    below = _edges(_differences(probs, 1, 0) * down[..., None], axis=1, side="after")
    beside = _edges(_differences(probs, 0, 1) * right[..., None], axis=2, side="after")
    return jnp.sum(sum_last(jnp.abs(below) + jnp.abs(beside)))


@_absolute_variation.defjvp
def _absolute_variation_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The gradient of a pixel is the sum of four signs, computed in one pass: 3 to 5 times as fast as transposing."""
    probs, down, right = primals
    gradient = jnp.zeros_like(probs)
    for axis, weights, (dy, dx) in ((1, down, (1, 0)), (2, right, (0, 1))):
        signs = jnp.sign(_differences(probs, dy, dx)) * weights[..., None]
        gradient += _edges(signs, axis=axis, side="before") - _edges(signs, axis=axis, side="after")
    return _absolute_variation(probs, down, right), jnp.sum(gradient * tangents[0])


def _edges(array: jax.Array, axis: int, side: str) -> jax.Array:
    """One more row or column of zeros."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (1, 0) if side == "before" else (0, 1)
    return jnp.pad(array, padding)


def _direction_weights(probs: jax.Array, valid: jax.Array, sigma: float) -> jax.Array:
    """[B,H,W,4]: what a difference along each of DIRECTIONS weighs at each pixel."""
    smooth = _blur(probs, valid, sigma)
    # Central differences of pixels that count; 0 beside those that do not.
    edges = jnp.pad(smooth, ((0, 0), (1, 1), (1, 1), (0, 0)))
    there = jnp.pad(valid, ((0, 0), (1, 1), (1, 1)))[..., None]
    dy = 0.5 * (edges[:, 2:, 1:-1] - edges[:, :-2, 1:-1]) * there[:, 2:, 1:-1] * there[:, :-2, 1:-1]
    dx = 0.5 * (edges[:, 1:-1, 2:] - edges[:, 1:-1, :-2]) * there[:, 1:-1, 2:] * there[:, 1:-1, :-2]
    products = jnp.stack([sum_last(product) for product in (dy * dy, dx * dx, dy * dx)], axis=-1)
    yy, xx, yx = jnp.unstack(_blur(products, valid, 2.0 * sigma), axis=-1)
    # Of the symmetric 2x2 tensor: trace = l1 + l2, and (l1 - l2)^2.
    trace, gap_squared = yy + xx, jnp.square(xx - yy) + 4.0 * jnp.square(yx)
    coherence = gap_squared / jnp.square(trace + 1e-6)
    # The gradient's angle is half of this; the line runs at a right angle to it.
    tangent = 0.5 * jnp.arctan2(2.0 * yx, xx - yy) + 0.5 * math.pi
    directions = jnp.arange(4, dtype=probs.dtype)[None, None, None] * (math.pi / 4)
    turned = jnp.mod(tangent[..., None] - directions + 0.5 * math.pi, math.pi) - 0.5 * math.pi
    along = jnp.maximum(0.0, 1.0 - jnp.abs(turned) / (math.pi / 4))
    axes = jnp.array([1.0, 0.0, 1.0, 0.0], probs.dtype)[None, None, None]
    return coherence[..., None] * along + (1.0 - coherence[..., None]) * axes


def _blur(values: jax.Array, valid: jax.Array, sigma: float) -> jax.Array:
    """Gaussian mean over the pixels that count. values [B,H,W,C]."""
    weighted = jnp.concatenate([values * valid[..., None], valid[..., None]], axis=-1)
    total = weighted + local_filter(weighted, None, radius=math.ceil(2.5 * sigma), xy_sigma=sigma)
    return total[..., :-1] / jnp.maximum(total[..., -1:], 1e-6)


def _check(name: str, probs: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_shape(name, "probs", probs, ("B", "H", "W", "K"))
    check_float(name, "probs", probs)
    probs = probs.astype(compute_dtype(probs))
    if where is None:
        return probs, jnp.ones(probs.shape[:3], probs.dtype)
    check_shape(name, "where", where, probs.shape[:3])
    valid = where.astype(bool)
    return jnp.where(valid[..., None], probs, 0.0), valid.astype(probs.dtype)


def _alike(
    name: str, image: jax.Array | None, contrast: float | None, valid: jax.Array
) -> tuple[jax.Array | float, jax.Array | float]:
    """How alike the two pixels of the vertical and of the horizontal pairs are in the image, in (0, 1]."""
    if (image is None) != (contrast is None):
        raise ValueError(f"{name}: image and contrast go together")
    if image is None or contrast is None:
        return 1.0, 1.0
    if not contrast > 0:
        raise ValueError(f"{name}: contrast is {contrast} but must be positive")
    check_shape(name, "image", image, (*valid.shape, "C"))
    colors = jnp.where(valid[..., None] > 0, lax.stop_gradient(image).astype(valid.dtype), 0.0)
    down, right = (sum_last(jnp.square(_differences(colors, dy, dx))) for dy, dx in ((1, 0), (0, 1)))
    return jnp.exp(down / (-2 * contrast**2)), jnp.exp(right / (-2 * contrast**2))


def _ends(array: jax.Array, dy: int, dx: int) -> tuple[jax.Array, jax.Array]:
    """[B,H,W,...] -> its values at p and at p + (dy, dx), for every p where both are inside; dy is 0 or 1."""
    height, width = array.shape[1:3]
    left, right = max(0, -dx), max(0, dx)
    return array[:, : height - dy, left : width - right], array[:, dy:, left + dx : width - right + dx]


def _differences(probs: jax.Array, dy: int, dx: int) -> jax.Array:
    here, there = _ends(probs, dy, dx)
    return there - here


def _pairs(valid: jax.Array, dy: int, dx: int) -> jax.Array:
    here, there = _ends(valid, dy, dx)
    return here * there


def _mean(total: jax.Array, count: jax.Array, axis_name: str | None) -> jax.Array:
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)
