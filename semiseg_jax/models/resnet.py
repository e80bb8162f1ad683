"""ResNets that keep resolution by dilation, in two layouts."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.layers import Conv, Norm, check_image, check_option, max_pool, to_range

# Depth -> blocks of each layer, and whether they are bottlenecks.
DEPTHS: Mapping[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
# Output stride -> stride and dilation of layers 1 to 4. All 3x3 convolutions of a layer have its dilation.
STRIDES: Mapping[int, tuple[tuple[int, int], ...]] = {
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
}
# Layout -> the range of RGB values that its published weights expect.
LAYOUTS: Mapping[str, str] = {"torchvision": "standardized", "caffe": "bytes"}


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the features, around a shortcut."""

    features: int
    bottleneck: bool
    strides: int
    dilation: int
    stride_first: bool
    norm: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        convolutions = self._convolutions()
        y = x
        for index, (features, size, strides) in enumerate(convolutions, start=1):
            y = self._conv(features, size, strides, name=f"conv{index}")(y)
            y = self._norm(name=f"norm{index}", last=index == len(convolutions))(y, train)
            if index < len(convolutions):
                y = nn.relu(y)
        if x.shape[-1] != y.shape[-1] or self.strides > 1:
            x = self._conv(y.shape[-1], 1, self.strides, name="shortcut")(x)
            x = self._norm(name="shortcut_norm")(x, train)
        return nn.relu(x + y)

    def _convolutions(self) -> list[tuple[int, int, int]]:
        """Features, kernel size and stride of each."""
        if not self.bottleneck:
            return [(self.features, 3, self.strides), (self.features, 3, 1)]
        first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
        return [(self.features, 1, first), (self.features, 3, second), (4 * self.features, 1, 1)]

    def _conv(self, features: int, size: int, strides: int, name: str) -> Conv:
        dilation = self.dilation if size == 3 else 1
        return Conv(features, size, strides, dilation, use_bias=self.norm == "none", dtype=self.dtype, name=name)

    def _norm(self, name: str, last: bool = False) -> Norm:
        # A branch that learns its scale starts at zero: the fresh network is the shortcut alone.
        zero = last and self.norm in ("batch", "group")
        init = nn.initializers.zeros if zero else nn.initializers.ones
        return Norm(self.norm, self.axis_name, self.dtype, scale_init=init, name=name)


class ResNet(nn.Module):
    """ResNet-18, 34, 50 or 101; see `make_backbone` for the attributes.

    Layout "torchvision" has the stride of a bottleneck on its 3x3 convolution, "caffe" on the first 1x1 and a pooling
    that rounds sizes up.
    """

    depth: int
    output_stride: int = 32
    layout: str = "torchvision"
    norm: str = "batch"
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        check_image("ResNet", image)
        check_option("ResNet", "depth", self.depth, DEPTHS)
        check_option("ResNet", "output_stride", self.output_stride, STRIDES)
        check_option("ResNet", "layout", self.layout, LAYOUTS)
        blocks, bottleneck = DEPTHS[self.depth]
        caffe = self.layout == "caffe"
        x = to_range(image, LAYOUTS[self.layout]).astype(self.dtype)
        x = Conv(64, 7, 2, use_bias=self.norm == "none", dtype=self.dtype, name="conv1")(x)
        x = nn.relu(Norm(self.norm, self.axis_name, self.dtype, name="norm1")(x, train))
        stages = {"stem": x}
        x = max_pool(x, ceil=caffe)
        make: Callable[..., Block] = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for layer, (strides, dilation) in enumerate(STRIDES[self.output_stride], start=1):
            for index in range(blocks[layer - 1]):
                block = make(
                    features=64 * 2 ** (layer - 1),
                    bottleneck=bottleneck,
                    strides=1 if index else strides,
                    dilation=dilation,
                    stride_first=caffe,
                    norm=self.norm,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"layer{layer}_{index}",
                )
                x = block(x, train)
            stages[f"layer{layer}"] = x
        return stages
