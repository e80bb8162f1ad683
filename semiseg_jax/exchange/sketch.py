"""What readers of drawing tools share: checked numbers, turned shapes, and one image's drawing as it grows."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from semiseg_jax.exchange.drawings import Area, Box, Drawing, LabelFileError, Point, Ring, Size, Stroke
from semiseg_jax.exchange.folder import BACKGROUND

IGNORED = "ignore"  # a label of this name marks pixels about which nothing is said
_MAX_PIXELS = 200_000_000
_MAX_PLACE = 100_000.0
_MAX_OUTLINE = 20_000_000.0  # rows that one outline crosses; filling takes memory for each


def number(value: Any, what: str, low: float = -_MAX_PLACE, high: float = _MAX_PLACE) -> float:
    """A finite number between two limits, from JSON or from XML."""
    try:
        read = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        read = math.nan
    if not low <= read <= high:
        raise LabelFileError(f"{what} is {str(value)[:40]!r}, not a number between {low:g} and {high:g}")
    return read


def whole(value: Any, what: str, low: int, high: int) -> int:
    """A whole number between two limits."""
    read = number(value, what, low, high)
    if read != int(read):
        raise LabelFileError(f"{what} is {str(value)[:40]!r}, not a whole number")
    return int(read)


def size_of(height: Any, width: Any, what: str) -> Size:
    """A size of an image that can be."""
    size = (
        whole(height, f"{what}: the height", 1, int(_MAX_PLACE)),
        whole(width, f"{what}: the width", 1, int(_MAX_PLACE)),
    )
    if size[0] * size[1] > _MAX_PIXELS:
        raise LabelFileError(f"{what}: an image of {size[1]}x{size[0]} pixels is larger than 200 megapixels")
    return size


def outline(places: Iterable[tuple[float, float]], what: str) -> Ring:
    """[N,2] y, x of a closed line, from y, x pairs."""
    ring = np.array(list(places), np.float64)
    if len(ring) < 3:
        raise LabelFileError(f"{what} has {len(ring)} corners, but an area needs three")
    if np.abs(np.diff(ring[:, 0], append=ring[:1, 0])).sum() > _MAX_OUTLINE:
        raise LabelFileError(f"{what} has too long an outline")
    return ring


def turned(places: Ring, around: tuple[float, float], degrees: float) -> Ring:
    """[N,2] y, x turned clockwise, as people see it, around a place."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = (np.asarray(places, np.float64) - around).T
    return np.stack([x * sin + y * cos, x * cos - y * sin], axis=1) + around


def ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float) -> Callable[[Size], np.ndarray]:
    """Pixels whose centre is inside of an ellipse; places and radii are y, x, turned clockwise."""

    def mask(size: Size) -> np.ndarray:
        inside = np.zeros(size, bool)
        reach = max(radii)
        y0, x0 = (max(0, math.floor(place - reach)) for place in center)
        y1, x1 = (max(0, min(side, math.ceil(at + reach))) for at, side in zip(center, size, strict=True))
        y = np.arange(y0, y1)[:, None] + 0.5 - center[0]
        x = np.arange(x0, x1)[None] + 0.5 - center[1]
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along, across = (x * cos + y * sin) / radii[1], (y * cos - x * sin) / radii[0]
        inside[y0:y1, x0:x1] = along**2 + across**2 <= 1
        return inside

    return mask


def class_of(name: Any, what: str) -> str | None:
    """The class that a label means: None for pixels to ignore."""
    if not isinstance(name, str) or not name.strip():
        raise LabelFileError(f"{what} has no label")
    name = name.strip()
    return None if name.lower() == IGNORED else BACKGROUND if name.lower() == BACKGROUND else name


class Sketch:
    """What is drawn on one image. Labels that mean "ignore" are areas of no class."""

    def __init__(self, where: str, size: Size | None, left_out: Counter[str]):
        self.where, self.size, self.left_out = where, size, left_out
        self.areas: list[Area] = []
        self.boxes: list[Box] = []
        self.points: list[Point] = []
        self.strokes: list[Stroke] = []
        self.tags: list[str] | None = None
        self.partial = False  # something was left out that may cover pixels

    def leave_out(self, what: str, *, covers: bool = False) -> None:
        """Counts what there is no place for; what it may cover is then not background."""
        self.left_out[what] += 1
        self.partial |= covers

    def area(
        self, label: str | None, rings: Sequence[Ring] = (), mask: Callable[[Size], np.ndarray] | None = None
    ) -> None:
        self.areas.append(Area(label, rings, mask))

    def box(self, label: str | None, corners: Ring, degrees: float, around: tuple[float, float]) -> None:
        """A box, or of a turned one the upright box around it."""
        (y0, x0), (y1, x1) = corners.min(0), corners.max(0)
        if degrees % 360:
            corners = turned(np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)]), around, degrees)
            limits = self.size or (math.inf, math.inf)
            (y0, x0), (y1, x1) = np.clip(corners.min(0), 0, limits), np.clip(corners.max(0), 0, limits)
        if degrees % 90:
            self.left_out["turned boxes: the upright box around each is taken"] += 1
        edges = (float(y0), float(x0), float(y1), float(x1))
        self.boxes.append(Box(label or BACKGROUND, *edges, ignore=label is None))

    def point(self, label: str | None, y: float, x: float) -> None:
        if label is None:
            self.leave_out("points to ignore")
        else:
            self.points.append(Point(label, y, x))

    def stroke(self, label: str | None, places: Sequence[tuple[float, float]]) -> None:
        if label is None:
            self.leave_out("lines to ignore")
        else:
            self.strokes.append(Stroke(label, np.array(places, np.float64)))

    def tag(self, label: str | None) -> None:
        if label is None:
            self.leave_out("tags to ignore")
        else:
            self.tags = [*(self.tags or []), label]

    def drawing(self, image: str, **more: Any) -> Drawing:
        """The drawing. It is `complete` as far as nothing was left out; `judged` looks at the rest."""
        return Drawing(
            image, self.where, self.size, self.areas, self.boxes, self.points, self.strokes, self.tags,
            complete=not self.partial, **more,
        )  # fmt: skip


def judged(drawings: Sequence[Drawing], *, empty: bool = False) -> list[Drawing]:
    """Decides on which images everything that no area covers is background.

    That is so on images with areas, unless somebody painted background too, and so said where it is; or something else
    is on the image (a box, a point, a stroke, a tag) of a class that has areas on other images only or nowhere; or the
    reader left something out. A tag of a class without any area is a remark on the whole image. With `empty`, an image
    on which nobody found anything is background, if areas were drawn on others.
    """
    outlined = {area.label for drawing in drawings for area in drawing.areas} - {None}

    def is_complete(drawing: Drawing) -> bool:
        here = {area.label for area in drawing.areas} - {None}
        weak = dataclasses.replace(drawing, areas=(), tags=None).labels()
        if not here:
            return empty and bool(outlined) and not weak and drawing.tags is None
        unseen = (weak | (set(drawing.tags or ()) & outlined)) - here - {BACKGROUND}
        return BACKGROUND not in here and not unseen

    return [dataclasses.replace(each, complete=each.complete and is_complete(each)) for each in drawings]


def in_words(left_out: Counter[str]) -> list[str]:
    """Counts as lines of a report."""
    return [f"{count} {what}" for what, count in sorted(left_out.items())]
