"""`voc`: an .xml file an image with the boxes of its objects, as Pascal VOC, LabelImg and many exports write it.

Difficult objects are regions to ignore. Whatever else is said of objects, such as their pose, is counted as left out.
Corners are the first and the last pixel of a box, counted from 1; where a
corner of 0 occurs, the tool counted from 0, and corners are taken as edges.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from xml.etree import ElementTree

from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import Box, Drawing, Drawings, LabelFileError
from semiseg_jax.exchange.left_out import LeftOut

_SIDES = ("ymin", "xmin", "ymax", "xmax")
_SHAPES = {"polygon": "polygons", "robndbox": "turned boxes", "mask": "masks"}
_READ = {"name", "bndbox", "difficult", "part", "type", *_SHAPES}
_SAYS_NOTHING = ("", "0", "no", "false", "unspecified")


def read(source: Path, *, drop: Collection[str] = ()) -> Drawings:
    """The boxes of all .xml files of a folder and those below, or of one file, without the labels `drop`."""
    left_out = LeftOut(drop)
    drawings = list(parsing.each(parsing.files_below(source, ".xml"), lambda path: _drawing(path, left_out)))
    boxes = [box for drawing in drawings for box in drawing.boxes]
    notes = []
    if boxes and min(min(box.y0, box.x0) for box in boxes) >= 1:
        drawings = [dataclasses.replace(drawing, boxes=[_edges(b) for b in drawing.boxes]) for drawing in drawings]
    elif boxes:
        drawings = [dataclasses.replace(drawing, boxes=_with_area(drawing, left_out)) for drawing in drawings]
        notes.append("some corners of boxes are 0: they are taken as edges counted from 0, not as pixels from 1")
    if empty := sum(drawing.complete for drawing in drawings):
        notes.append(f"{empty} images without any object are background throughout")
    if difficult := sum(box.ignore for drawing in drawings for box in drawing.boxes):
        notes.append(f"{difficult} objects are marked as difficult: nothing is said about their boxes")
    return Drawings(drawings, left_out=left_out.words(), notes=notes, dropped=left_out.dropped)


def _edges(box: Box) -> Box:
    """The edges of a box whose corners are pixels, counted from 1."""
    return dataclasses.replace(box, y0=box.y0 - 1, x0=box.x0 - 1)


def _with_area(drawing: Drawing, left_out: LeftOut) -> list[Box]:
    boxes = [box for box in drawing.boxes if box.y0 < box.y1 and box.x0 < box.x1]
    left_out.count("boxes without any width or height", len(drawing.boxes) - len(boxes))
    return boxes


def _drawing(path: Path, left_out: LeftOut) -> Drawing:
    root = parsing.read_xml(path)
    if root.tag != "annotation":
        raise LabelFileError(f"{path}: is no annotation of VOC, but has <{root.tag[:40]}> at its root")
    name = parsing.text(root.findtext("filename") or path.stem, f"{path}: its filename")
    folder = (root.findtext("folder") or "").strip()
    sized = root.find("size") is not None
    height, width = (_number(path, root, f"size/{side}") if sized else 0 for side in ("height", "width"))
    objects = [node for node in root.findall("object") if not left_out.drops(_label(path, node), "objects")]
    boxes = [box for node in objects if (box := _box(path, node, left_out)) is not None]
    return Drawing(
        f"{folder}/{name}" if folder else name,
        str(path),
        parsing.given_size(height, width, str(path)),
        boxes=boxes,
        complete=not objects,
    )


def _label(path: Path, node: ElementTree.Element) -> str:
    return parsing.text(node.findtext("name"), f"{path}: the name of an object")


def _box(path: Path, node: ElementTree.Element, left_out: LeftOut) -> Box | None:
    label = _label(path, node)
    left_out.count("boxes of parts of objects", len(node.findall("part")))
    for tag, what in _SHAPES.items():
        if node.find(tag) is not None:
            left_out.count(f"{what} of objects, as VOC has boxes only")
    for inner in node:
        if inner.tag not in _READ and (len(inner) or (inner.text or "").strip().lower() not in _SAYS_NOTHING):
            left_out.count(f"fields <{inner.tag[:40]}> of objects")
    if node.find("bndbox") is None:
        if node.find("robndbox") is None and node.find("polygon") is None:
            raise LabelFileError(f"{path}: a {label} has no bndbox")
        return None
    y0, x0, y1, x1 = (_number(path, node, f"bndbox/{side}") for side in _SIDES)
    if y1 < y0 or x1 < x0:
        raise LabelFileError(f"{path}: a box of {label!r} ends before it begins: {x0:g}, {y0:g}, {x1:g}, {y1:g}")
    return Box(label, y0, x0, y1, x1, ignore=(node.findtext("difficult") or "").strip() not in ("", "0"))


def _number(path: Path, node: ElementTree.Element, where: str) -> float:
    return parsing.written(node.findtext(where), f"{path}: {where}")
