"""A discriminator that tells label maps from predictions, and what the segmentation network learns from it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.losses.cross_entropy import partial_cross_entropy
from semiseg_jax.ops._checks import check_float, check_shape, compute_dtype
from semiseg_jax.ops.reduce import masked_mean


def discriminator_loss(
    real_logits: jax.Array,
    fake_logits: jax.Array,
    *,
    real_where: jax.Array | None = None,
    fake_where: jax.Array | None = None,
    label_smoothing: float = 0.0,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Binary cross-entropy of a discriminator: 1 for label maps, 0 for predictions, half from each.

    .. math::
      L_D = \frac12 \Big( \frac{1}{|R|} \sum_{p \in R} \mathrm{BCE}(D_p^{real}, 1 - s)
            + \frac{1}{|F|} \sum_{p \in F} \mathrm{BCE}(D_p^{fake}, 0) \Big)

    0.693 for a discriminator that knows nothing; healthy training stays at 0.2 to 0.5. Stop the gradient of the
    predictions before they enter the discriminator.

    Args:
      real_logits: [B,H,W] or [B,H,W,1] raw discriminator outputs on label maps; computed in float32.
      fake_logits: [B',H',W'] or [B',H',W',1] raw outputs on predictions.
      real_where: [B,H,W] bool, pixels of the label maps that count: not void, not padding.
      fake_where: [B',H',W'] bool, likewise for predictions.
      label_smoothing: s; real targets become 1 - s (one-sided).
      axis_name: mapped axis over which sums and counts are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

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
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"{name}: label_smoothing is {label_smoothing} but must be in [0,1)")
    real = _bce(name, "real", real_logits, 1.0 - label_smoothing, real_where, axis_name)
    fake = _bce(name, "fake", fake_logits, 0.0, fake_where, axis_name)
    return 0.5 * (real + fake)


def adversarial_loss(
    fake_logits: jax.Array, *, where: jax.Array | None = None, axis_name: str | None = None
) -> jax.Array:
    r"""What a prediction pays for being told from a label map.

    .. math::
      L_{adv} = -\frac{1}{\max(1, |S|)} \sum_{p \in S} \log \sigma(D_p)

    The paper's weights are 0.01 on labelled and 0.001 on unlabelled images.

    Args:
      fake_logits: [B,H,W] or [B,H,W,1] raw discriminator outputs on predictions; computed in float32.
      where: [B,H,W] bool, pixels that count.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.losses import adversarial_loss
      >>> print(round(float(adversarial_loss(jnp.zeros((1, 8, 8)))), 3))
      0.693

    References:
      Hung et al., https://arxiv.org/abs/1802.07934
    """
    return _bce("adversarial_loss", "fake", fake_logits, 1.0, where, axis_name, where_name="where")


def confident_self_training(
    logits: jax.Array,
    confidence: jax.Array,
    *,
    threshold: float = 0.2,
    class_weights: jax.Array | Sequence[float] | None = None,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Cross-entropy with the network's own argmax, where the discriminator takes the prediction for a label map.

    .. math::
      L_{semi} = -\frac{1}{\max(1, |S|)} \sum_{p \in S} \log P_{\hat y(p)}(p), \qquad
      S = \{p : D(p) > T\}, \quad \hat y(p) = \arg\max_c P_c(p)

    Labels and kept pixels are constants; the gradient is that of cross-entropy over the kept pixels. The paper's weight
    is 0.1, after a quarter of the steps: earlier the discriminator knows too little.

    Args:
      logits: [B,H,W,K] raw scores of the segmentation network; computed in float32.
      confidence: [B,H,W] or [B,H,W,1] in [0,1]: the sigmoid of the discriminator's raw output.
      threshold: T; 0 keeps every pixel and 1 none.
      class_weights: [K] weight of each class, best 1 or more; the mean is then the weighted mean.
      where: [B,H,W] bool, pixels that may count.
      axis_name: mapped axis over which sum and count are added, so that the loss is that of the global batch.

    Returns:
      A float32 scalar.

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
    check_shape(name, "logits", logits, ("B", "H", "W", "K"))
    check_float(name, "logits", logits)
    confidence = _map(name, "confidence", confidence)
    check_shape(name, "confidence", confidence, logits.shape[:3])
    kept = (confidence > threshold) | (jnp.asarray(threshold) <= 0)
    if where is not None:
        check_shape(name, "where", where, logits.shape[:3])
        kept &= where.astype(bool)
    if class_weights is not None:
        check_shape(name, "class_weights", jnp.asarray(class_weights), (logits.shape[-1],))
    labels = jnp.argmax(lax.stop_gradient(logits), axis=-1)
    return partial_cross_entropy(
        logits, labels, ignore_label=-1, class_weights=class_weights, where=kept, axis_name=axis_name
    )


def _bce(
    name: str,
    kind: str,
    logits: jax.Array,
    target: float,
    where: jax.Array | None,
    axis_name: str | None,
    where_name: str = "",
) -> jax.Array:
    logits = _map(name, f"{kind}_logits", logits)
    counts = jnp.ones(logits.shape, bool)
    if where is not None:
        check_shape(name, where_name or f"{kind}_where", where, logits.shape)
        counts = where.astype(bool)
    # Finite, as the infinite logit of a sure discriminator would be multiplied by 0.
    logits = jnp.where(counts, jnp.clip(logits.astype(compute_dtype(logits)), -1e30, 1e30), 0.0)
    # softplus is -log(1 - sigmoid): stable at both ends.
    loss = target * jax.nn.softplus(-logits) + (1.0 - target) * jax.nn.softplus(logits)
    return masked_mean(loss, counts, axis_name)


def _map(name: str, label: str, array: jax.Array) -> jax.Array:
    """[B,H,W,1] -> [B,H,W]."""
    if jnp.ndim(array) == 4:
        check_shape(name, label, array, ("B", "H", "W", 1))
        array = array[..., 0]
    check_shape(name, label, array, ("B", "H", "W"))
    check_float(name, label, array)
    return array
