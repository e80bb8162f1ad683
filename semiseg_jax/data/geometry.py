"""Where the pixels, points and boxes of an image come to lie in its crop: one transform for all of them.

Places are y, x in pixels, from the top left edge of the image or of the crop: pixel i covers i to i + 1. An image is
scaled, shifted, turned about the middle of the crop and mirrored, in this order. Points and boxes are carried forward;
image and mask are looked up backward, from each pixel of the crop.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from semiseg_jax.data.types import IGNORE, STROKE_PIECE
from semiseg_jax.ops import images
from semiseg_jax.ops.convolution import for_cpu


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is known of the transforms of all rows when a program is compiled."""

    crop: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)  # the least and the largest
    angle: float = 0.0  # the largest, in radians; 0 = nothing is turned, which costs less

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels around the crop, above and beside it, that turning may bring into it."""
        if not self.angle:
            return 0, 0
        height, width = self.crop
        sides = [self._turned_side(height, width), self._turned_side(width, height)]
        # One pixel more than is seen, for interpolation.
        margins = [math.ceil((turned - side) / 2) + 1 for turned, side in zip(sides, self.crop, strict=True)]
        return margins[0], margins[1]

    def _turned_side(self, side: int, other: int) -> float:
        angle = min(self.angle, math.atan2(other, side))  # at which a turned rectangle is largest
        return side * math.cos(angle) + other * math.sin(angle)


@dataclasses.dataclass(frozen=True)
class Transform:
    """The transform of one row. Sizes, shifts and places are [2], all other values scalars; all are traced."""

    limits: Limits
    size: jax.Array  # of the image
    scale: jax.Array
    shift: jax.Array  # whole pixels
    flip: jax.Array  # bool
    angle: jax.Array  # radians, counter-clockwise; unused where limits.angle is 0

    @property
    def end(self) -> jax.Array:
        """Before turning, pixels from `shift` to before `end` have their centre in the image."""
        return self.shift + jnp.maximum(jnp.ceil(self.size * self.scale - 0.5), 1)

    def image(self, canvas: jax.Array) -> jax.Array:
        """[Hc,Wc,3] -> the crop [H,W,3] in [0,1]; what lies outside of the image is arbitrary."""
        margin = self.limits.margin
        if not self.limits.angle:
            return _resample(canvas, self.limits, margin, self.scale, self.shift, self.flip)
        around = _resample(canvas, self.limits, margin, self.scale, self.shift)
        # Pixels beside the image show its edge, so that the edge is not blended with them.
        at = [
            jnp.clip(place - 0.5, start, end - 1) + before
            for place, start, end, before in zip(self._places(), self.shift, self.end, margin, strict=True)
        ]
        bilinear = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="nearest")
        return jax.vmap(bilinear, in_axes=(-1, None), out_axes=-1)(around, at)

    def mask(self, canvas: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[Hc,Wc] -> (the nearest labels [H,W] int32, which pixels of the crop lie in the image [H,W])."""
        y, x = self._places()
        (top, left), (bottom, right) = self.shift, self.end
        valid = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        rows, columns = (
            jnp.clip(jnp.floor((place - start) / self.scale), 0, side - 1).astype(jnp.int32)
            for place, start, side in zip((y, x), self.shift, self.size, strict=True)
        )
        return jnp.where(valid, canvas[rows, columns].astype(jnp.int32), IGNORE), valid

    def boxes(self, boxes: jax.Array) -> jax.Array:
        """[M,4] -> [M,4] the smallest upright boxes around them, uncut by the crop.

        A turned box has an upright box around it that is larger than the one around its object.
        """
        y0, x0, y1, x1 = boxes.T
        corners = jnp.stack([jnp.stack([y, x], -1) for y in (y0, y1) for x in (x0, x1)])
        y, x = self._turn(corners * self.scale + self.shift)
        x = jnp.where(self.flip, self.limits.crop[1] - x, x)
        return jnp.stack([y.min(0), x.min(0), y.max(0), x.max(0)], -1)

    def draw(self, points: jax.Array, strokes: jax.Array) -> jax.Array:
        """Points [P,3] and strokes [S,5] as labels [H,W] int32 one pixel wide; where two meet, the lower class wins."""
        points = jnp.concatenate([points, _stroke_samples(strokes, self.limits)])
        places = (points[:, :2] + 0.5) * self.scale + self.shift
        # A point at the edge may land on a pixel that is mostly padding: it moves inwards, by up to half a pixel.
        inwards = self._half_pixel()
        turned = self._turn(jnp.clip(places, self.shift + inwards, self.end - inwards))
        y, x = (jnp.floor(place).astype(jnp.int32) for place in turned)
        height, width = self.limits.crop
        x = jnp.where(self.flip, width - 1 - x, x)
        klass = points[:, 2].astype(jnp.int32)
        shown = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (klass >= 0)
        y = jnp.where(shown, y, height)  # out of range: dropped
        return jnp.full(self.limits.crop, IGNORE, jnp.int32).at[y, x].min(klass, mode="drop")

    def _turn(self, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[...,2] -> y and x after turning about the middle of the crop."""
        y, x = places[..., 0], places[..., 1]
        return self._rotate(y, x, self.angle) if self.limits.angle else (y, x)

    def _places(self) -> tuple[jax.Array, jax.Array]:
        """Where the centres of the crop's pixels lay before turning and mirroring: y and x that broadcast to [H,W]."""
        height, width = self.limits.crop
        y, column = jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None, :]
        x = jnp.where(self.flip, width - 1 - column, column) + 0.5
        return self._rotate(y, x, -self.angle) if self.limits.angle else (y, x)

    def _rotate(self, y: jax.Array, x: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
        middle_y, middle_x = (side / 2 for side in self.limits.crop)
        y, x, cos, sin = y - middle_y, x - middle_x, jnp.cos(angle), jnp.sin(angle)
        return cos * y - sin * x + middle_y, sin * y + cos * x + middle_x

    def _half_pixel(self) -> jax.Array | float:
        """How far a turned pixel reaches from its centre, upwards or sideways."""
        if not self.limits.angle:
            return 0.5
        return (jnp.abs(jnp.cos(self.angle)) + jnp.abs(jnp.sin(self.angle))) / 2


def _resample(
    canvas: jax.Array,
    limits: Limits,
    margin: tuple[int, int],
    scale: jax.Array,
    shift: jax.Array,
    flip: jax.Array | bool = False,
) -> jax.Array:
    """The crop with a margin, scaled, shifted and mirrored. Only the part of the canvas that it can see is read."""
    height, width = (side + 2 * more for side, more in zip(limits.crop, margin, strict=True))
    shift = shift + jnp.array(margin, jnp.float32)
    reach = math.ceil(1 / limits.scale[0]) + 1  # of the antialiasing filter, in source pixels
    seen = [
        min(side, math.ceil(crop / limits.scale[0]) + 2 * reach)
        for side, crop in zip(canvas.shape[:2], (height, width), strict=True)
    ]
    start = jnp.floor(-shift / scale).astype(jnp.int32) - reach
    start = jnp.clip(start, 0, jnp.array(canvas.shape[:2]) - jnp.array(seen))
    window = jax.lax.dynamic_slice(canvas, (start[0], start[1], 0), (*seen, 3))
    shift = shift + start * scale
    if for_cpu():
        columns = _few_weighted(window, 1, width, scale, shift[1], limits, flip)
        crop = _few_weighted(columns, 0, height, scale, shift[0], limits, False)
        return crop / 255 if canvas.dtype == jnp.uint8 else crop
    # A matrix product along each axis, mostly with zeros: what GPUs and TPUs are fast at.
    crop = jax.image.scale_and_translate(
        images.to_unit(window), (height, width, 3), (0, 1), jnp.stack([scale, scale]), shift, "linear"
    )
    return jnp.where(flip, crop[:, ::-1], crop)


def _few_weighted(
    source: jax.Array,
    axis: int,
    length: int,
    scale: jax.Array,
    shift: jax.Array,
    limits: Limits,
    flip: jax.Array | bool,
) -> jax.Array:
    """`source` [H,W,3] scaled, shifted and mirrored along one axis, by the few weights of each pixel that are not 0."""
    side = source.shape[axis]
    reach = jnp.maximum(1 / scale, 1.0)  # of the antialiasing filter, a triangle
    middle = (jnp.arange(length) + 0.5 - shift) / scale - 0.5
    middle = jnp.where(flip, middle[::-1], middle)
    first = jnp.floor(middle - reach).astype(jnp.int32) + 1
    at = first + jnp.arange(2 * math.ceil(max(1 / limits.scale[0], 1.0)))[:, None]
    weights = jnp.maximum(0.0, 1 - jnp.abs(at - middle) / reach) * ((at >= 0) & (at < side))
    weights = weights / jnp.maximum(weights.sum(0), 1e-6)
    at = jnp.clip(at, 0, side - 1)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    seen = (source[index] if axis == 0 else source[:, index] for index in at)
    parts = [weight.reshape(shape) * part.astype(jnp.float32) for weight, part in zip(weights, seen, strict=True)]
    return functools.reduce(jnp.add, parts)  # one loop, once compiled


def _stroke_samples(strokes: jax.Array, limits: Limits) -> jax.Array:
    """[S,5] -> points [S*T,3], close enough together that the drawn line has no gaps."""
    longest = STROKE_PIECE * max(limits.scale[1], 1.0) * (math.sqrt(2) if limits.angle else 1.0)  # a turned diagonal
    t = jnp.linspace(0.0, 1.0, math.ceil(longest) + 2)[None, :, None]
    start, end, klass = strokes[:, None, 0:2], strokes[:, None, 2:4], strokes[:, None, 4:]
    samples = start + (end - start) * t
    return jnp.concatenate([samples, jnp.broadcast_to(klass, (*samples.shape[:2], 1))], -1).reshape(-1, 3)
