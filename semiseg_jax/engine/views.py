"""Where an image lies while the network looks at it: its size at each scale, the canvas for it, the tiles on that."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from semiseg_jax.data.letterbox import Letterbox, resize, round_up

Size = tuple[int, int]
ROWS = 32  # sides of canvases are multiples of this


@dataclasses.dataclass(frozen=True)
class View:
    """An image at one scale: resized to `placed`, at the top left of `canvas`, seen in tiles at `corners`."""

    placed: Size
    canvas: Size
    tile: Size
    corners: tuple[Size, ...]

    def tiles(self, image: np.ndarray) -> list[np.ndarray]:
        """[H,W,3] uint8 -> the pixels of each tile; what the image does not fill is mirrored."""
        scaled = resize(image, self.placed)
        pieces = (scaled[y : y + self.tile[0], x : x + self.tile[1]] for y, x in self.corners)
        return [Letterbox.fit(piece.shape[:2], self.tile).place_mirrored(piece) for piece in pieces]

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """[N,h] and [N,w] float32: the product of both is how much each pixel of a tile counts where tiles overlap."""
        return tuple(self._shares(axis) for axis in (0, 1))  # type: ignore[return-value]

    def _shares(self, axis: int) -> np.ndarray:
        length, count = self.tile[axis], np.zeros(self.canvas[axis], np.float32)
        for start in {corner[axis] for corner in self.corners}:
            count[start : start + length] += 1
        return np.stack([1 / count[corner[axis] : corner[axis] + length] for corner in self.corners])


def whole_view(size: Size, largest: Size, scale: float) -> View:
    """The image as one tile: shrunk to fit `largest` if it must, then scaled."""
    placed = [max(1, round(side * scale)) for side in Letterbox.fit(size, largest).placed]
    canvas = [_halved(round_up(round(most * scale), ROWS), side) for most, side in zip(largest, placed, strict=True)]
    return View((placed[0], placed[1]), (canvas[0], canvas[1]), (canvas[0], canvas[1]), ((0, 0),))


def window_view(size: Size, window: Size, scale: float, overlap: float) -> View:
    """The image at its own resolution, scaled, in windows that overlap by at least this share."""
    placed = [max(1, round(side * scale)) for side in size]
    canvas = [few(max(side, least)) for side, least in zip(placed, window, strict=True)]
    ys, xs = (_starts(side, length, overlap) for side, length in zip(placed, window, strict=True))
    return View((placed[0], placed[1]), (canvas[0], canvas[1]), window, tuple((y, x) for y in ys for x in xs))


def few(side: int) -> int:
    """A side rounded up to one of few: multiples of 32, and above 256 four to each doubling."""
    step = max(ROWS, 1 << max(0, (side - 1).bit_length() - 3))
    return round_up(side, step)


def spans(sizes: Sequence[Size]) -> Size:
    """A canvas that holds an image of any of the sizes."""
    return few(max(height for height, _ in sizes)), few(max(width for _, width in sizes))


def rungs(largest: int) -> tuple[int, ...]:
    """The lengths that a side of a canvas may have, from the longest: the largest and its halves, multiples of 32.

    >>> rungs(96)
    (96, 64, 32)
    """
    found = [largest]
    while (half := round_up(found[-1] // 2, ROWS)) < found[-1]:
        found.append(half)
    return tuple(found)


def _halved(largest: int, needed: int) -> int:
    """`largest`, halved while `needed` pixels still fit; a multiple of 32."""
    return min((length for length in rungs(largest) if length >= needed), default=largest)


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Even positions that cover [0, length) with at least the asked-for overlap."""
    if length <= window:
        return [0]
    pieces = math.ceil((length - window) / max(1, window * (1 - overlap))) + 1
    return [round(i * (length - window) / (pieces - 1)) for i in range(pieces)]
