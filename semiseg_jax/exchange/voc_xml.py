"""`voc`: an .xml file an image with the boxes of its objects, as Pascal VOC, LabelImg and many exports write it.

Difficult objects are regions to ignore. Corners are the first and the last pixel of a box, counted from 1; where a
corner of 0 occurs, the tool counted from 0, and corners are taken as edges.
"""

import dataclasses
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import Box, Drawing, Drawings, LabelFileError

_SIDES = ("ymin", "xmin", "ymax", "xmax")


def read(source: Path) -> Drawings:
    """The boxes of all .xml files of a folder and those below, or of one file."""
    left_out: Counter[str] = Counter()
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
    return Drawings(drawings, left_out=[f"{count} {what}" for what, count in left_out.items()], notes=notes)


def _edges(box: Box) -> Box:
    """The edges of a box whose corners are pixels, counted from 1."""
    return dataclasses.replace(box, y0=box.y0 - 1, x0=box.x0 - 1)


def _with_area(drawing: Drawing, left_out: Counter[str]) -> list[Box]:
    boxes = [box for box in drawing.boxes if box.y0 < box.y1 and box.x0 < box.x1]
    left_out.update({"boxes without any width or height": n} if (n := len(drawing.boxes) - len(boxes)) else {})
    return boxes


def _drawing(path: Path, left_out: Counter[str]) -> Drawing:
    root = parsing.read_xml(path)
    if root.tag != "annotation":
        raise LabelFileError(f"{path}: is no annotation of VOC, but has <{root.tag[:40]}> at its root")
    name = parsing.text(root.findtext("filename") or path.stem, f"{path}: its filename")
    folder = (root.findtext("folder") or "").strip()
    size = (
        [_number(path, root, f"size/{side}") for side in ("height", "width")] if root.find("size") is not None else []
    )
    objects = root.findall("object")
    boxes = [box for node in objects if (box := _box(path, node, left_out)) is not None]
    return Drawing(
        f"{folder}/{name}" if folder else name,
        str(path),
        parsing.image_size(size[0], size[1], str(path)) if size else None,
        boxes=boxes,
        complete=not objects,
    )


def _box(path: Path, node: ElementTree.Element, left_out: Counter[str]) -> Box | None:
    label = parsing.text(node.findtext("name"), f"{path}: the name of an object")
    left_out.update({"boxes of parts of objects": len(node.findall("part"))} if node.find("part") is not None else {})
    for tag, what in (("polygon", "polygons"), ("robndbox", "turned boxes"), ("mask", "masks")):
        if node.find(tag) is not None:
            left_out[f"{what} of objects, as VOC has boxes only"] += 1
    if node.find("bndbox") is None:
        if node.find("robndbox") is None and node.find("polygon") is None:
            raise LabelFileError(f"{path}: a {label} has no bndbox")
        return None
    y0, x0, y1, x1 = (_number(path, node, f"bndbox/{side}") for side in _SIDES)
    if y1 < y0 or x1 < x0:
        raise LabelFileError(f"{path}: a box of {label!r} ends before it begins: {x0:g}, {y0:g}, {x1:g}, {y1:g}")
    return Box(label, y0, x0, y1, x1, ignore=(node.findtext("difficult") or "").strip() not in ("", "0"))


def _number(path: Path, node: ElementTree.Element, where: str) -> float:
    found = node.findtext(where)
    try:
        value = float(found or "")
    except ValueError:
        raise LabelFileError(f"{path}: {where} is {parsing.brief(found)}, but must be a number") from None
    return parsing.number(value, f"{path}: {where}")
