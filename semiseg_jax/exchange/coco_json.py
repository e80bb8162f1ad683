"""`coco`: an instances or keypoints file of COCO.

Segmentations become areas, whether polygons or run lengths; boxes become boxes, and keypoints that are labelled points
of their category. Crowd regions are ignored. An image that no annotation names is background throughout. COCO gives its
annotations no order: large areas are painted before small ones. In an image with areas, the boxes of objects without
one are ignored.
"""

import dataclasses
import functools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data import run_lengths
from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import Area, Box, Drawing, Drawings, LabelFileError, Point, Size, fill

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Object:
    """One annotation."""

    area: Area | None
    surface: float
    box: Box | None
    points: Sequence[Point]


def read(source: Path) -> Drawings:
    """The annotations of a .json file."""
    if source.is_dir():
        raise LabelFileError(f"{source}: is a folder; name the .json file with the annotations, one at a time")
    images, annotations, categories = _tables(source)
    names = _by_id(categories, source, "category", lambda row, what: parsing.text(row.get("name"), f"{what}: its name"))
    by_image: dict[Any, list[Row]] = _by_id(images, source, "image", lambda row, what: [])
    for row in annotations:
        if _id(row.get("image_id"), f"{source}: an image_id") not in by_image:
            raise LabelFileError(f"{source}: an annotation is of image {row['image_id']!r}, which is not listed")
        by_image[row["image_id"]].append(row)
    left_out: Counter[str] = Counter()
    drawings = [_drawing(source, row, by_image[row["id"]], names, left_out) for row in images]
    empty = sum(not rows for rows in by_image.values())
    classes = [name for _, name in sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0]))]
    return Drawings(
        drawings,
        list(dict.fromkeys(classes)),
        [f"{count} {what}" for what, count in left_out.items()],
        notes=[f"{empty} images without any annotation are background throughout"] if empty else [],
    )


def _tables(source: Path) -> tuple[list[Row], list[Row], list[Row]]:
    content = parsing.read_json(source)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        what = " (a list: results of a model, perhaps)" if isinstance(content, list) else ""
        raise LabelFileError(f"{source}: must hold lists of images, annotations and categories{what}")
    images, annotations, categories = (content[key] for key in keys)
    for key, rows in zip(keys, (images, annotations, categories), strict=True):
        if not all(isinstance(row, dict) for row in rows):
            raise LabelFileError(f"{source}: something in {key} is no object")
    if not annotations:
        raise LabelFileError(f"{source}: has no annotations; it only lists images")
    if any("segments_info" in row for row in annotations):
        raise LabelFileError(f"{source}: is a panoptic file; its maps are read by the dataset coco, not imported")
    return images, annotations, categories


def _by_id(rows: Sequence[Row], source: Path, kind: str, value: Any) -> dict[Any, Any]:
    found = {}
    for row in rows:
        id = _id(row.get("id"), f"{source}: the id of a {kind}")
        if id in found:
            raise LabelFileError(f"{source}: two of kind {kind} have the id {id!r}")
        found[id] = value(row, f"{source}: {kind} {id!r}")
    return found


def _id(value: Any, what: str) -> int | str:
    if not isinstance(value, int | str):
        raise LabelFileError(f"{what} is {parsing.brief(value)}, but must be a number or a text")
    return value


def _drawing(
    source: Path, image: Row, rows: Sequence[Row], names: Mapping[Any, str], left_out: Counter[str]
) -> Drawing:
    what = f"{source}: image {image['id']!r}"
    size = parsing.image_size(image.get("height"), image.get("width"), what)
    name = parsing.text(image.get("file_name"), f"{what}: its file_name")
    objects = [_object(f"{source}: annotation {row.get('id')!r}", row, size, names, left_out) for row in rows]
    areas = [(thing.surface, thing.area) for thing in objects if thing.area is not None]
    if areas:
        areas += [
            (thing.surface, Area(None, [parsing.rectangle(box.y0, box.x0, box.y1, box.x1)]))
            for thing in objects
            if thing.area is None and (box := thing.box) is not None
        ]
    return Drawing(
        name,
        str(source),
        size,
        areas=[area for _, area in sorted(areas, key=operator.itemgetter(0), reverse=True)],
        boxes=[thing.box for thing in objects if thing.box is not None],
        points=[point for thing in objects for point in thing.points],
        complete=(bool(areas) and all(thing.area or thing.box for thing in objects)) or not rows,
    )


