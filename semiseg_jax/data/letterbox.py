"""Fits an image of any size onto a fixed canvas, and brings maps back exactly where they came from."""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np

from semiseg_jax.data.types import IGNORE
from semiseg_jax.ops.images import MEAN

FILL = tuple(round(255 * value) for value in MEAN)


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """An image of `size` placed at the top left of `canvas`, shrunk (never enlarged unless `scale` > 1) to fit."""

    size: tuple[int, int]
    placed: tuple[int, int]
    canvas: tuple[int, int]

    @classmethod
    def fit(cls, size: Sequence[int], canvas: Sequence[int], scale: float = 1.0) -> "Letterbox":
        factor = min(scale, canvas[0] / size[0], canvas[1] / size[1])
        placed = [max(1, min(round(side * factor), limit)) for side, limit in zip(size, canvas, strict=True)]
        return cls((size[0], size[1]), (placed[0], placed[1]), (canvas[0], canvas[1]))

    def place_image(self, image: np.ndarray) -> np.ndarray:
        """[H,W,3] uint8 -> [Hc,Wc,3] uint8, mean colour outside."""
        return self._bordered(resize(image, self.placed), cv2.BORDER_CONSTANT)

    def place_mirrored(self, image: np.ndarray) -> np.ndarray:
        """[H,W,3] -> [Hc,Wc,3] with the image mirrored outside, so that a network sees the statistics of the image."""
        return self._bordered(resize(image, self.placed), cv2.BORDER_REFLECT)

    def _bordered(self, image: np.ndarray, border: int) -> np.ndarray:
        below, right = (canvas - placed for canvas, placed in zip(self.canvas, self.placed, strict=True))
        return cv2.copyMakeBorder(image, 0, below, 0, right, border, value=FILL)

    def place_mask(self, mask: np.ndarray) -> np.ndarray:
        """[H,W] uint8 -> [Hc,Wc] uint8, 255 outside."""
        out = np.full(self.canvas, IGNORE, np.uint8)
        out[: self.placed[0], : self.placed[1]] = resize(mask, self.placed, nearest=True)
        return out

    def place_rows(self, rows: np.ndarray, *, pixels: bool) -> np.ndarray:
        """Scales the y, x pairs of geometry rows [N,2m(+1)]; `pixels`: indices of pixels rather than edges."""
        out = rows.astype(np.float32, copy=True)
        ratio = (self.placed[0] / self.size[0], self.placed[1] / self.size[1])
        shift = 0.5 if pixels else 0.0
        for column in range(rows.shape[1] // 2 * 2):
            out[:, column] = (out[:, column] + shift) * ratio[column % 2] - shift
        return out

    def unplace(self, maps: np.ndarray) -> np.ndarray:
        """[Hc,Wc,K] float -> [H,W,K]: cuts the padding off and resizes back; exact where nothing was resized."""
        return resize(maps[: self.placed[0], : self.placed[1]], self.size)


def resize(array: np.ndarray, size: Sequence[int], *, nearest: bool = False) -> np.ndarray:
    """Area averaging when shrinking, bilinear when enlarging (half-pixel centres); or nearest."""
    if array.shape[:2] == tuple(size):
        return array
    shrinks = size[0] < array.shape[0] or size[1] < array.shape[1]
    if nearest:
        method = cv2.INTER_NEAREST_EXACT
    else:
        method = cv2.INTER_AREA if shrinks and array.dtype == np.uint8 else cv2.INTER_LINEAR
    out = cv2.resize(array, (size[1], size[0]), interpolation=method)
    return out.reshape(*size, *array.shape[2:])


def round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
