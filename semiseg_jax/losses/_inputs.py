"""What losses check and prepare alike: the weight of each pixel, labels, probabilities, numbers among the options."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.ops._checks import (
    check_channels_last,
    check_classes,
    check_float,
    check_integer,
    check_mask,
    check_shape,
    check_weights,
    compute_dtype,
    concrete,
)

TWO_CLASSES = "jnp.concatenate([jnp.zeros_like(x), x], -1) for the logits x of a sigmoid"


def pixel_weights(
    name: str,
    shape: Sequence[int],
    where: jax.Array | None,
    weights: jax.Array | None,
    dtype: Any,
    prefix: str = "",
) -> jax.Array:
    """[B,H,W]: 0 where `where` is false, else the pixel's weight, 1 by default."""
    given = jnp.ones(shape, dtype)
    if weights is not None:
        given = check_weights(name, f"{prefix}weights", weights, shape).astype(dtype)
    if where is not None:
        given = jnp.where(check_mask(name, f"{prefix}where", where, shape), given, 0.0)
    return given


def labelled_pixels(
    name: str,
    logits: jax.Array,
    labels: jax.Array,
    ignore_label: int,
    class_weights: jax.Array | Sequence[float] | None,
    where: jax.Array | None,
    weights: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(logits, labels, weight of each pixel), checked: both are 0 wherever the weight is."""
    check_shape(name, "logits", logits, ("B", "H", "W", "K"))
    check_channels_last(name, "logits", logits, np.shape(labels))
    check_classes(name, "logits", logits, TWO_CLASSES)
    check_shape(name, "labels", labels, logits.shape[:3])
    check_float(name, "logits", logits)
    check_integer(name, "labels", labels)
    classes = logits.shape[-1]
    logits = logits.astype(compute_dtype(logits))
    weighed = pixel_weights(name, labels.shape, where, weights, logits.dtype)
    labels, labelled = known_labels(name, labels, classes, ignore_label, weighed)
    weighed = jnp.where(labelled, weighed, 0.0)
    if class_weights is not None:
        weighed *= check_class_weights(name, class_weights, classes, logits.dtype)[labels]
    counts = weighed > 0
    # Masked before any exponential: the gradient of an infinite logit would be NaN even under a zero weight.
    return jnp.where(counts[..., None], logits, 0.0), jnp.where(counts, labels, 0), weighed


def known_labels(
    name: str, labels: jax.Array, classes: int, ignore_label: int, weighed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(int32 labels, 0 where there is none; where there is one). Concrete labels that are neither raise."""
    values, counts = concrete(labels), concrete(weighed)
    if values is not None and counts is not None:
        outside = (values < 0) | (values >= classes)
        stray = values[outside & (values != ignore_label) & (counts > 0)]
        if stray.size:
            expected = f"classes, 0 to {classes - 1}, or ignore_label={ignore_label}"
            raise ValueError(f"{name}: labels has {stray[0]} but must have {expected}")
    labels = jnp.asarray(labels).astype(jnp.int32)
    labelled = (labels != ignore_label) & (labels >= 0) & (labels < classes)
    return jnp.where(labelled, labels, 0), labelled


def check_class_weights(name: str, weights: jax.Array | Sequence[float], classes: int, dtype: Any) -> jax.Array:
    given = jnp.asarray(weights)
    check_shape(name, "class_weights", given, (classes,))
    values = concrete(given)
    if values is not None and not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"{name}: class_weights is {values.tolist()} but must be finite and not negative")
    return given.astype(dtype)


def check_range(name: str, argument: str, array: jax.Array, weighed: jax.Array, high: float, expected: str) -> None:
    """Raises where a value that counts can be seen to be below 0 or above `high`."""
    values, counts = concrete(array), concrete(weighed)
    if values is None or counts is None:
        return
    used = values[counts > 0].astype(np.float32)
    outside = used[~((used >= 0) & (used <= high))]
    if outside.size:
        raise ValueError(f"{name}: {argument} has {outside[0]:.3g} but must be {expected}")


def number(name: str, argument: str, value: Any, fits: Callable[[float], bool], expected: str, dtype: Any) -> jax.Array:
    """An option that is one number as an array of that dtype, checked where its value can be seen."""
    known = concrete(value) if np.shape(value) == () else None
    if np.shape(value) != () or (known is not None and not fits(float(known))):
        raise ValueError(f"{name}: {argument} is {value} but must be {expected}")
    return jnp.asarray(value, dtype)
