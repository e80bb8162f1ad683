"""A compact U-Net for images of any size."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.layers import Conv, Norm, check_image
from semiseg_jax.models.segmenter import Outputs, Perturb, Segmenter, head_conv, perturbed, upsampled


class Block(nn.Module):
    """Two 3x3 convolutions, each with norm and ReLU."""

    features: int
    norm: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index in (1, 2):
            x = Conv(self.features, 3, use_bias=self.norm == "none", dtype=self.dtype, name=f"conv{index}")(x)
            x = nn.relu(Norm(self.norm, self.axis_name, self.dtype, name=f"norm{index}")(x, train))
        return x


class UNet(Segmenter):
    """Encoder and decoder with skips. The first level, and so `low_logits`, is at half resolution.

    Attributes:
      num_classes: K.
      widths: channels of each level; every further level halves the resolution.
      norm: see `layers.Norm`.
      remat: recompute each block in the backward pass: less memory, about a third more time.
      variance: with a variance head.
      axis_name: mapped device axis.
      dtype: dtype of the computation; parameters and outputs are float32.
    """

    num_classes: int
    widths: Sequence[int] = (24, 48, 96, 128)
    norm: str = "group"
    remat: bool = False
    variance: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def outputs(self, image: jax.Array, train: bool = False, perturb: Perturb | None = None) -> Outputs:
        check_image("UNet", image)
        height, width = image.shape[1:3]
        multiple = 2 ** len(self.widths)
        below, right = -height % multiple, -width % multiple
        fits = below == 0 and right == 0  # as every canvas does, whose exported program then has no padding
        padded = image if fits else jnp.pad(image, [(0, 0), (0, below), (0, right), (0, 0)])
        stem = Conv(self.widths[0], 4, 2, use_bias=self.norm == "none", dtype=self.dtype, name="stem")
        x = nn.relu(Norm(self.norm, self.axis_name, self.dtype, name="stem_norm")(stem(padded), train))
        make = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        def block(x: jax.Array, features: int, name: str) -> jax.Array:
            return make(features, self.norm, self.axis_name, self.dtype, name=name)(x, train)

        skips = []
        for level, features in enumerate(self.widths):
            if level:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = block(x, features, f"down{level}")
            skips.append(x)
        *skips, x = perturbed(skips, perturb)
        for level in reversed(range(len(self.widths) - 1)):
            skip = skips[level]
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
            x = block(jnp.concatenate([skip, x], axis=-1), self.widths[level], f"up{level}")
        logits = head_conv(self.num_classes, self.dtype, "classifier")(x)
        raw_variance = head_conv(1, self.dtype, "variance")(jax.lax.stop_gradient(x)) if self.variance else None
        found = upsampled(logits, raw_variance, padded, align_corners=False)
        low = found.pop("low_logits")[:, : -(-height // 2), : -(-width // 2)]
        return {name: value[:, :height, :width] for name, value in found.items()} | {"low_logits": low}
