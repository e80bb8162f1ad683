"""Shapes in pixels; places are y, x as in `drawings`."""

import math
from collections.abc import Callable

import numpy as np

from semiseg_jax.exchange.drawings import Ring, Size


def rectangle(y0: float, x0: float, y1: float, x1: float) -> Ring:
    """[4,2] the corners of a box."""
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)


def surface(ring: Ring) -> float:
    """Pixels inside of a closed line that does not cross itself."""
    y, x = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def turned(places: Ring, around: tuple[float, float], degrees: float) -> Ring:
    """[N,2] turned clockwise, as people see it, around a place."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = (np.asarray(places, np.float64) - around).T
    return np.stack([x * sin + y * cos, x * cos - y * sin], axis=1) + around


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Callable[[Size], np.ndarray]:
    """What draws an ellipse: [H,W] bool, pixels whose centre is inside. Radii along y and x are turned clockwise."""

    def mask(size: Size) -> np.ndarray:
        inside = np.zeros(size, bool)
        if min(radii) <= 0:
            return inside
        reach = max(radii)
        y0, x0 = (max(0, math.floor(place - reach)) for place in center)
        y1, x1 = (max(0, min(side, math.ceil(at + reach))) for at, side in zip(center, size, strict=True))
        y = np.arange(y0, y1)[:, None] + 0.5 - center[0]
        x = np.arange(x0, x1)[None] + 0.5 - center[1]
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along, across = (x * cos + y * sin) * radii[0], (y * cos - x * sin) * radii[1]
        inside[y0:y1, x0:x1] = along**2 + across**2 <= (radii[0] * radii[1]) ** 2
        return inside

    return mask