def _object(where: str, row: Row, size: Size | None, names: Mapping[Any, str], left_out: Counter[str]) -> _Object:
    category = _id(row.get("category_id"), f"{where}: category_id")
    if category not in names:
        raise LabelFileError(f"{where}: category {category!r} is not listed")
    ignore = bool(row.get("iscrowd") or row.get("ignore"))
    area, surface = _area(where, row.get("segmentation"), None if ignore else names[category], size, left_out)
    box = _box(where, row.get("bbox"), names[category], ignore, left_out)
    if area is None and box is not None:
        surface = (box.y1 - box.y0) * (box.x1 - box.x0)
    points = _points(where, row.get("keypoints"), names[category])
    if area is None and box is None and not points:
        left_out["annotations without segmentation, box and labelled keypoints"] += 1
    return _Object(area, surface, box, points)


def _area(
    where: str, shape: Any, label: str | None, size: Size | None, left_out: Counter[str]
) -> tuple[Area | None, float]:
    """The area of a segmentation and its number of pixels."""
    if isinstance(shape, dict):
        try:
            lengths, own = run_lengths.read(shape)
        except ValueError as error:
            raise LabelFileError(f"{where}: {error}") from None
        if size is not None and own != size:
            raise LabelFileError(f"{where}: its run lengths are of {list(own)} but its image is {list(size)}")
        return Area(label, mask=functools.partial(_unrolled, where, lengths, own)), float(lengths[1::2].sum())
    if shape is not None and not isinstance(shape, list):
        raise LabelFileError(f"{where}: its segmentation is {parsing.brief(shape)}, no polygons and no run lengths")
    parts = [shape] if shape and not isinstance(shape[0], list | dict) else shape or []
    rings = []
    for part in parts:
        corners = np.array(parsing.numbers(part, f"{where}: a polygon"), float)
        if len(corners) % 2:
            raise LabelFileError(f"{where}: a polygon has {len(corners)} numbers, but must have an x and a y a corner")
        if len(corners) < 6:
            left_out["polygons of less than three corners"] += 1
        else:
            rings.append(corners.reshape(-1, 2)[:, ::-1])
    if not rings:
        return None, 0.0
    surface = sum(parsing.surface(ring) for ring in rings)
    if len(rings) == 1:
        return Area(label, rings), surface
    return Area(label, mask=functools.partial(_union, rings)), surface


def _unrolled(where: str, lengths: np.ndarray, own: Size, size: Size) -> np.ndarray:
    if own != tuple(size):
        raise LabelFileError(f"{where}: its run lengths are of {list(own)} but its image is {list(size)}")
    return run_lengths.draw(lengths, own)


def _union(rings: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """Polygons of one object are parts of it, which may overlap."""
    return np.logical_or.reduce([fill([ring], size) for ring in rings])


def _box(where: str, bbox: Any, label: str, ignore: bool, left_out: Counter[str]) -> Box | None:
    if not bbox and (bbox is None or isinstance(bbox, list)):
        return None
    x, y, width, height = parsing.numbers(bbox, f"{where}: its bbox", 4)
    if width <= 0 or height <= 0:
        left_out["boxes without any width or height"] += 1
        return None
    return Box(label, y, x, y + height, x + width, ignore)


def _points(where: str, keypoints: Any, label: str) -> list[Point]:
    if not keypoints:
        return []
    values = parsing.numbers(keypoints, f"{where}: its keypoints")
    if len(values) % 3:
        raise LabelFileError(f"{where}: its keypoints are {len(values)} numbers, no triples of x, y and visibility")
    triples = zip(values[::3], values[1::3], values[2::3], strict=True)
    return [Point(label, y, x) for x, y, visibility in triples if visibility > 0]
