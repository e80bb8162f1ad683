"""A classifier of whole images with class activation maps (Zhou et al., arXiv 1512.04150)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.backbones import backbone_of
from semiseg_jax.models.layers import check_image


class Classifier(nn.Module):
    """Standardised images [B,H,W,3] -> logits [B,K] float32, for softmax or for one sigmoid a class.

    Attributes:
      num_classes: K.
      backbone, output_stride, layout, norm, remat: see `make_backbone`.
      axis_name: mapped device axis.
      dtype: dtype of the computation; parameters and outputs are float32.
    """

    num_classes: int
    backbone: str = "resnet50"
    output_stride: int = 32
    layout: str = "torchvision"
    norm: str = "batch"
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        return self.outputs(image, train)["logits"]

    @nn.compact
    def outputs(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`logits` [B,K], and `cam` [B,h,w,K]: what each place adds to them; its mean plus the bias is the logits."""
        check_image("Classifier", image)
        mobile = self.backbone == "mobilenet_v2"
        stages = backbone_of(self, head=mobile)(image, train)
        features = stages["head" if mobile else "layer4"].astype(jnp.float32)
        init = nn.initializers.normal(0.01)
        dense = nn.Dense(self.num_classes, kernel_init=init, precision="highest", name="classifier")
        logits = dense(jnp.mean(features, axis=(1, 2)))
        kernel = dense.variables["params"]["kernel"]
        return {"logits": logits, "cam": jnp.einsum("bhwc,ck->bhwk", features, kernel, precision="highest")}
