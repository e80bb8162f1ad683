"""A discriminator that tells label maps from predictions, and what the segmentation network learns from it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from semiseg_jax.losses._inputs import check_class_weights, check_range, number, pixel_weights
from semiseg_jax.losses.cross_entropy import partial_cross_entropy
from semiseg_jax.ops._checks import (
    check_channels_last,
    check_float,
    check_reduction,
    check_shape,
    compute_dtype,
)
from semiseg_jax.ops.reduce import reduced


def discriminator_loss(
    real_logits: jax.Array,
    fake_logits: jax.Array,
    *,
    real_where: jax.Array | None = None,
    fake_where: jax.Array | None = None,
    real_weights: jax.Array | None = None,
    fake_weights: jax.Array | None = None,
    label_smoothing: float | jax.Array = 0.0,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Any:
    r"""Binary cross-entropy of a discriminator: 1 for label maps, 0 for predictions, half from each.

    .. math::
      L_D = \frac12 \Big( \frac{1}{\sum_p r_p} \sum_p r_p \mathrm{BCE}(D_p^{real}, 1 - s)
            + \frac{1}{\sum_p f_p} \sum_p f_p \mathrm{BCE}(D_p^{fake}, 0) \Big)

    with the weights r and f of pixels, 1 by default. A stream in which nothing counts adds 0.

    0.693 for a discriminator that knows nothing; healthy training stays at 0.2 to 0.5. Stop the gradient of the
    predictions before they enter the discriminator.

    Args:
      real_logits: [B,H,W] or [B,H,W,1] raw discriminator outputs on label maps; computed in float32.
      fake_logits: [B',H',W'] or [B',H',W',1] raw outputs on predictions.
      real_where: [B,H,W] bool, pixels of the label maps that count: not void, not padding.
      fake_where: [B',H',W'] bool, likewise for predictions.
      real_weights: [B,H,W] floating point, not negative, and constant; 0 is like `real_where` being false.
      fake_weights: [B',H',W'], likewise for predictions.
      label_smoothing: s, from 0 to below 1; real targets become 1 - s (one-sided).
      reduction: "mean"; "sum", not divided by the weights; "none", a pair of maps, [B,H,W] of label maps and [B',H',W']
        of predictions, which together add up to the sum.
      axis_name: mapped axis over which sums and counts are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the two maps.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import discriminator_loss
      >>> print(round(float(discriminator_loss(jnp.zeros((1, 8, 8)), jnp.zeros((3, 8, 8)))), 3))
      0.693

    References:
      Hung et al., Adversarial Learning for Semi-Supervised Semantic Segmentation, 2018,
      https://arxiv.org/abs/1802.07934
    """
    name = "discriminator_loss"
    check_reduction(name, reduction)
    real_logits, fake_logits = _map(name, "real_logits", real_logits), _map(name, "fake_logits", fake_logits)
    dtype = compute_dtype(real_logits)
    smoothing = number(name, "label_smoothing", label_smoothing, lambda s: 0 <= s < 1, "in [0,1)", dtype)
    real_weighed = pixel_weights(name, real_logits.shape, real_where, real_weights, dtype, prefix="real_")
    fake_weighed = pixel_weights(name, fake_logits.shape, fake_where, fake_weights, dtype, prefix="fake_")
    real = 0.5 * _bce(real_logits, 1.0 - smoothing, real_weighed, reduction, axis_name)
    fake = 0.5 * _bce(fake_logits, 0.0, fake_weighed, reduction, axis_name)
    return (real, fake) if reduction == "none" else real + fake


def adversarial_loss(
    fake_logits: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""What a prediction pays for being told from a label map.

    .. math::
      L_{adv} = -\frac{1}{\sum_p w_p} \sum_p w_p \log \sigma(D_p)

    Where nothing counts it is 0. The paper's weights are 0.01 on labelled and 0.001 on unlabelled images.

    Args:
      fake_logits: [B,H,W] or [B,H,W,1] raw discriminator outputs on predictions; computed in float32.
      where: [B,H,W] bool, pixels that count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean"; "sum", not divided by the weights; "none", the [B,H,W] map that adds up to the sum.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import adversarial_loss
      >>> print(round(float(adversarial_loss(jnp.zeros((1, 8, 8)))), 3))
      0.693

    References:
      Hung et al., https://arxiv.org/abs/1802.07934
    """
    name = "adversarial_loss"
    check_reduction(name, reduction)
    fake_logits = _map(name, "fake_logits", fake_logits)
    weighed = pixel_weights(name, fake_logits.shape, where, weights, compute_dtype(fake_logits))
    return _bce(fake_logits, 1.0, weighed, reduction, axis_name)


def confident_self_training(
    logits: jax.Array,
    confidence: jax.Array,
    *,
    threshold: float | jax.Array = 0.2,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy with the network's own argmax, where the discriminator takes the prediction for a label map.

    .. math::
      L_{semi} = -\frac{1}{\sum_{p \in S} w_p} \sum_{p \in S} w_p \log P_{\hat y(p)}(p), \qquad
      S = \{p : D(p) > T\}, \quad \hat y(p) = \arg\max_c P_c(p)

    Labels and kept pixels are constants; the gradient is that of cross-entropy over the kept pixels. The paper's weight
    is 0.1, after a quarter of the steps: earlier the discriminator knows too little.

    Args:
      logits: [B,H,W,K] raw scores of the segmentation network; computed in float32.
      confidence: [B,H,W] or [B,H,W,1] in [0,1]: the sigmoid of the discriminator's raw output.
      threshold: T; 0 keeps every pixel and 1 none.
      class_weights: [K] weight of each class; a pixel has that of its argmax.
      where: [B,H,W] bool, pixels that may count.
      weights: [B,H,W] floating point, not negative, and constant; 0 is like `where` being false.
      reduction: "mean"; "sum", not divided by the weights; "none", the [B,H,W] map that adds up to the sum.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar, or the map.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import confident_self_training
      >>> logits, confidence = jnp.zeros((1, 1, 2, 4)), jnp.array([[[0.1, 0.9]]])
      >>> print(round(float(confident_self_training(logits, confidence)), 3))  # log 4, of the second pixel alone
      1.386

    References:
      Hung et al., https://arxiv.org/abs/1802.07934
    """
    name = "confident_self_training"
    check_reduction(name, reduction)
    check_shape(name, "logits", logits, ("B", "H", "W", "K"))
    check_float(name, "logits", logits)
    confidence = _map(name, "confidence", confidence)
    check_channels_last(name, "logits", logits, confidence.shape)
    check_shape(name, "confidence", confidence, logits.shape[:3])
    dtype = compute_dtype(logits)
    threshold = number(name, "threshold", threshold, lambda t: not math.isnan(t), "a number", dtype)
    weighed = pixel_weights(name, logits.shape[:3], where, weights, dtype)
    check_range(name, "confidence", confidence, weighed, 1.0, "in [0,1]; apply jax.nn.sigmoid")
    kept = (confidence.astype(dtype) > threshold) | (threshold <= 0)
    if class_weights is not None:
        class_weights = check_class_weights(name, class_weights, logits.shape[-1], dtype)
    labels = jnp.argmax(lax.stop_gradient(logits), axis=-1)
    return partial_cross_entropy(
        logits,
        labels,
        ignore_label=-1,
        class_weights=class_weights,
        weights=jnp.where(kept, weighed, 0.0),
        reduction=reduction,
        axis_name=axis_name,
    )


def _bce(
    logits: jax.Array, target: jax.Array | float, weighed: jax.Array, reduction: str, axis_name: str | None
) -> jax.Array:
    # Finite, as the infinite logit of a sure discriminator would be multiplied by 0.
    logits = jnp.where(weighed > 0, jnp.clip(logits.astype(compute_dtype(logits)), -1e30, 1e30), 0.0)
    # softplus is -log(1 - sigmoid): stable at both ends.
    loss = target * jax.nn.softplus(-logits) + (1.0 - target) * jax.nn.softplus(logits)
    return reduced(loss, weighed, reduction, axis_name)


def _map(name: str, label: str, array: jax.Array) -> jax.Array:
    """[B,H,W,1] -> [B,H,W]."""
    if np.ndim(array) == 4:
        check_shape(name, label, array, ("B", "H", "W", 1))
        array = array[..., 0]
    check_shape(name, label, array, ("B", "H", "W"))
    check_float(name, label, array)
    return array
