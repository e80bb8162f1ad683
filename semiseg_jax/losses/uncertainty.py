"""Cross-entropy with a learned variance of the logits, for labels that may be wrong: pixels inside a box."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.losses._inputs import check_class_weights, check_range, known_labels, pixel_weights
from semiseg_jax.ops._checks import (
    check_channels_last,
    check_classes,
    check_float,
    check_integer,
    check_mask,
    check_reduction,
    check_shape,
    compute_dtype,
)
from semiseg_jax.ops.reduce import reduced


def uncertainty_cross_entropy(
    mean: jax.Array,
    variance: jax.Array,
    labels: jax.Array,
    *,
    candidates: jax.Array | None = None,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    ignore_label: int = 255,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy of the expected class probability when logits are Gaussian with a predicted variance.

    .. math::
      \kappa(p) = \frac{1}{\sqrt{1 + \pi v(p) / 8}}, \qquad
      P(p) = \sigma(\kappa \mu) \text{ or } \mathrm{softmax}(\kappa \mu), \qquad
      L = -\frac{1}{\sum_p w_p} \sum_p w_p \log \sum_{c \in C(p)} P_c(p)

    C(p) is the label, or the set of candidates; pixels that have neither do not count, and where none counts the loss
    is 0. The sigmoid form is MacKay's approximation of the expected sigmoid.
    Where the mean contradicts the label, descent raises the variance: the loss of such a pixel falls towards log 2
    (binary) and its pull on the mean fades. Variance 0 is plain cross-entropy: give 0 where labels are exact.

    Args:
      mean: logits: [B,H,W] for the binary form or [B,H,W,K], any floating dtype; computed in float32.
      variance: [B,H,W], at least 0, such as softplus or exp of a network output. Under `jit`, where values cannot be
        checked, a negative one counts as 0.
      labels: [B,H,W] integers: 0 and 1 in the binary form, else class indices.
      candidates: [B,H,W,K] bool (K = 2 in the binary form), the classes that a pixel may have. Where a pixel has any,
        they take the place of its label; where it has none, the label counts.
      class_weights: [K] weight of each class. A pixel has the weight of its label, of several candidates the highest.
      where: [B,H,W] bool, pixels that may count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      ignore_label: the label of pixels without a label.
      reduction: "mean"; "sum", not divided by the weights; "none", the [B,H,W] map that adds up to the sum.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import uncertainty_cross_entropy
      >>> wrong, labels = jnp.full((1, 1, 1), -5.0), jnp.ones((1, 1, 1), int)
      >>> for variance in (0.0, 1e4):
      ...     print(round(float(uncertainty_cross_entropy(wrong, jnp.full((1, 1, 1), variance), labels)), 3))
      5.007
      0.734

    References:
      Neven et al., Learning Label Uncertainty for Bounding Box Supervised Segmentation, 2021,
      https://arxiv.org/abs/2110.05926
    """
    name = "uncertainty_cross_entropy"
    check_reduction(name, reduction)
    mean, variance, allowed, weighed = _prepare(
        name, mean, variance, labels, candidates, class_weights, where, weights, ignore_label
    )
    # Shifted before it is scaled: a product and a difference in one instruction would leave scores above zero.
    mean -= lax.stop_gradient(jnp.max(mean, axis=-1, keepdims=True))
    scale = 1.0 / jnp.sqrt(1.0 + (jnp.pi / 8.0) * variance)
    scores = scale[..., None] * mean
    log_allowed = jax.nn.logsumexp(jnp.where(allowed, scores, -jnp.inf), axis=-1) - jax.nn.logsumexp(scores, axis=-1)
    # All classes allowed is certainty, which rounding may miss.
    loss = jnp.where(jnp.all(allowed, axis=-1), 0.0, -log_allowed)
    return reduced(loss, weighed, reduction, axis_name)


def _prepare(
    name: str,
    mean: jax.Array,
    variance: jax.Array,
    labels: jax.Array,
    candidates: jax.Array | None,
    class_weights: jax.Array | Sequence[float] | None,
    where: jax.Array | None,
    weights: jax.Array | None,
    ignore_label: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(mean [B,H,W,K], variance, allowed classes [B,H,W,K], weight of each pixel), safe where the weight is 0."""
    if np.ndim(mean) not in (3, 4):
        raise ValueError(f"{name}: mean is {list(np.shape(mean))} but must be [B,H,W] or [B,H,W,K]")
    check_float(name, "mean", mean)
    check_channels_last(name, "mean", mean, np.shape(labels))
    if mean.ndim == 4:
        check_classes(name, "mean", mean, "or [B,H,W] for the logits of a sigmoid")
    check_shape(name, "variance", variance, mean.shape[:3])
    check_float(name, "variance", variance)
    check_shape(name, "labels", labels, mean.shape[:3])
    check_integer(name, "labels", labels)
    mean = mean.astype(compute_dtype(mean))
    if mean.ndim == 3:
        mean = jnp.stack([jnp.zeros_like(mean), mean], axis=-1)
    classes = mean.shape[-1]
    weighed = pixel_weights(name, mean.shape[:3], where, weights, mean.dtype)
    by_label = weighed
    if candidates is not None:
        candidates = check_mask(name, "candidates", candidates, mean.shape)
        by_label = jnp.where(jnp.any(candidates, axis=-1), 0.0, weighed)
    labels, labelled = known_labels(name, labels, classes, ignore_label, by_label)
    allowed = jax.nn.one_hot(labels, classes, dtype=bool) & labelled[..., None]
    if candidates is not None:
        allowed = jnp.where(jnp.any(candidates, axis=-1, keepdims=True), candidates, allowed)
    if class_weights is not None:
        of_class = check_class_weights(name, class_weights, classes, mean.dtype)
        weighed *= jnp.max(jnp.where(allowed, of_class, 0.0), axis=-1)
    weighed = jnp.where(jnp.any(allowed, axis=-1), weighed, 0.0)
    counts = weighed > 0
    check_range(name, "variance", variance, counts, math.inf, "at least 0; apply jax.nn.softplus")
    # Masked before the exponentials: the gradient of an infinite value would be NaN even under a zero weight.
    # A class may be ruled out by -inf, which times the scale's zero gradient would be NaN as well.
    safe_mean = jnp.where(counts[..., None], jnp.maximum(mean, -1e30), 0.0)
    variance = variance.astype(mean.dtype)
    # Not `maximum`, which halves the gradient at 0.
    safe_variance = jnp.where(counts & ~(variance < 0), variance, 0.0)
    return safe_mean, safe_variance, allowed | ~counts[..., None], weighed
