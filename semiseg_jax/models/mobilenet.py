"""MobileNetV2 that keeps resolution by dilation, in two layouts."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.layers import Conv, Norm, check_image, check_option, to_range

# Expansion, channels, number of blocks and stride of each group.
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# The last block of each stage.
STAGES: Mapping[int, str] = {1: "stem", 3: "layer1", 6: "layer2", 13: "layer3", 17: "layer4"}
# Layout -> padding, and the range of RGB values that its published weights expect.
LAYOUTS: Mapping[str, tuple[str, str]] = {
    "torchvision": ("symmetric", "standardized"),
    "tensorflow": ("same", "signed"),
}


class Block(nn.Module):
    """Expansion by 1x1, 3x3 depthwise, projection by 1x1; added to the input where shapes allow."""

    expansion: int
    features: int
    strides: int
    dilation: int
    padding: str
    norm: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x
        hidden = x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = nn.relu6(self._conv_norm(y, train, "expand", hidden))
        depthwise = {"kernel_size": 3, "strides": self.strides, "dilation": self.dilation, "depthwise": True}
        y = nn.relu6(self._conv_norm(y, train, "depthwise", hidden, **depthwise))
        y = self._conv_norm(y, train, "project", self.features)
        return x + y if self.strides == 1 and x.shape[-1] == self.features else y

    def _conv_norm(self, x: jax.Array, train: bool, name: str, features: int, **options: Any) -> jax.Array:
        bias = self.norm == "none"
        x = Conv(features, padding=self.padding, use_bias=bias, dtype=self.dtype, name=name, **options)(x)
        return Norm(self.norm, self.axis_name, self.dtype, name=f"{name}_norm")(x, train)


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0; see `make_backbone` for the attributes.

    Layout "torchvision" pads symmetrically, "tensorflow" as TensorFlow's "SAME" does. With `head`, the stage `head` of
    1280 channels, before the classifier, is computed too.
    """

    output_stride: int = 32
    layout: str = "torchvision"
    norm: str = "batch"
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    head: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        check_image("MobileNetV2", image)
        check_option("MobileNetV2", "output_stride", self.output_stride, (8, 16, 32))
        check_option("MobileNetV2", "layout", self.layout, LAYOUTS)
        padding, value_range = LAYOUTS[self.layout]
        bias, shared = self.norm == "none", {"norm": self.norm, "axis_name": self.axis_name, "dtype": self.dtype}
        x = to_range(image, value_range).astype(self.dtype)
        x = Conv(32, 3, 2, padding=padding, use_bias=bias, dtype=self.dtype, name="stem")(x)
        x = nn.relu6(Norm(self.norm, self.axis_name, self.dtype, name="stem_norm")(x, train))
        make: Callable[..., Block] = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        stages: dict[str, jax.Array] = {}
        stride, dilation, number = 2, 1, 0
        for expansion, features, count, group_stride in GROUPS:
            for index in range(count):
                number += 1
                wanted = group_stride if index == 0 else 1
                strides = wanted if stride * wanted <= self.output_stride else 1
                name = f"block_{number:02d}"
                x = make(expansion, features, strides, dilation, padding, **shared, name=name)(x, train)
                # The block that lost its stride still sees its input as trained; those after it see every other pixel.
                stride, dilation = stride * strides, dilation * (wanted // strides)
                if number in STAGES:
                    stages[STAGES[number]] = x
        if self.head:
            x = Conv(1280, padding=padding, use_bias=bias, dtype=self.dtype, name="head")(x)
            stages["head"] = nn.relu6(Norm(self.norm, self.axis_name, self.dtype, name="head_norm")(x, train))
        return stages
