"""`shapes`: procedural textured scenes with every kind of label, the embedded data set.

A scene is a textured ground, lit unevenly, with two to five objects that hide parts of each other. The class of an
object is its outline. Hue and texture lean towards the class but overlap between classes, and size, angle, shade and
light vary freely, so that few labels teach something and more labels teach more.
"""

import colorsys
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from semiseg_jax.data import weak_labels
from semiseg_jax.data.layout import Card
from semiseg_jax.data.records import Record, RecordBuilder, encode_png, make_record
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import Supervision

CLASSES = ("background", "disk", "ring", "square", "triangle", "star", "cross")
COLORS = (
    (40, 40, 40),
    (230, 80, 60),
    (250, 190, 60),
    (90, 180, 90),
    (70, 150, 230),
    (170, 100, 210),
    (240, 130, 190),
)
SIZES = {"train": 480, "val": 96}
VERSION = 2
_SUPERSAMPLE = 2


class Shapes(RecordBuilder):
    """Deterministic: the same size and seed give the same bytes."""

    name = "shapes"
    card = Card(
        classes=f"{len(CLASSES)}: {', '.join(CLASSES)}",
        splits=", ".join(f"{split} {size}" for split, size in SIZES.items()),
        licence="that of this package",
        source="nothing to download: the scenes are drawn by the program",
        tree="none",
    )

    def __init__(self, *, data_dir: str | None = None, size: int = 96, seed: int = 0):
        self.size, self.seed = size, seed
        self.meta = {"classes": list(CLASSES), "colors": [list(color) for color in COLORS], "background": 0}
        super().__init__(data_dir=data_dir, config_name=f"{SIZES['train']}x{size}-seed{seed}-v{VERSION}")

    def split_sizes(self) -> Mapping[str, int]:
        return SIZES

    def generate(self, split: str) -> Iterator[tuple[Record, tuple[int, int], Iterable[Supervision]]]:
        return in_order(functools.partial(self._example, split), range(SIZES[split]))

    def _example(self, split: str, number: int) -> tuple[Record, tuple[int, int], Iterable[Supervision]]:
        rng = np.random.default_rng([self.seed, tuple(SIZES).index(split), number])
        image, mask = scene(rng, self.size)
        record = make_record(
            id=f"{split}_{number:04d}",
            image=encode_png(image),
            num_classes=len(CLASSES),
            mask=mask,
            points=weak_labels.clicks(mask, rng),
            strokes=weak_labels.scribbles(mask, rng),
            partial=weak_labels.random_pixels(mask, rng),
            boxes=weak_labels.boxes(mask, rng),
            tags=weak_labels.tags(mask, len(CLASSES)),
        )
        return record, mask.shape, tuple(Supervision)


def scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene -> image [size,size,3] uint8 RGB, mask [size,size] uint8."""
    big = size * _SUPERSAMPLE
    image = _texture(rng, big, hue=rng.uniform(), saturation=rng.uniform(0.0, 0.35), kind=int(rng.integers(5)))
    mask = np.zeros((big, big), np.uint8)
    for _ in range(rng.integers(2, 6)):
        klass = int(rng.integers(1, len(CLASSES)))
        region = _object(rng, CLASSES[klass], big)
        shadow = cv2.GaussianBlur(np.roll(region, (big // 48, big // 48), (0, 1)).astype(np.float32), (0, 0), big / 64)
        image *= 1 - rng.uniform(0.0, 0.5) * shadow[..., None]
        hue = (klass - 1) / 6 + rng.normal(0, 0.025)
        kind = klass % 5 if rng.uniform() < 0.6 else int(rng.integers(5))
        surface = _texture(rng, big, hue=hue, saturation=rng.uniform(0.45, 0.95), kind=kind)
        image = np.where(region[..., None], surface, image)
        mask[region] = klass
    image = image * _light(rng, big)[..., None]
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image += rng.normal(0, rng.uniform(2, 9), image.shape)
    mask = mask[_SUPERSAMPLE // 2 :: _SUPERSAMPLE, _SUPERSAMPLE // 2 :: _SUPERSAMPLE]
    return np.clip(image, 0, 255).astype(np.uint8), np.ascontiguousarray(mask)


def _object(rng: np.random.Generator, outline: str, big: int) -> np.ndarray:
    """A [big,big] bool map of one object."""
    radius = rng.uniform(0.13, 0.27) * big
    center = rng.uniform(0.12, 0.88, 2) * big
    angle = rng.uniform(0, 2 * math.pi)
    region = np.zeros((big, big), np.uint8)
    if outline in ("disk", "ring"):
        middle = tuple(int(v) for v in center)
        cv2.circle(region, middle, int(radius), 1, -1)
        if outline == "ring":
            cv2.circle(region, middle, int(radius * rng.uniform(0.45, 0.6)), 0, -1)
        return region.astype(bool)
    corners = _OUTLINES[outline](rng)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    cv2.fillPoly(region, [np.rint(corners @ turn.T * radius + center).astype(np.int32)], 1)
    return region.astype(bool)


def _star(rng: np.random.Generator) -> np.ndarray:
    angles = np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.48), 1.15)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1)


def _cross(rng: np.random.Generator) -> np.ndarray:
    arm = rng.uniform(0.25, 0.35)
    quarter = np.array([[arm, 1.05], [arm, arm], [1.05, arm]])
    turn = np.array([[0, -1], [1, 0]])
    corners = [quarter[::1] @ np.linalg.matrix_power(turn, k) for k in range(4)]
    return np.concatenate(corners)


_OUTLINES: Mapping[str, Callable[[np.random.Generator], np.ndarray]] = {
    "square": lambda rng: np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [0.85, 0.85 * rng.uniform(0.8, 1.0)],
    "triangle": lambda rng: np.array([[1.1, 0], [-0.6, 1.0], [-0.6, -1.0]]) * rng.uniform(0.9, 1.1),
    "star": _star,
    "cross": _cross,
}


def _texture(rng: np.random.Generator, big: int, *, hue: float, saturation: float, kind: int) -> np.ndarray:
    """A [big,big,3] float32 surface between two shades: plain, stripes, checks, dots or cloud."""
    ys, xs = np.mgrid[:big, :big].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.06, 0.16) * big
    u = (xs * math.cos(angle) + ys * math.sin(angle)) * (2 * math.pi / period)
    v = (ys * math.cos(angle) - xs * math.sin(angle)) * (2 * math.pi / period)
    if kind == 0:
        blend: Any = np.zeros((big, big), np.float32)
    elif kind == 1:
        blend = np.sin(u) > 0
    elif kind == 2:
        blend = np.sin(u) * np.sin(v) > 0
    elif kind == 3:
        blend = np.sin(u) + np.sin(v) > 0.9
    else:
        cells = int(rng.integers(4, 10))
        noise = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
        blend = np.clip(cv2.resize(noise, (big, big), interpolation=cv2.INTER_CUBIC), 0, 1)
    value = rng.uniform(0.4, 0.95)
    first = _rgb(hue, saturation, value)
    second = _rgb(hue + rng.normal(0, 0.03), saturation * rng.uniform(0.5, 1.0), value * rng.uniform(0.45, 0.85))
    blend = blend.astype(np.float32)[..., None]
    return (first * (1 - blend) + second * blend).astype(np.float32)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _light(rng: np.random.Generator, big: int) -> np.ndarray:
    """A smooth [big,big] brightness field around 1."""
    return cv2.resize(rng.uniform(0.65, 1.2, (3, 3)).astype(np.float32), (big, big), interpolation=cv2.INTER_LINEAR)
