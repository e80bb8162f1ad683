"""Networks in flax.linen.

Segmentation networks map standardised images [B,H,W,3] to logits [B,H,W,K]; their method `outputs` gives the logits at
low resolution and the variance too. The label transfer network of Xiao et al. (arXiv 1711.06828) is any of them with
two classes, the prediction transfer network any of them beside a class-agnostic `Discriminator`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from semiseg_jax.models import pretrained
from semiseg_jax.models.backbones import BACKBONES, make_backbone
from semiseg_jax.models.classifier import Classifier
from semiseg_jax.models.deeplab import DeepLabV2, DeepLabV3Plus
from semiseg_jax.models.discriminator import Discriminator
from semiseg_jax.models.summary import Summary, summary
from semiseg_jax.models.unet import UNet

__all__ = [
    "BACKBONES",
    "MODELS",
    "Classifier",
    "DeepLabV2",
    "DeepLabV3Plus",
    "Discriminator",
    "Summary",
    "UNet",
    "make_backbone",
    "make_model",
    "pretrained",
    "summary",
]

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "deeplab_mobile": functools.partial(
        DeepLabV3Plus, backbone="mobilenet_v2", separable=True, channels=128, rates=(2, 4, 6)
    ),
    "deeplab_v2": DeepLabV2,
    "deeplab_v3plus": DeepLabV3Plus,
    "unet": UNet,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_model(
    name: str, num_classes: int, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """The segmentation network called `name`; `options` are its attributes."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known models: {', '.join(sorted(MODELS))}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    model = MODELS[name]
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    known = sorted(set(inspect.signature(model).parameters) - {"parent", "name", "num_classes", "dtype", "axis_name"})
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"model {name!r} has no option {', '.join(unknown)}; its options: {', '.join(known)}")
    return model(num_classes=num_classes, dtype=DTYPES[dtype], axis_name=axis_name, **given)
