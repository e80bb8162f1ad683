"""Cross-entropy with a learned variance of the logits, for labels that may be wrong: pixels inside a box."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.ops._checks import (
    check_channels_last,
    check_classes,
    check_float,
    check_integer,
    check_shape,
    compute_dtype,
)
from semiseg_jax.ops.reduce import masked_mean


def uncertainty_cross_entropy(
    mean: jax.Array,
    variance: jax.Array,
    labels: jax.Array,
    *,
    candidates: jax.Array | None = None,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    ignore_label: int = 255,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy of the expected class probability when logits are Gaussian with a predicted variance.

    .. math::
      \kappa(p) = \frac{1}{\sqrt{1 + \pi v(p) / 8}}, \qquad
      P(p) = \sigma(\kappa \mu) \text{ or } \mathrm{softmax}(\kappa \mu), \qquad
      L = -\frac{1}{\max(1, |S|)} \sum_{p \in S} \log \sum_{c \in C(p)} P_c(p)

    C(p) is the label, or the set of candidates. The sigmoid form is MacKay's approximation of the expected sigmoid.
    Where the mean contradicts the label, descent raises the variance: the loss of such a pixel falls towards log 2
    (binary) and its pull on the mean fades. Variance 0 is plain cross-entropy: give 0 where labels are exact.

    Args:
      mean: logits: [B,H,W] for the binary form or [B,H,W,K], any floating dtype; computed in float32.
      variance: [B,H,W], at least 0, such as softplus or exp of a network output.
      labels: [B,H,W] integers: 0 and 1 in the binary form, else class indices.
      candidates: [B,H,W,K] bool (K = 2 in the binary form), the classes that a pixel may have. Where a pixel has any,
        they take the place of its label; where it has none, the label counts.
      class_weights: [K] weight of each class, best 1 or more; the mean is then the weighted mean. A pixel has the
        weight of its label, of several candidates the highest.
      where: [B,H,W] bool, pixels that may count.
      ignore_label: the label of pixels without a label. Labels outside the classes do not count either.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

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
    if jnp.ndim(mean) not in (3, 4):
        raise ValueError(f"{name}: mean is {list(jnp.shape(mean))} but must be [B,H,W] or [B,H,W,K]")
    check_float(name, "mean", mean)
    check_channels_last(name, "mean", mean, jnp.shape(labels))
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
    labels = labels.astype(jnp.int32)
    labelled = (labels != ignore_label) & (labels >= 0) & (labels < classes)
    allowed = jax.nn.one_hot(labels, classes, dtype=bool) & labelled[..., None]
    if candidates is not None:
        check_shape(name, "candidates", candidates, mean.shape)
        candidates = candidates.astype(bool)
        allowed = jnp.where(jnp.any(candidates, axis=-1, keepdims=True), candidates, allowed)
    counts = jnp.any(allowed, axis=-1)
    weights = jnp.ones(counts.shape, jnp.float32)
    if class_weights is not None:
        class_weights = jnp.asarray(class_weights, jnp.float32)
        check_shape(name, "class_weights", class_weights, (classes,))
        weights = jnp.max(jnp.where(allowed, class_weights, 0.0), axis=-1)
    if where is not None:
        check_shape(name, "where", where, mean.shape[:3])
        counts &= where.astype(bool)
    # Masked before the exponentials: the gradient of an infinite value would be NaN even under a zero weight.
    # A class may be ruled out by -inf, which times the scale's zero gradient would be NaN as well.
    safe_mean = jnp.where(counts[..., None], jnp.maximum(mean, -1e30), 0.0)
    safe_variance = jnp.where(counts, variance.astype(mean.dtype), 0.0)
    # Shifted before it is scaled: a product and a difference in one instruction would leave scores above zero.
    safe_mean -= lax.stop_gradient(jnp.max(safe_mean, axis=-1, keepdims=True))
    scale = 1.0 / jnp.sqrt(1.0 + (jnp.pi / 8.0) * safe_variance)
    scores = scale[..., None] * safe_mean
    allowed |= ~counts[..., None]
    log_allowed = jax.nn.logsumexp(jnp.where(allowed, scores, -jnp.inf), axis=-1) - jax.nn.logsumexp(scores, axis=-1)
    # All classes allowed is certainty, which rounding may miss.
    loss = jnp.where(jnp.all(allowed, axis=-1), 0.0, -log_allowed)
    return masked_mean(loss, jnp.where(counts, weights, 0.0), axis_name)
