"""Segmentation losses as pure functions.

Every loss takes NHWC arrays, computes in float32 and returns a scalar: a mean over the pixels that count, so that a
batch in which nothing counts gives exactly 0 and zero gradient. Losses against labels take logits; those of a
prediction alone (total variation, Gated CRF) take probabilities. What they share:

* `where` (bool) says which pixels may count, `weights` (floating point) how much: means are exact weighted means.
  What masked pixels hold does not matter, not even NaN.
* `reduction`: "mean", "sum", or "none" for the map that adds up to the sum.
* `axis_name` makes the mean exact over a mapped device axis: average the devices' gradients of parameters then
  (`pmean`) where the mapper does not sum them itself (`pmap`, `vmap`, `shard_map` without `check_vma`).
* Numbers among the options may be traced.
* Wrong ranks, shapes and dtypes raise an error that names the argument, and so do wrong values where they can be seen:
  outside of `jit`, `grad` and `vmap`.

This package imports jax and nothing heavier.
"""

from semiseg_jax.losses.adversarial import adversarial_loss, confident_self_training, discriminator_loss
from semiseg_jax.losses.crf import gated_crf
from semiseg_jax.losses.cross_entropy import focal_loss, partial_cross_entropy
from semiseg_jax.losses.regions import dice_loss, lovasz_softmax
from semiseg_jax.losses.uncertainty import uncertainty_cross_entropy
from semiseg_jax.losses.variation import curvilinear_total_variation, total_variation

__all__ = [
    "adversarial_loss",
    "confident_self_training",
    "curvilinear_total_variation",
    "dice_loss",
    "discriminator_loss",
    "focal_loss",
    "gated_crf",
    "lovasz_softmax",
    "partial_cross_entropy",
    "total_variation",
    "uncertainty_cross_entropy",
]
