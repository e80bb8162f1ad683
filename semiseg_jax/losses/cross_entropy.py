"""Cross-entropy over the pixels that carry a label, plain and focal."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.losses._inputs import (
    TWO_CLASSES,
    check_class_weights,
    labelled_pixels,
    number,
    pixel_weights,
)
from semiseg_jax.ops._checks import (
    check_classes,
    check_float,
    check_probs,
    check_reduction,
    check_shape,
    compute_dtype,
    concrete,
)
from semiseg_jax.ops.reduce import reduced, sum_last


def partial_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int = 255,
    label_smoothing: float | jax.Array = 0.0,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""Mean cross-entropy over labelled pixels; full masks, scribbles, clicks and soft targets alike.

    .. math::
      L = -\frac{\sum_p w_p \sum_c q_c(p) \log P_c(p)}{\sum_p w_p}, \qquad w_p = \text{weight of } p \cdot
      \text{weight of its class}

    q is 1 for the label y(p) and 0 for other classes, or the soft target. Pixels with `ignore_label` and pixels where
    `where` is false count neither in the sum nor in the mean, so a batch without any label gives exactly 0 with zero
    gradient. Under `jit`, where values cannot be checked, labels outside the classes do not count either.

    Args:
      logits: [B,H,W,K] raw scores, any floating dtype; computed in float32.
      labels: [B,H,W] integer class indices, or soft targets, [B,H,W,K] floating point: probabilities, or zeros for a
        pixel without a label. They are constants.
      ignore_label: the label of pixels without a label.
      label_smoothing: s, from 0 to 1; targets become (1 - s) q + s / K.
      class_weights: [K] weight of each class. A pixel weighs what its label does, or by a soft target the mean.
      where: [B,H,W] bool, pixels that may count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean"; "sum", not divided by the weights; "none", the [B,H,W] map that adds up to the sum.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import partial_cross_entropy
      >>> logits = jnp.zeros((1, 2, 2, 3))
      >>> labels = jnp.array([[[0, 2], [255, 255]]])
      >>> print(round(float(partial_cross_entropy(logits, labels)), 4))  # log 3
      1.0986
    """
    name = "partial_cross_entropy"
    check_reduction(name, reduction)
    if np.ndim(labels) == 4:
        logits, target, weighed = _soft_pixels(name, logits, labels, class_weights, where, weights)
        allowed = target > 0
    else:
        logits, labels, weighed = labelled_pixels(name, logits, labels, ignore_label, class_weights, where, weights)
        allowed = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        target = None
    log_probs = jax.nn.log_softmax(logits)
    # Selected rather than multiplied: a class ruled out by a logit of -inf would give inf * 0.
    picked = jnp.where(allowed, log_probs, 0.0)
    value = -jnp.sum(picked if target is None else picked * target, axis=-1)
    smoothing = number(name, "label_smoothing", label_smoothing, lambda s: 0 <= s <= 1, "in [0,1]", value.dtype)
    if concrete(label_smoothing) != 0:
        value = (1.0 - smoothing) * value - jnp.where(smoothing > 0, smoothing * jnp.mean(log_probs, axis=-1), 0.0)
    return reduced(value, weighed, reduction, axis_name)


def focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float | jax.Array = 2.0,
    ignore_label: int = 255,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy in which pixels that are already right count little, for classes that are rare.

    .. math::
      L = -\frac{1}{\sum_p w_p} \sum_p w_p\, (1 - P_{y(p)}(p))^\gamma \log P_{y(p)}(p)

    P is the softmax of the logits; the paper's balanced form for two classes has `class_weights=(1 - alpha, alpha)`.
    Pixels count as in `partial_cross_entropy`, which is what gamma 0 gives.

    Args:
      logits: [B,H,W,K] raw scores, any floating dtype; computed in float32.
      labels: [B,H,W] integer class indices.
      gamma: at least 0; the higher, the less sure pixels count. The paper's is 2.
      ignore_label: the label of pixels without a label.
      class_weights: [K] weight of each class.
      where: [B,H,W] bool, pixels that may count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean"; "sum", not divided by the weights; "none", the [B,H,W] map that adds up to the sum.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import focal_loss
      >>> logits, labels = jnp.zeros((1, 2, 2, 2)), jnp.ones((1, 2, 2), int)
      >>> print(round(float(focal_loss(logits, labels)), 4))  # (1 / 2)^2 * log 2
      0.1733

    References:
      Lin et al., Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
    """
    name = "focal_loss"
    check_reduction(name, reduction)
    logits, labels, weighed = labelled_pixels(name, logits, labels, ignore_label, class_weights, where, weights)
    gamma = number(name, "gamma", gamma, lambda x: 0 <= x < float("inf"), "at least 0", logits.dtype)
    labelled = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    # Finite, as a class may be ruled out by -inf.
    logits = jnp.maximum(logits, -1e30)
    own = sum_last(jnp.where(labelled, logits, 0.0))
    # By how much the other classes outweigh it: from P itself, 1 - P would be 0 where the network is very sure.
    rest = jax.nn.logsumexp(jnp.where(labelled, -1e30, logits), axis=-1) - own
    return reduced(jnp.exp(-gamma * jax.nn.softplus(-rest)) * jax.nn.softplus(rest), weighed, reduction, axis_name)


def _soft_pixels(
    name: str,
    logits: jax.Array,
    targets: jax.Array,
    class_weights: jax.Array | Sequence[float] | None,
    where: jax.Array | None,
    weights: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(logits, soft targets, weight of each pixel), checked: the first two are 0 wherever the weight is."""
    check_shape(name, "logits", logits, ("B", "H", "W", "K"))
    check_classes(name, "logits", logits, TWO_CLASSES)
    check_shape(name, "labels", targets, logits.shape)
    check_float(name, "logits", logits)
    check_float(name, "labels", targets)
    dtype = compute_dtype(logits)
    logits, targets = logits.astype(dtype), lax.stop_gradient(jnp.asarray(targets).astype(dtype))
    weighed = pixel_weights(name, logits.shape[:3], where, weights, dtype)
    targets = jnp.where(weighed[..., None] > 0, targets, 0.0)
    labelled = jnp.any(targets != 0, axis=-1)
    check_probs(name, "labels", targets, jnp.where(labelled, weighed, 0.0))
    if class_weights is not None:
        weighed *= targets @ check_class_weights(name, class_weights, logits.shape[-1], dtype)
    weighed = jnp.where(labelled, weighed, 0.0)
    counts = (weighed > 0)[..., None]
    return jnp.where(counts, logits, 0.0), jnp.where(counts, targets, 0.0), weighed
