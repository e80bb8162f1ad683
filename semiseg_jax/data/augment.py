"""On-device augmentation: `Example` -> `Batch`, jitted with the train step.

Image, mask, valid, boxes, points and strokes go through one transform: scale, crop, rotation and flip. Points and
strokes are moved as geometry and drawn after the crop, so a one-pixel label neither vanishes nor multiplies. Each row
is keyed by its own `seed`: any number of devices sees the same pixels.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp

from semiseg_jax.data.geometry import Limits, Transform
from semiseg_jax.data.types import IGNORE, Batch, Example
from semiseg_jax.ops import images


@dataclasses.dataclass(frozen=True)
class Augment:
    """The options, all static; the probabilities at 0 and scale (1, 1) give a plain centred crop."""

    crop: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    scale_draw: str = "log"  # even in their logarithm, or "uniform", or "window": even in what a crop shows
    flip: float = 0.0
    rotate: float = 0.0  # degrees, drawn evenly up to this in either direction; turns about the middle of the crop
    jitter: float = 0.0  # probability of the colour jitter
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.05
    grayscale: float = 0.0  # probability of losing all colour
    blur: float = 0.0  # probability of the blur
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    random_crop: bool = True

    def __call__(self, examples: Example) -> Batch:
        return jax.vmap(self._row)(examples)

    def _row(self, example: Any) -> Any:
        keys = jax.random.split(jax.random.key(example["seed"]), 6)
        transform = self.draw_transform(example["size"].astype(jnp.float32), keys[:3])
        label, valid = transform.mask(example["mask"])
        drawn = transform.draw(example["points"], example["strokes"])
        label = jnp.where((drawn == IGNORE) | ~valid, label, drawn)  # over a mask that a program made
        image = self.recolor(jnp.clip(transform.image(example["image"]), 0, 1), valid, keys[3:])
        boxes = jnp.clip(transform.boxes(example["boxes"]), 0, jnp.array(2 * self.crop))
        visible = jnp.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=-1)
        return {
            "image": images.fill_padding(image, valid),
            "label": label,
            "valid": valid,
            "boxes": jnp.where(visible[:, None], boxes, 0.0),
            "box_class": jnp.where(visible, example["box_class"], -1),
            "tags": example["tags"],
            "kind": example["kind"],
            "id": example["id"],
            "seed": example["seed"],
        }

    def draw_transform(self, size: jax.Array, keys: jax.Array) -> Transform:
        """The transform of an image of `size` [2]; `keys` [3] of random numbers."""
        scale = self._draw_scale(keys[0])
        where = jax.random.uniform(keys[1], (2,)) if self.random_crop else jnp.full((2,), 0.5)
        slack = size * scale - jnp.array(self.crop, jnp.float32)
        rotate = math.radians(self.rotate)
        return Transform(
            limits=Limits(self.crop, self.scale, rotate),
            size=size,
            scale=scale,
            # Whole, so that a plain crop copies pixels at scale 1. Above 0 where the image is smaller than the crop.
            shift=-jnp.round(where * slack),
            flip=jax.random.bernoulli(keys[2], self.flip),
            angle=jax.random.uniform(jax.random.fold_in(keys[2], 1), minval=-rotate, maxval=rotate),
        )

    def _draw_scale(self, key: jax.Array) -> jax.Array:
        low, high = self.scale[0], self.scale[1] + 1e-9
        if self.scale_draw == "uniform":
            return jax.random.uniform(key, minval=low, maxval=high)
        if self.scale_draw == "window":
            return 1 / jax.random.uniform(key, minval=1 / high, maxval=1 / low)
        return jnp.exp(jax.random.uniform(key, minval=math.log(low), maxval=math.log(high)))

    def recolor(self, image: jax.Array, valid: jax.Array, keys: jax.Array) -> jax.Array:
        """Colour jitter, loss of colour and blur of one image [H,W,3]; `keys` [3] of random numbers."""
        if self.jitter:
            parts = jax.random.split(keys[0], 4)
            jittered = dm_pix.random_brightness(parts[0], image, self.brightness)
            jittered = dm_pix.random_contrast(parts[1], jittered, 1 - self.contrast, 1 + self.contrast)
            jittered = dm_pix.random_saturation(parts[2], jittered, 1 - self.saturation, 1 + self.saturation)
            if self.hue:
                jittered = dm_pix.random_hue(parts[3], jnp.clip(jittered, 0, 1), self.hue)
            image = jnp.where(jax.random.bernoulli(keys[1], self.jitter), jnp.clip(jittered, 0, 1), image)
        if self.grayscale:
            grey = jnp.broadcast_to(image @ jnp.array([0.299, 0.587, 0.114]), image.shape[::-1]).T
            image = jnp.where(jax.random.bernoulli(jax.random.fold_in(keys[1], 1), self.grayscale), grey, image)
        if self.blur:
            chance, strength = jax.random.split(keys[2])
            low, high = self.blur_sigma
            # The share of valid pixels is blurred along and divided out, so that padding does not bleed in.
            share = valid[..., None].astype(image.dtype)
            blurred = images.gaussian_blur(
                jnp.concatenate([image * share, share], -1), jax.random.uniform(strength, minval=low, maxval=high)
            )
            blurred = jnp.clip(blurred[..., :3] / jnp.maximum(blurred[..., 3:], 1e-6), 0, 1)
            image = jnp.where(jax.random.bernoulli(chance, self.blur), blurred, image)
        return image


@functools.cache
def on_canvas(canvas: tuple[int, int]) -> Callable[[Example], Batch]:
    """Rows as they are, each in the middle of the canvas; compiled once a shape."""
    return jax.jit(Augment(crop=canvas, random_crop=False))
