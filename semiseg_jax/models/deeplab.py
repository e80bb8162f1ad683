"""DeepLab-v2 and DeepLab-v3+ on any backbone."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.backbones import backbone_of
from semiseg_jax.models.layers import Conv, Norm, check_image, check_option, resize
from semiseg_jax.models.segmenter import Outputs, Perturb, Segmenter, head_conv, perturbed, upsampled

RATES = (6, 12, 18, 24)


class DeepLabV2(Segmenter):
    """Dilated backbone and parallel dilated convolutions, summed (Chen et al., arXiv 1606.00915).

    The defaults are the network of the adversarial method (arXiv 1802.07934): 44,048,532 parameters with 21 classes.

    Attributes:
      num_classes: K.
      backbone, output_stride, layout, norm, remat: see `make_backbone`.
      aspp_branches: how many of the rates 6, 12, 18, 24 are used; the code behind published checkpoints sums only 2.
      align_corners: of the upsampling.
      variance: with a variance head.
      axis_name: mapped device axis.
      dtype: dtype of the computation; parameters and outputs are float32.
    """

    num_classes: int
    backbone: str = "resnet101"
    output_stride: int = 8
    layout: str = "caffe"
    norm: str = "affine_frozen"
    remat: bool = False
    aspp_branches: int = 4
    align_corners: bool = True
    variance: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def outputs(self, image: jax.Array, train: bool = False, perturb: Perturb | None = None) -> Outputs:
        check_image("DeepLabV2", image)
        check_option("DeepLabV2", "aspp_branches", self.aspp_branches, range(1, 5))
        (x,) = perturbed([backbone_of(self)(image, train)["layer4"]], perturb)
        logits, raw_variance = jnp.zeros(()), None
        for branch, rate in enumerate(RATES[: self.aspp_branches]):
            conv = head_conv(self.num_classes, self.dtype, f"aspp_{branch}", size=3, dilation=rate)
            logits = logits + conv(x).astype(jnp.float32)
        if self.variance:
            raw_variance = head_conv(1, self.dtype, "variance", size=3, dilation=RATES[0])(jax.lax.stop_gradient(x))
        return upsampled(logits, raw_variance, image, self.align_corners)


class DeepLabV3Plus(Segmenter):
    """Dilated backbone, pyramid of dilated convolutions, and a decoder at stride 4 (Chen et al., arXiv 1802.02611).

    The defaults are the network of the Gated CRF loss (arXiv 1906.04651); `low_logits` are those at stride 4.

    Attributes:
      num_classes: K.
      backbone, output_stride, layout, norm, remat: see `make_backbone`.
      rates: dilations of the pyramid at output stride 16. Rates beyond the features of a crop (a sixteenth of its size)
        learn nothing there, and disturb larger images.
      head_norm: norm of pyramid and decoder.
      channels: of pyramid and decoder.
      skip_channels: to which the features at stride 4 are reduced.
      separable: 3x3 convolutions of pyramid and decoder as depthwise and 1x1: far less work.
      variance: with a variance head.
      axis_name: mapped device axis.
      dtype: dtype of the computation; parameters and outputs are float32.
    """

    num_classes: int
    backbone: str = "resnet50"
    output_stride: int = 16
    layout: str = "torchvision"
    norm: str = "batch"
    rates: Sequence[int] = RATES[:3]
    head_norm: str = "batch"
    remat: bool = False
    channels: int = 256
    skip_channels: int = 48
    separable: bool = False
    variance: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def outputs(self, image: jax.Array, train: bool = False, perturb: Perturb | None = None) -> Outputs:
        check_image("DeepLabV3Plus", image)
        stages = backbone_of(self, head=self.backbone == "mobilenet_v2")(image, train)
        x, skip = perturbed([stages.get("head", stages["layer4"]), stages["layer1"]], perturb)
        rates = [rate * max(1, 16 // self.output_stride) for rate in self.rates]
        branches = [self._unit(x, train, "aspp_0", 1)]
        branches += [self._unit(x, train, f"aspp_{i}", 3, rate) for i, rate in enumerate(rates, start=1)]
        pooled = self._unit(jnp.mean(x, axis=(1, 2), keepdims=True), train, "aspp_pool", 1)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = self._unit(jnp.concatenate(branches, axis=-1), train, "aspp_fuse", 1)
        skip = self._unit(skip, train, "decoder_skip", 1, features=self.skip_channels)
        x = jnp.concatenate([resize(x, skip.shape[1:3]), skip], axis=-1)
        for index in (1, 2):
            x = self._unit(x, train, f"decoder_{index}", 3)
        logits = head_conv(self.num_classes, self.dtype, "classifier")(x)
        raw_variance = head_conv(1, self.dtype, "variance")(jax.lax.stop_gradient(x)) if self.variance else None
        return upsampled(logits, raw_variance, image, align_corners=False)

    def _unit(
        self, x: jax.Array, train: bool, name: str, size: int, dilation: int = 1, features: int | None = None
    ) -> jax.Array:
        """Convolution, norm, ReLU."""
        options = {"dilation": dilation, "dtype": self.dtype}
        if self.separable and size > 1:
            x = Conv(x.shape[-1], size, depthwise=True, name=f"{name}_depthwise", **options)(x)
            size, options = 1, {"dtype": self.dtype}
        bias = self.head_norm == "none"
        x = Conv(features or self.channels, size, use_bias=bias, name=name, **options)(x)
        return nn.relu(Norm(self.head_norm, self.axis_name, self.dtype, name=f"{name}_norm")(x, train))
