"""A classifier of whole images with class activation maps (Zhou et al., arXiv 1512.04150)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.backbones import backbone_of
from semiseg_jax.models.layers import resize


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
        mobile = self.backbone == "mobilenet_v2"
        stages = backbone_of(self, head=mobile)(image, train)
        features = stages["head" if mobile else "layer4"].astype(jnp.float32)
        dense = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="classifier")
        logits = dense(jnp.mean(features, axis=(1, 2)))
        kernel = dense.variables["params"]["kernel"]
        return {"logits": logits, "cam": jnp.einsum("bhwc,ck->bhwk", features, kernel)}


def class_activation_maps(
    cam: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    tags: jax.Array,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
) -> jax.Array:
    """Where each class is seen, in [0,1] -> [B,H,W,K] at the size of the image.

        A_c = ReLU(mean over scales and mirroring of w_c . f) / maximum, or 0 where c is not present

    Args:
      cam: image [B,H,W,3] of any size -> `cam` of `Classifier.outputs`.
      image: standardised [B,H,W,3].
      tags: [B,K], 1 where the class is present.
      scales: sizes at which the image is looked at.
      flip: look at the mirrored image too.
    """
    size = image.shape[1:3]

    def at(view: jax.Array) -> jax.Array:
        return resize(cam(view).astype(jnp.float32), size)

    views = []
    for scale in scales:
        view = resize(image, [max(32, round(side * scale)) for side in size])
        views.append(at(view))
        if flip:
            views.append(at(view[:, :, ::-1])[:, :, ::-1])
    maps = jax.nn.relu(sum(views) / len(views))
    highest = jnp.max(maps, axis=(1, 2), keepdims=True)
    return jnp.where(tags[:, None, None, :] == 1, maps / jnp.maximum(highest, 1e-6), 0.0)
