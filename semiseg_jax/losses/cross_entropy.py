"""Cross-entropy over the pixels that carry a label."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from semiseg_jax.ops._checks import (
    check_channels_last,
    check_classes,
    check_float,
    check_integer,
    check_shape,
    compute_dtype,
)
from semiseg_jax.ops.reduce import masked_mean


def partial_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int = 255,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Mean cross-entropy over labelled pixels; full masks, scribbles and clicks alike.

    .. math::
      L = -\frac{1}{\max(1, \sum_p w_{y(p)})} \sum_{p\,:\,y(p) \ne \text{ignore}} w_{y(p)} \log P_{y(p)}(p)

    Pixels with `ignore_label` (or a label outside the classes) and pixels where `where` is false count
    neither in the sum nor in the mean, so a batch without any label gives exactly 0 with zero gradient.

    Args:
      logits: [B,H,W,K] raw scores, any floating dtype; computed in float32.
      labels: [B,H,W] integer class indices.
      ignore_label: the label of pixels without a label.
      class_weights: [K] weight of each class, best 1 or more; the mean is then the weighted mean.
      where: [B,H,W] bool, pixels that may count.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import partial_cross_entropy
      >>> logits = jnp.zeros((1, 2, 2, 3))
      >>> labels = jnp.array([[[0, 2], [255, 255]]])
      >>> print(round(float(partial_cross_entropy(logits, labels)), 4))  # log 3
      1.0986
    """
    name = "partial_cross_entropy"
    check_shape(name, "logits", logits, ("B", "H", "W", "K"))
    check_channels_last(name, "logits", logits, jnp.shape(labels))
    check_classes(name, "logits", logits, "jnp.concatenate([jnp.zeros_like(x), x], -1) for the logits x of a sigmoid")
    check_shape(name, "labels", labels, logits.shape[:3])
    check_float(name, "logits", logits)
    check_integer(name, "labels", labels)
    classes = logits.shape[-1]
    labels = labels.astype(jnp.int32)
    counts = (labels != ignore_label) & (labels >= 0) & (labels < classes)
    if where is not None:
        check_shape(name, "where", where, logits.shape[:3])
        counts &= where.astype(bool)
    target = jnp.where(counts, labels, 0)
    weights = counts.astype(jnp.float32)
    if class_weights is not None:
        class_weights = jnp.asarray(class_weights, jnp.float32)
        check_shape(name, "class_weights", class_weights, (classes,))
        weights *= class_weights[target]
    # Masked before the log-softmax: the gradient of an infinite logit would be NaN even under a zero weight.
    safe_logits = jnp.where(counts[..., None], logits.astype(compute_dtype(logits)), 0.0)
    log_probs = jax.nn.log_softmax(safe_logits)
    # Selected rather than multiplied: a class ruled out by a logit of -inf would give inf * 0.
    picked = jnp.sum(jnp.where(jax.nn.one_hot(target, classes, dtype=bool), log_probs, 0.0), axis=-1)
    return masked_mean(-picked, weights, axis_name)
