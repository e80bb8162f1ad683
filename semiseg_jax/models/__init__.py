"""Networks in flax.linen.

Segmentation networks map standardised images [B,H,W,3] to logits [B,H,W,K]; their method `outputs` gives the logits at
low resolution and the variance too. The label transfer network of Xiao et al. (arXiv 1711.06828) is any of them with
two classes, the prediction transfer network any of them beside a class-agnostic `Discriminator`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from semiseg_jax.models import pretrained
from semiseg_jax.models.backbones import BACKBONES, make_backbone
from semiseg_jax.models.classifier import Classifier
from semiseg_jax.models.deeplab import DeepLabV2, DeepLabV3Plus
from semiseg_jax.models.discriminator import Discriminator
from semiseg_jax.models.features import feature_shapes
from semiseg_jax.models.segmenter import Segmenter
from semiseg_jax.models.summary import Summary, operations, summary
from semiseg_jax.models.unet import UNet
from semiseg_jax.registry import find

__all__ = [
    "BACKBONES",
    "MODELS",
    "Classifier",
    "DeepLabV2",
    "DeepLabV3Plus",
    "Discriminator",
    "Segmenter",
    "Summary",
    "UNet",
    "feature_shapes",
    "make_backbone",
    "make_model",
    "operations",
    "pretrained",
    "summary",
]

MODELS: Mapping[str, Callable[..., Segmenter]] = {
    "deeplab_mobile": functools.partial(
        DeepLabV3Plus, backbone="mobilenet_v2", separable=True, channels=128, rates=(2, 4, 6)
    ),
    "deeplab_v2": DeepLabV2,
    "deeplab_v3plus": DeepLabV3Plus,
    "unet": UNet,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
GIVEN = ("num_classes", "dtype", "axis_name")  # to every network; its other attributes are options


def make_model(
    name: str, num_classes: int, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> Segmenter:
    """The segmentation network called `name`, one of ours or "package.module:Class"; `options` are its attributes."""
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    model = find(name, MODELS, "models")
    kind = getattr(model, "func", model)  # of a partial
    if not (isinstance(kind, type) and issubclass(kind, Segmenter)):
        raise ValueError(f"model {name!r} must be a class that derives from semiseg_jax.models.Segmenter")
    attributes = set(inspect.signature(model).parameters) - {"parent", "name"}
    missing = [given for given in GIVEN if given not in attributes]
    if missing:
        raise ValueError(f"model {name!r} must have the attributes {', '.join(GIVEN)}; it lacks {', '.join(missing)}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    known = sorted(attributes - set(GIVEN))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"model {name!r} has no option {', '.join(unknown)}; its options: {', '.join(known)}")
    made: Segmenter = model(num_classes=num_classes, dtype=DTYPES[dtype], axis_name=axis_name, **given)
    return made
