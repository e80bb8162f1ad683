"""The discriminator of label maps (Hung et al., arXiv 1802.07934)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.layers import Conv, resize
from semiseg_jax.ops._checks import check_float, check_shape

OUTPUT_STRIDES = (8, 16, 32)


class Discriminator(nn.Module):
    """Class probabilities [B,H,W,K] -> logits [B,H,W] float32: positive where the map looks like a true label map.

    Five 4x4 convolutions with stride 2 and LeakyReLU between them, no norm; the map at stride 32 is upsampled with
    aligned corners. With 21 classes it has 2,783,169 parameters.

    Attributes:
      features: channels of the first convolution; each of the next three has twice as many.
      output_stride: pixels from one confidence to the next before upsampling: 32, as published, or 16 or 8, where the
        last one or two convolutions have stride 1. With 8, a crop of 128 has 14x14 confidences instead of 4x4, each of
        a window of 70 pixels instead of 94 (so Isola et al., arXiv 1611.07004, judge images).
      sees_image: look at the standardised image beside the map, and judge how well the two fit each other (as in
        Mittal et al., arXiv 1908.05724), not the map alone.
      class_agnostic: see only background against everything else, beside the image. For true maps that never show some
        of the classes, which would otherwise look false wherever they are predicted.
      dtype: dtype of the computation; parameters and outputs are float32.
    """

    features: int = 64
    output_stride: int = 32
    sees_image: bool = False
    class_agnostic: bool = False
    dtype: Any = jnp.float32

    def __call__(self, probs: jax.Array, image: jax.Array | None = None) -> jax.Array:
        """`probs` are softmax outputs or one-hot labels; `image` [B,H,W,3] is needed where it is seen."""
        low = self.low_logits(probs, image)
        return resize(low[..., None], probs.shape[1:3], align_corners=True)[..., 0]

    @nn.compact
    def low_logits(self, probs: jax.Array, image: jax.Array | None = None) -> jax.Array:
        """-> [B,h,w] float32 before upsampling."""
        check_shape("Discriminator", "probs", probs, ("B", "H", "W", "K"))
        check_float("Discriminator", "probs", probs)
        if min(probs.shape[1:3]) < 32:
            raise ValueError(f"Discriminator: probs is {probs.shape[1]}x{probs.shape[2]} but must be at least 32x32")
        if self.output_stride not in OUTPUT_STRIDES:
            raise ValueError(
                f"Discriminator: output_stride is {self.output_stride} but must be one of "
                f"{', '.join(map(str, OUTPUT_STRIDES))}"
            )
        x = probs.astype(self.dtype)
        if self.class_agnostic:
            x = jnp.stack([x[..., 0], jnp.sum(x[..., 1:], axis=-1)], axis=-1)
        if self.sees_image or self.class_agnostic:
            if image is None:
                raise ValueError(
                    "Discriminator: image is missing; with sees_image or class_agnostic it is seen beside the map"
                )
            check_shape("Discriminator", "image", image, (*probs.shape[:3], 3))
            check_float("Discriminator", "image", image)
            x = jnp.concatenate([x, image.astype(self.dtype)], axis=-1)
        strides = [2 if 2**layer <= self.output_stride else 1 for layer in range(1, 6)]
        for index, stride in enumerate(strides[:4]):
            x = Conv(self.features * 2**index, 4, stride, use_bias=True, dtype=self.dtype, name=f"conv{index + 1}")(x)
            x = nn.leaky_relu(x, 0.2)
        last = {"precision": "highest", "dtype": self.dtype, "name": "classifier"}
        x = Conv(1, 4, strides[4], use_bias=True, **last)(x)
        return x[..., 0].astype(jnp.float32)
