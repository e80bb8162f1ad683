"""What every segmentation network returns."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.layers import Conv, resize

Outputs = dict[str, jax.Array]
# Keeps the label-uncertainty loss finite, which divides by functions of the variance.
MAX_VARIANCE, MIN_VARIANCE = 1e4, 1e-6


class Segmenter(nn.Module):
    """Base: standardised images [B,H,W,3] -> logits [B,H,W,K] float32.

    Networks define `outputs(image, train)`, a compact method that returns a dict: `logits` [B,H,W,K], `low_logits`
    [B,h,w,K] before upsampling and, where the network has a variance head, `variance` [B,H,W]; all float32.
    """

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        return self.outputs(image, train)["logits"]

    def outputs(self, image: jax.Array, train: bool = False) -> Outputs:
        raise NotImplementedError


def upsampled(low_logits: jax.Array, low_variance: jax.Array | None, image: jax.Array, align_corners: bool) -> Outputs:
    """The outputs at the size of the image. `low_variance` [B,h,w,1] is what the variance head gave, unbounded."""
    low_logits = low_logits.astype(jnp.float32)
    size = image.shape[1:3]
    found = {"logits": resize(low_logits, size, align_corners=align_corners), "low_logits": low_logits}
    if low_variance is not None:
        raw = resize(low_variance.astype(jnp.float32), size, align_corners=align_corners)[..., 0]
        found["variance"] = jnp.clip(jax.nn.softplus(raw) + MIN_VARIANCE, None, MAX_VARIANCE)
    return found


def head_conv(features: int, dtype: Any, name: str, size: int = 1, dilation: int = 1) -> Conv:
    """A last convolution: with bias, small initial weights."""
    init = nn.initializers.normal(0.01)
    return Conv(features, size, dilation=dilation, use_bias=True, dtype=dtype, kernel_init=init, name=name)
