"""`coco`: an instances or keypoints file of COCO, or a folder of such files.

Segmentations become areas, whether polygons or run lengths; boxes become boxes, and keypoints that are labelled points
of their category. Crowd regions are ignored. An image that no annotation names is background throughout. COCO gives its
annotations no order: large areas are painted before small ones. In an image with areas, the boxes of objects without
one are ignored.

Of a folder, all .json files are read. Ids are of each file; categories are joined by name. Where the name of a file or
of its folder has the word train, val, valid or test, its images are of that split.
"""

import dataclasses
import functools
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data import run_lengths
from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import Area, Box, Drawing, Drawings, LabelFileError, Point, Size, fill
from semiseg_jax.exchange.geometry import rectangle, surface
from semiseg_jax.exchange.left_out import LeftOut

Row = Mapping[str, Any]
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "trainval": "trainval",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Object:
    """One annotation."""

    area: Area | None
    pixels: float
    box: Box | None
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class _File:
    """What one file holds."""

    classes: Sequence[str]
    drawings: Sequence[Drawing]
    names: Mapping[int | str, str]  # of its images
    empty: int  # images without any annotation


def read(source: Path, *, drop: Collection[str] = ()) -> Drawings:
    """The annotations of a .json file, or of all in a folder and those below, without the categories `drop`."""
    left_out = LeftOut(drop)
    root = source if source.is_dir() else None
    files = list(parsing.each(parsing.files_below(source, ".json"), lambda path: _file(path, root, left_out)))
    drawings = [drawing for file in files for drawing in file.drawings]
    if len({drawing.split or "train" for drawing in drawings}) < 2:  # then it tells nothing apart
        drawings = [dataclasses.replace(drawing, split="") for drawing in drawings]
    notes = [f"{len(files)} files are read as one"] if len(files) > 1 else []
    if clashes := _clashes(file.names for file in files):
        notes.append(f"{clashes} ids of images mean another image in another file, and are taken as ids of each file")
    if empty := sum(file.empty for file in files):
        notes.append(f"{empty} images without any annotation are background throughout")
    classes = dict.fromkeys(name for file in files for name in file.classes)
    return Drawings(drawings, list(classes), left_out.words(), notes=notes, dropped=left_out.dropped)


def _file(path: Path, root: Path | None, left_out: LeftOut) -> _File:
    """One file; names of images are seen from the folder that was named, if one was."""
    images, annotations, categories = _tables(path)
    names = _by_id(categories, path, "category", lambda row, what: parsing.text(row.get("name"), f"{what}: its name"))
    by_image: dict[Any, list[Row]] = _by_id(images, path, "image", lambda row, what: [])
    for row in annotations:
        if _id(row.get("image_id"), f"{path}: an image_id") not in by_image:
            raise LabelFileError(f"{path}: an annotation is of image {row['image_id']!r}, which is not listed")
        category = _id(row.get("category_id"), f"{path}: annotation {row.get('id')!r}: category_id")
        if category not in names:
            raise LabelFileError(f"{path}: annotation {row.get('id')!r}: category {category!r} is not listed")
        if not left_out.drops(names[category], "annotations"):
            by_image[row["image_id"]].append(row)
    drawings = [_drawing(path, row, by_image[row["id"]], names, left_out) for row in images]
    if root is not None:
        split = _split(path, root)
        drawings = [
            dataclasses.replace(drawing, image=parsing.beside(path, root, drawing.image), split=split)
            for drawing in drawings
        ]
    ordered = [name for _, name in sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0]))]
    return _File(
        [name for name in ordered if not left_out.drops(name)],
        drawings,
        {row["id"]: drawing.image for row, drawing in zip(images, drawings, strict=True)},
        sum(not rows for rows in by_image.values()),
    )


def _split(path: Path, root: Path) -> str:
    """The split that the name of a file says, else those of the folders that hold it; "" where none does."""
    inner = path.relative_to(root).with_suffix("").parts
    for name in reversed(inner):
        said = {_SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLITS}
        if len(said) == 1:
            return said.pop()
    return ""


def _clashes(files: Iterable[Mapping[int | str, str]]) -> int:
    """How many ids mean different images."""
    first: dict[int | str, str] = {}
    return len({id for names in files for id, name in names.items() if first.setdefault(id, name) != name})


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


def _drawing(source: Path, image: Row, rows: Sequence[Row], names: Mapping[Any, str], left_out: LeftOut) -> Drawing:
    what = f"{source}: image {image['id']!r}"
    size = parsing.given_size(image.get("height"), image.get("width"), what)
    name = parsing.text(image.get("file_name"), f"{what}: its file_name")
    objects = [_object(f"{source}: annotation {row.get('id')!r}", row, size, names, left_out) for row in rows]
    areas = [(thing.pixels, thing.area) for thing in objects if thing.area is not None]
    if areas:
        areas += [
            (thing.pixels, Area(None, [rectangle(box.y0, box.x0, box.y1, box.x1)]))
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


def _object(where: str, row: Row, size: Size | None, names: Mapping[Any, str], left_out: LeftOut) -> _Object:
    name = names[row["category_id"]]
    ignore = bool(row.get("iscrowd") or row.get("ignore"))
    area, pixels = _area(where, row.get("segmentation"), None if ignore else name, size, left_out)
    box = _box(where, row.get("bbox"), name, ignore, left_out)
    if area is None and box is not None:
        pixels = (box.y1 - box.y0) * (box.x1 - box.x0)
    points = _points(where, row.get("keypoints"), name)
    if area is None and box is None and not points:
        left_out.count("annotations without segmentation, box and labelled keypoints")
    return _Object(area, pixels, box, points)


def _area(where: str, shape: Any, label: str | None, size: Size | None, left_out: LeftOut) -> tuple[Area | None, float]:
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
            left_out.count("polygons of less than three corners")
        else:
            rings.append(parsing.outline(corners.reshape(-1, 2)[:, ::-1], f"{where}: a polygon"))
    if not rings:
        return None, 0.0
    pixels = sum(surface(ring) for ring in rings)
    if len(rings) == 1:
        return Area(label, rings), pixels
    return Area(label, mask=functools.partial(_union, rings)), pixels


def _unrolled(where: str, lengths: np.ndarray, own: Size, size: Size) -> np.ndarray:
    if own != tuple(size):
        raise LabelFileError(f"{where}: its run lengths are of {list(own)} but its image is {list(size)}")
    return run_lengths.draw(lengths, own)


def _union(rings: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """Polygons of one object are parts of it, which may overlap."""
    return np.logical_or.reduce([fill([ring], size) for ring in rings])


def _box(where: str, bbox: Any, label: str, ignore: bool, left_out: LeftOut) -> Box | None:
    if not bbox and (bbox is None or isinstance(bbox, list)):
        return None
    x, y, width, height = parsing.numbers(bbox, f"{where}: its bbox", 4)
    if width <= 0 or height <= 0:
        left_out.count("boxes without any width or height")
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
