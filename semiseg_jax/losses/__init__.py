"""Segmentation losses as pure functions.

Every loss takes NHWC arrays, computes in float32 and returns a scalar: a mean over the pixels that count,
with the denominator floored at 1, so that a batch in which nothing counts gives exactly 0 and zero gradient.
`axis_name` makes the mean exact over a mapped device axis: average the devices' gradients of parameters then (`pmean`)
where the mapper does not sum them itself (`pmap`, `vmap`, `shard_map` without `check_vma`). Wrong ranks, shapes and
dtypes raise an error that names the argument. This package imports jax and nothing heavier.
"""

from semiseg_jax.losses.adversarial import adversarial_loss, confident_self_training, discriminator_loss
from semiseg_jax.losses.crf import gated_crf
from semiseg_jax.losses.cross_entropy import partial_cross_entropy
from semiseg_jax.losses.uncertainty import uncertainty_cross_entropy
from semiseg_jax.losses.variation import curvilinear_total_variation, total_variation

__all__ = [
    "adversarial_loss",
    "confident_self_training",
    "curvilinear_total_variation",
    "discriminator_loss",
    "gated_crf",
    "partial_cross_entropy",
    "total_variation",
    "uncertainty_cross_entropy",
]
