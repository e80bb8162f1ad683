"""One image's drawing as readers of CVAT and Label Studio find it, shape by shape, and what is background on it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import Area, Box, Drawing, Point, Ring, Size, Stroke
from semiseg_jax.exchange.folder import BACKGROUND
from semiseg_jax.exchange.geometry import rectangle, turned
from semiseg_jax.exchange.left_out import LeftOut

IGNORED = "ignore"  # a label of this name marks pixels about which nothing is said


def class_of(name: Any, what: str) -> str | None:
    """The class that a label means: None for pixels to ignore."""
    name = parsing.text(name, f"{what}: its label")
    return None if name.lower() == IGNORED else BACKGROUND if name.lower() == BACKGROUND else name


class Sketch:
    """What is drawn on one image. Labels that mean "ignore" are areas of no class."""

    def __init__(self, where: str, size: Size | None, left_out: LeftOut):
        self.where, self.size, self.left_out = where, size, left_out
        self.areas: list[Area] = []
        self.boxes: list[Box] = []
        self.points: list[Point] = []
        self.strokes: list[Stroke] = []
        self.tags: list[str] | None = None
        self.partial = False  # something was left out that may cover pixels

    def leave_out(self, what: str, *, covers: bool = False) -> None:
        """Counts what there is no place for; what it may cover is then not background."""
        self.left_out.count(what)
        self.partial |= covers

    def area(
        self, label: str | None, rings: Sequence[Ring] = (), mask: Callable[[Size], np.ndarray] | None = None
    ) -> None:
        self.areas.append(Area(label, rings, mask))

    def box(self, label: str | None, corners: Ring, degrees: float, around: tuple[float, float]) -> None:
        """A box, or of a turned one the upright box around it."""
        (y0, x0), (y1, x1) = corners.min(0), corners.max(0)
        if degrees % 360:
            corners = turned(rectangle(y0, x0, y1, x1), around, degrees)
            limits = self.size or (math.inf, math.inf)
            (y0, x0), (y1, x1) = np.clip(corners.min(0), 0, limits), np.clip(corners.max(0), 0, limits)
        if degrees % 90:
            self.leave_out("turned boxes: the upright box around each is taken")
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
        elif not self.left_out.drops(label, "tags"):
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
