"""What every segmentation network returns."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.layers import Conv, resize

Outputs = dict[str, Any]  # arrays, and under `features` arrays by name
Perturb = tuple[int, jax.Array]  # the first of the rows to perturb, and a seed for each of them
# Keeps the label-uncertainty loss finite, which divides by functions of the variance.
MAX_VARIANCE, MIN_VARIANCE = 1e4, 1e-6


class Segmenter(nn.Module):
    """Base: standardised images [B,H,W,3] -> logits [B,H,W,K] float32.

    Networks define `outputs(image, train)`, a compact method that returns a dict: `logits` [B,H,W,K], `low_logits`
    [B,h,w,K] before upsampling and, where the network has a variance head, `variance` [B,H,W]; all float32. What
    the variance learns does not change the features that it reads. With `perturb`, rows are added in which half of
    the channels of the encoder's features were dropped.
    """

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        return self.outputs(image, train)["logits"]

    def outputs(self, image: jax.Array, train: bool = False, perturb: Perturb | None = None) -> Outputs:
        raise NotImplementedError


def perturbed(features: Sequence[jax.Array], perturb: Perturb | None) -> list[jax.Array]:
    """Adds the perturbed rows to each of the encoder's features [B,h,w,C]."""
    if perturb is None:
        return list(features)
    first, seeds = perturb

    def keep(seed: jax.Array, level: int, channels: int) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), level), 0.5, (channels,))

    more = []
    for level, x in enumerate(features):
        kept = jax.vmap(lambda seed, i=level, c=x.shape[-1]: keep(seed, i, c))(seeds)
        more.append(jnp.concatenate([x, 2 * x[first : first + len(seeds)] * kept[:, None, None].astype(x.dtype)]))
    return more


def upsampled(low_logits: jax.Array, low_variance: jax.Array | None, image: jax.Array, align_corners: bool) -> Outputs:
    """The outputs at the size of the image. `low_variance` [B,h,w,1] is what the variance head gave, unbounded."""
    low_logits = low_logits.astype(jnp.float32)
    size = image.shape[1:3]
    found = {"logits": resize(low_logits, size, align_corners=align_corners), "low_logits": low_logits}
    if low_variance is not None:
        raw = resize(low_variance.astype(jnp.float32), size, align_corners=align_corners)[..., 0]
        # An exponential reaches the large variances of wrong labels within the few hundred steps of a short run.
        variance = jnp.exp(jnp.clip(raw, math.log(MIN_VARIANCE), math.log(MAX_VARIANCE)))
        found["variance"] = jnp.minimum(variance, MAX_VARIANCE)
    return found


def head_conv(features: int, dtype: Any, name: str, size: int = 1, dilation: int = 1) -> Conv:
    """A last convolution: with bias, small initial weights, and products of full precision."""
    init = nn.initializers.normal(0.01)
    options = {"kernel_init": init, "precision": "highest", "dtype": dtype}
    return Conv(features, size, dilation=dilation, use_bias=True, name=name, **options)
