"""A compact U-Net for images of any size."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Norm(nn.Module):
    """Normalisation by name: `group` (of about 8 channels), `batch` (statistics over all devices) or `none`."""

    kind: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "group":
            groups = math.gcd(x.shape[-1], max(1, x.shape[-1] // 8))
            return nn.GroupNorm(num_groups=groups, dtype=self.dtype)(x)
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                dtype=self.dtype,
                axis_name=self.axis_name if train else None,
            )(x)
        if self.kind == "none":
            return x
        raise ValueError(f"unknown model.norm {self.kind!r}; known: group, batch, none")


class Block(nn.Module):
    """Two 3x3 convolutions, each with norm and ReLU."""

    features: int
    norm: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), use_bias=self.norm == "none", dtype=self.dtype)(x)
            x = nn.relu(Norm(self.norm, self.axis_name, self.dtype)(x, train))
        return x


class UNet(nn.Module):
    """Encoder and decoder with skips -> logits [B,H,W,K] float32. The first level runs at half resolution.

    Attributes:
      num_classes: K.
      widths: channels of each level; every further level halves the resolution.
      norm: "group", "batch" (synchronised over `axis_name` in training) or "none".
      axis_name: mapped device axis.
      dtype: dtype of the computation; parameters stay float32.
    """

    num_classes: int
    widths: Sequence[int] = (24, 48, 96, 128)
    norm: str = "group"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        height, width = image.shape[1:3]
        multiple = 2 ** len(self.widths)
        pad = [(0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)]
        x = jnp.pad(image.astype(self.dtype), pad)
        x = nn.Conv(self.widths[0], (4, 4), (2, 2), use_bias=False, dtype=self.dtype, name="stem")(x)
        x = nn.relu(Norm(self.norm, self.axis_name, self.dtype, name="stem_norm")(x, train))
        skips = []
        for level, features in enumerate(self.widths):
            if level:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = self._block(features, f"down{level}")(x, train)
            skips.append(x)
        for level in reversed(range(len(self.widths) - 1)):
            skip = skips[level]
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
            x = jnp.concatenate([skip, x], axis=-1)
            x = self._block(self.widths[level], f"up{level}")(x, train)
        logits = nn.Conv(self.num_classes, (1, 1), name="classifier")(x.astype(jnp.float32))
        logits = jax.image.resize(logits, (*image.shape[:1], *_doubled(logits), self.num_classes), "linear")
        return logits[:, :height, :width]

    def _block(self, features: int, name: str) -> Block:
        return Block(features, self.norm, self.axis_name, self.dtype, name=name)


def _doubled(x: jax.Array) -> tuple[int, int]:
    return 2 * x.shape[1], 2 * x.shape[2]
