"""What people draw on images, whatever tool they use: areas, boxes, points, strokes and tags.

Places are y, x in pixels from the top left corner of the image: pixel i covers i to i + 1. A reader of a tool's files
makes a `Drawings`; `folder.write_folder` makes a dataset folder of it.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

Size = tuple[int, int]
_CROSSINGS = 2_000_000  # of edges and rows that are worked on at once, whatever a file holds
Ring = np.ndarray  # [N,2] float y, x: the corners of a closed line


class LabelFileError(ValueError):
    """What is wrong with a label file, every problem on a line of its own, each with the file's name."""


@dataclasses.dataclass(frozen=True)
class Area:
    """Pixels of one class: those inside of an odd number of rings, or of a mask that is made when the size is known."""

    label: str | None  # None: pixels to ignore
    rings: Sequence[Ring] = ()
    mask: Callable[[Size], np.ndarray] | None = None  # [H,W] bool

    def pixels(self, size: Size) -> np.ndarray:
        """[H,W] bool: pixels whose centre is inside."""
        return self.mask(size) if self.mask is not None else fill(self.rings, size)


@dataclasses.dataclass(frozen=True)
class Box:
    """Edges; `ignore` is a region about which nothing is said, such as a crowd."""

    label: str
    y0: float
    x0: float
    y1: float
    x1: float
    ignore: bool = False


@dataclasses.dataclass(frozen=True)
class Point:
    label: str
    y: float
    x: float


@dataclasses.dataclass(frozen=True)
class Stroke:
    """A line through these places, `width` pixels wide."""

    label: str
    places: np.ndarray  # [N,2] float y, x
    width: float = 1.0


@dataclasses.dataclass(frozen=True)
class Drawing:
    """All that a tool's files say of one image. Later areas cover earlier ones."""

    image: str  # the path or name that the tool's file gives
    source: str  # the file that says it, for messages
    size: Size | None = None  # as that file gives it
    areas: Sequence[Area] = ()
    boxes: Sequence[Box] = ()
    points: Sequence[Point] = ()
    strokes: Sequence[Stroke] = ()
    tags: Sequence[str] | None = None  # the classes that are in the image, if somebody said which
    complete: bool = False  # whether what no area covers is background, also where there is none; else it is unknown
    split: str = ""
    other_name: str = ""  # that the image may have instead

    def labels(self) -> set[str]:
        """The classes that it names."""
        things: list[Area | Box | Point | Stroke] = [*self.areas, *self.boxes, *self.points, *self.strokes]
        return {thing.label for thing in things if thing.label is not None} | set(self.tags or ())


@dataclasses.dataclass(frozen=True)
class Drawings:
    """The drawings of all images, and the classes in the order of the tool, as far as it has one."""

    drawings: Sequence[Drawing]
    classes: Sequence[str] = ()
    left_out: Sequence[str] = ()  # in words: what the files hold that the folder layout has no place for
    colors: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)  # red, green, blue of some classes
    notes: Sequence[str] = ()  # in words: what was found out and not said, such as how files are named
    label_files: Collection[Path] = ()  # of these drawings, where they may look like images
    dropped: Collection[str] = ()  # labels that were to be dropped and are there

    def all_classes(self) -> list[str]:
        """Classes in the order of the tool, then those that only drawings name, in alphabetical order."""
        used = {label for drawing in self.drawings for label in drawing.labels()}
        return [*dict.fromkeys(self.classes), *sorted(used - set(self.classes))]


def fill(rings: Sequence[Ring], size: Size) -> np.ndarray:
    """[H,W] bool: pixels whose centre is inside of an odd number of rings.

    Every edge crosses some rows of pixel centres; a pixel is inside if an odd number of crossings lies to its left.
    (OpenCV's fillPoly also fills the pixels that the outline touches: a quarter more of small shapes.)
    """
    inside = np.zeros(size, bool)
    corners = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings] or [np.zeros((0, 2))])
    if not len(corners):
        return inside
    # Only the part of the image that the rings reach.
    top, left = np.clip(np.floor(corners.min(0)), 0, size).astype(int)
    bottom, right = np.clip(np.ceil(corners.max(0)), 0, size).astype(int)
    height, width = bottom - top, right - left
    crossings = np.zeros((height, width + 1), np.int32)
    for ring in rings:
        y0, x0 = (np.asarray(ring, np.float64).reshape(-1, 2) - (top, left)).T
        y1, x1 = np.roll(y0, -1), np.roll(x0, -1)
        first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(int)
        rows = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(int) - first
        portion = np.cumsum(rows) // _CROSSINGS
        for some in (np.flatnonzero(portion == number) for number in np.unique(portion)):
            edge = np.repeat(some, rows[some])
            row = np.arange(len(edge)) - np.repeat(np.cumsum(rows[some]) - rows[some], rows[some]) + first[edge]
            x = x0[edge] + (x1 - x0)[edge] * (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
            np.add.at(crossings, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(int)), 1)
    inside[top:bottom, left:right] = np.cumsum(crossings, axis=1, out=crossings)[:, :width] % 2 == 1
    return inside
