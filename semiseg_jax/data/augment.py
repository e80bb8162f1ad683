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
from semiseg_jax.options import OptionError, Options, option


@dataclasses.dataclass(frozen=True)
class Augment(Options):
    """From examples to a batch. All options are static: another value is another program."""

    crop: tuple[int, int] = option((96, 96), "height and width of what training sees", low=1)
    scale: tuple[float, float] = option(
        (0.75, 1.5), "smallest and largest size of the image, relative to its own", low=0
    )
    scale_draw: str = option(
        "log",
        "evenly in the logarithm, uniform, or window: evenly in what a crop shows",
        choices=("log", "uniform", "window"),
    )
    flip: float = option(0.5, "probability of the mirror image", low=0, high=1)
    rotate: float = option(0.0, "degrees to turn by at most, in either direction; 0 = never", low=0, high=180)
    jitter: float = option(0.8, "probability that colours change", low=0, high=1)
    brightness: float = option(0.25, "largest change", low=0, high=1)
    contrast: float = option(0.25, "largest change", low=0, high=1)
    saturation: float = option(0.25, "largest change", low=0, high=1)
    hue: float = option(0.0, "largest change, as a share of the circle", low=0, high=1)
    grayscale: float = option(0.0, "probability of losing all colour", low=0, high=1)
    blur: float = option(0.0, "probability of a blur", low=0, high=1)
    blur_sigma: tuple[float, float] = option((0.1, 2.0), "least and greatest width of the blur", low=0)
    random_crop: bool = option(True, "at any place; else in the middle")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "blur_sigma"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise OptionError(name, f"is {(least, most)} but must be two increasing positive numbers")

    @classmethod
    def plain(cls, crop: tuple[int, int], **changes: Any) -> "Augment":
        """A crop in the middle, nothing else."""
        nothing = {"scale": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "random_crop": False}
        return cls(**{"crop": crop, **nothing, **changes})

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
    return jax.jit(Augment.plain(canvas))
