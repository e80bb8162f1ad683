"""Backbones by name, and what they share.

A backbone maps standardised images [B,H,W,3] to features by stage: `stem` at stride 2 and `layer1` ... `layer4` at the
nominal strides 4, 8, 16 and 32, of which those beyond the output stride keep its resolution by dilation.
"""

from typing import Any

import flax.linen as nn

from semiseg_jax.models.mobilenet import MobileNetV2
from semiseg_jax.models.resnet import DEPTHS, ResNet

BACKBONES = (*(f"resnet{depth}" for depth in DEPTHS), "mobilenet_v2")


def make_backbone(backbone: str, /, **attributes: Any) -> nn.Module:
    """The backbone called so; `attributes` are those of the module.

    output_stride: 8, 16 or 32.
    layout: where published weights put strides and padding, and the input range that they expect: "torchvision"; for
      ResNets also "caffe" (as DeepLab-v2), for MobileNetV2 also "tensorflow".
    norm: see `layers.Norm`.
    remat: recompute each block in the backward pass: less memory, about a third more time.
    axis_name: mapped device axis, over which "batch" norms are synchronised.
    dtype: dtype of the computation; parameters stay float32.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}; known: {', '.join(BACKBONES)}")
    if backbone.startswith("resnet"):
        return ResNet(depth=int(backbone.removeprefix("resnet")), **attributes)
    return MobileNetV2(**attributes)


def backbone_of(network: Any, *, head: bool = False) -> nn.Module:
    """The submodule `backbone` of a network that has the attributes of one; `head` adds MobileNetV2's last layer."""
    shared = ("output_stride", "layout", "norm", "remat", "axis_name", "dtype")
    attributes = {name: getattr(network, name) for name in shared}
    return make_backbone(network.backbone, **attributes, **({"head": True} if head else {}), name="backbone")
