"""On-device augmentation: `Example` -> `Batch`, jitted with the train step.

Image, mask, valid, boxes, points and strokes go through the same scale, crop and flip. Points and strokes are moved as
geometry and drawn after the crop, so a one-pixel label neither vanishes nor multiplies. Each row is keyed by its own
`seed`: any number of devices sees the same pixels.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp

from semiseg_jax.data.types import IGNORE, STROKE_PIECE, Batch, Example
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
        height, width = self.crop
        size = example["size"].astype(jnp.float32)
        scale = self._draw_scale(keys[0])
        where = jax.random.uniform(keys[1], (2,)) if self.random_crop else jnp.full((2,), 0.5)
        slack = size * scale - jnp.array([height, width], jnp.float32)
        # A whole offset at scale 1, so that a plain crop copies pixels. Negative: the image is smaller than the crop.
        shift = -jnp.round(where * slack)
        flip = jax.random.bernoulli(keys[2], self.flip)

        image = self._resample(example["image"], scale, shift)
        # Output pixels from `shift` to before `end` have their centre in the image.
        end = shift + jnp.maximum(jnp.ceil(size * scale - 0.5), 1)
        rows, row_inside = _source_pixels(height, scale, shift[0], end[0], size[0])
        columns, column_inside = _source_pixels(width, scale, shift[1], end[1], size[1])
        valid = row_inside[:, None] & column_inside[None, :]
        label = jnp.where(valid, example["mask"][rows][:, columns].astype(jnp.int32), IGNORE)
        drawn = _draw(jnp.full_like(label, IGNORE), example["points"], scale, shift, end)
        drawn = _draw(drawn, _stroke_samples(example["strokes"], self.scale[1]), scale, shift, end)
        label = jnp.where(drawn == IGNORE, label, drawn)  # over a mask that a program made

        boxes = example["boxes"] * scale + jnp.tile(shift, 2)
        mirrored = jnp.stack([boxes[:, 0], width - boxes[:, 3], boxes[:, 2], width - boxes[:, 1]], -1)
        boxes = jnp.clip(jnp.where(flip, mirrored, boxes), 0, jnp.array([height, width, height, width]))
        visible = jnp.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=-1)

        image, label, valid = (jnp.where(flip, array[:, ::-1], array) for array in (image, label, valid))
        image = self.recolor(jnp.clip(image, 0, 1), valid, keys[3:])
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

    def _draw_scale(self, key: jax.Array) -> jax.Array:
        low, high = self.scale[0], self.scale[1] + 1e-9
        if self.scale_draw == "uniform":
            return jax.random.uniform(key, minval=low, maxval=high)
        if self.scale_draw == "window":
            return 1 / jax.random.uniform(key, minval=1 / high, maxval=1 / low)
        return jnp.exp(jax.random.uniform(key, minval=math.log(low), maxval=math.log(high)))

    def _resample(self, canvas: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        """The crop [h,w,3] in [0,1]. Only the part of the canvas that the crop can see enters the matrix products."""
        margin = math.ceil(1 / self.scale[0]) + 1  # of the antialiasing filter, in source pixels
        seen = [
            min(side, math.ceil(crop / self.scale[0]) + 2 * margin)
            for side, crop in zip(canvas.shape[:2], self.crop, strict=True)
        ]
        start = jnp.floor(-shift / scale).astype(jnp.int32) - margin
        start = jnp.clip(start, 0, jnp.array(canvas.shape[:2]) - jnp.array(seen))
        window = jax.lax.dynamic_slice(canvas, (start[0], start[1], 0), (*seen, 3))
        return jax.image.scale_and_translate(
            images.to_unit(window),
            (*self.crop, 3),
            (0, 1),
            jnp.stack([scale, scale]),
            shift + start * scale,
            "linear",
        )

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


def _source_pixels(
    length: int, scale: jax.Array, shift: jax.Array, end: jax.Array, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """For every output index along one axis: the nearest source index, and whether it lies in the image."""
    at = jnp.arange(length)
    source = jnp.floor((at + 0.5 - shift) / scale)
    return jnp.clip(source, 0, size - 1).astype(jnp.int32), (at >= shift) & (at < end)


def _draw(label: jax.Array, points: jax.Array, scale: jax.Array, shift: jax.Array, end: jax.Array) -> jax.Array:
    """Writes points [P,3] of source pixels into the label map; where two meet, the lower class wins."""
    # A point on the last source pixel may land on an output pixel that is mostly padding: it moves to the one before.
    at = jnp.minimum(jnp.floor((points[:, :2] + 0.5) * scale + shift), end - 1).astype(jnp.int32)
    klass = points[:, 2].astype(jnp.int32)
    inside = jnp.all((at >= 0) & (at < jnp.array(label.shape)), axis=-1) & (klass >= 0)
    at = jnp.where(inside[:, None], at, jnp.array(label.shape))  # out of range: dropped
    return label.at[at[:, 0], at[:, 1]].min(klass, mode="drop")


def _stroke_samples(strokes: jax.Array, max_scale: float) -> jax.Array:
    """[S,5] -> points [S*T,3], close enough together that the drawn line has no gaps."""
    count = math.ceil(STROKE_PIECE * max(max_scale, 1.0)) + 2
    t = jnp.linspace(0.0, 1.0, count)[None, :, None]
    start, end, klass = strokes[:, None, 0:2], strokes[:, None, 2:4], strokes[:, None, 4:]
    samples = start + (end - start) * t
    return jnp.concatenate([samples, jnp.broadcast_to(klass, (*samples.shape[:2], 1))], -1).reshape(-1, 3)
