"""Networks in flax.linen. Every segmentation network maps standardised images [B,H,W,3] to logits [B,H,W,K]."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from semiseg_jax.models.unet import UNet

__all__ = ["MODELS", "UNet", "make_model"]

MODELS: Mapping[str, type[nn.Module]] = {"unet": UNet}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_model(
    name: str, num_classes: int, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """The network called `name`; `options` are its attributes."""
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
