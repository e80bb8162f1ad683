"""`labelme`: a .json file an image, as LabelMe writes it beside its images.

    polygon, circle, mask    areas; later ones cover earlier ones
    rectangle                a box, of all rectangles of one label and group_id; of what is no object, an area
    line, linestrip          strokes
    point, points            points
    flags of the image       those that are true are tags

`__ignore__` is an area about which nothing is said, `_background_` is background. What no shape covers is background if
all shapes are areas or boxes, and some are areas, or if there are neither shapes nor flags; inside of boxes without an
area it is unknown. A labels.txt beside the files gives the order of the classes.
"""

import base64
import binascii
import dataclasses
import functools
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import Area, Box, Drawing, Drawings, LabelFileError, Point, Size, Stroke
from semiseg_jax.exchange.folder import BACKGROUND
from semiseg_jax.exchange.geometry import ellipse, rectangle
from semiseg_jax.exchange.left_out import LeftOut

_IGNORE = "__ignore__"
_BACKGROUNDS = ("_background_", BACKGROUND)
_COUNTS = {"rectangle": (2, 4), "circle": (2, 2), "line": (2, 2), "point": (1, 1), "mask": (2, 2)}  # of points


@dataclasses.dataclass
class _Shapes:
    """The shapes of one file, as far as they were read."""

    left_out: LeftOut
    partial: bool = False  # something was left out that may cover pixels
    areas: list[Area] = dataclasses.field(default_factory=list)
    boxes: dict[Any, np.ndarray] = dataclasses.field(default_factory=dict)  # [N,2] places by label and group
    outlined: set[Any] = dataclasses.field(default_factory=set)  # labels and groups that have an area
    points: list[Point] = dataclasses.field(default_factory=list)
    strokes: list[Stroke] = dataclasses.field(default_factory=list)


def read(source: Path, *, drop: Collection[str] = ()) -> Drawings:
    """Shapes and flags of all .json files of a folder and those below, or of one file, but for the labels `drop`."""
    left_out = LeftOut(drop)
    root = source if source.is_dir() else source.parent
    files = parsing.files_below(source, ".json")
    drawings = list(parsing.each(files, lambda path: _drawing(path, root, left_out)))
    notes = []
    if empty := sum(drawing.complete and not drawing.areas for drawing in drawings):
        notes.append(f"{empty} images without shapes and flags are background throughout")
    if partial := sum(bool(drawing.areas) and not drawing.complete for drawing in drawings):
        notes.append(f"{partial} images have areas beside lines or points: what no area covers is unknown there")
    order = [name for name in _order(root) if not left_out.drops(name)]
    return Drawings(drawings, order, left_out.words(), notes=notes, dropped=left_out.dropped)


def _order(root: Path) -> list[str]:
    """The classes of labels.txt, if there is one."""
    path = root / "labels.txt"
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelFileError(f"{path}: not readable text in UTF-8 ({error})") from None
    return [_class_name(line.strip()) for line in lines if line.strip() and line.strip() != _IGNORE]


def _class_name(label: str) -> str:
    return BACKGROUND if label.lower() in _BACKGROUNDS else label


def _drawing(path: Path, root: Path, left_out: LeftOut) -> Drawing:
    content = parsing.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise LabelFileError(f"{path}: is not LabelMe's: it has no list of shapes")
    shapes = _Shapes(left_out)
    kept = [_add(shapes, shape, f"{path}: shape {number}") for number, shape in enumerate(content["shapes"])]
    flags = _flags(path, content.get("flags"), left_out)
    boxes = {key: (*places.min(0), *places.max(0)) for key, places in shapes.boxes.items()}
    whole = not (shapes.partial or shapes.points or shapes.strokes)
    if whole and shapes.areas:
        unknown = [Area(None, [rectangle(*box)]) for key, box in boxes.items() if key not in shapes.outlined]
    else:
        unknown = []
    image = parsing.text(content.get("imagePath"), f"{path}: imagePath")
    return Drawing(
        parsing.beside(path, root, image),
        str(path),
        parsing.given_size(content.get("imageHeight"), content.get("imageWidth"), str(path)),
        areas=[*unknown, *shapes.areas],
        boxes=[Box(key[0], *box) for key, box in boxes.items()],
        points=shapes.points,
        strokes=shapes.strokes,
        tags=_tags(flags, shapes),
        complete=whole and (bool(shapes.areas) or not (any(kept) or flags)),
    )


def _flags(path: Path, flags: Any, left_out: LeftOut) -> dict[str, bool]:
    """The flags of the image, by class, that are not dropped."""
    given = parsing.fields(flags or {}, f"{path}: flags")
    named = {_class_name(parsing.text(flag, f"{path}: a flag")): is_set is True for flag, is_set in given.items()}
    return {name: is_set for name, is_set in named.items() if not left_out.drops(name, "tags" if is_set else "")}


def _tags(flags: Mapping[str, bool], shapes: _Shapes) -> list[str] | None:
    """Flags that are true, and the classes of the shapes; None where no flag is."""
    tags = [flag for flag, is_set in flags.items() if is_set]
    if not tags or _IGNORE in tags:
        return None
    things: list[Area | Point | Stroke] = [*shapes.areas, *shapes.points, *shapes.strokes]
    labels = {thing.label for thing in things if thing.label is not None} | {key[0] for key in shapes.boxes}
    return [*tags, *sorted(labels - set(tags))]


def _add(shapes: _Shapes, shape: Any, what: str) -> bool:
    """Adds a shape, unless its label is dropped."""
    shape = parsing.fields(shape, what)
    label = _class_name(parsing.text(shape.get("label"), f"{what}: its label"))
    if shapes.left_out.drops(label, "shapes"):
        return False
    kind = shape.get("shape_type") or "polygon"  # which the first versions leave out
    places = parsing.places(shape.get("points"), f"{what}: its points")
    if not isinstance(kind, str):
        raise LabelFileError(f"{what}: its shape_type is {parsing.brief(kind)}")
    if kind in _COUNTS and len(places) not in range(_COUNTS[kind][0], _COUNTS[kind][1] + 1):
        raise LabelFileError(f"{what}: a {kind} has {len(places)} points")
    key = (label, str(group) if (group := shape.get("group_id")) is not None else what)
    without_place = _place(shapes, shape, kind, key, places, what)
    if without_place:
        shapes.left_out.count(without_place)
        shapes.partial = True
    for flag, is_set in parsing.fields(shape.get("flags") or {}, f"{what}: its flags").items():
        if is_set is True:
            shapes.left_out.count(f"flags {parsing.brief(flag)} of shapes")
    if str(shape.get("description") or "").strip():
        shapes.left_out.count("descriptions of shapes")
    return True


def _place(
    shapes: _Shapes, shape: Mapping[str, Any], kind: str, key: tuple[str, str], places: np.ndarray, what: str
) -> str:
    """Puts a shape where it belongs -> what it is, in words, if there is no place for it."""
    label, ignored = key[0], key[0] == _IGNORE
    if kind == "rectangle" and not (np.ptp(places, axis=0) > 0).all():
        return "rectangles without any width or height"
    if kind == "rectangle" and not ignored and label != BACKGROUND:
        shapes.boxes[key] = np.concatenate([shapes.boxes.get(key, places), places])
    elif kind in ("polygon", "circle", "mask", "rectangle"):
        if kind == "polygon" and len(places) < 3:
            return "polygons of less than three corners"
        shapes.areas.append(_area(kind, None if ignored else label, places, shape.get("mask"), what))
        shapes.outlined.add(key)
    elif kind not in ("line", "linestrip", "point", "points"):
        return f"shapes of the type {parsing.brief(kind)}"
    elif ignored:
        return f"lines and points of {_IGNORE}"
    elif kind in ("point", "points"):
        shapes.points += [Point(label, y, x) for y, x in places.tolist()]
    elif len(places):
        shapes.strokes.append(Stroke(label, places))
    return ""


def _area(kind: str, label: str | None, places: np.ndarray, mask: Any, what: str) -> Area:
    if kind == "polygon":
        return Area(label, [parsing.outline(places, what)])
    if kind == "rectangle":
        return Area(label, [rectangle(*places.min(0), *places.max(0))])
    if kind == "circle":
        (y, x), rim = places[0], places[1]
        radius = float(np.hypot(*(rim - places[0])))
        return Area(label, mask=ellipse((float(y), float(x)), (radius, radius)))
    encoded = parsing.text(mask, f"{what}: its mask")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LabelFileError(f"{what}: its mask is no PNG in base64 ({error})") from None
    (y0, x0), (y1, x1) = (places[0].astype(int).tolist(), places[1].astype(int).tolist())
    height, width = _mask_size(data, what)
    if not (0 <= y1 + 1 - y0 - height <= 1 and 0 <= x1 + 1 - x0 - width <= 1):
        raise LabelFileError(f"{what}: its mask is {width}x{height}, but its points say {x1 + 1 - x0}x{y1 + 1 - y0}")
    return Area(label, mask=functools.partial(_pasted, what, data, y0, x0))


def _mask_size(data: bytes, what: str) -> Size:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
    except Exception:
        raise LabelFileError(f"{what}: its mask is no readable PNG") from None
    return height, width


def _pasted(what: str, data: bytes, y: int, x: int, size: Size) -> np.ndarray:
    """[H,W] bool: a PNG, whose corner lies at y, x."""
    out = np.zeros(size, bool)
    height, width = _mask_size(data, what)
    if y < 0 or x < 0 or y + height > size[0] or x + width > size[1]:
        raise LabelFileError(f"{what}: its mask leaves the image")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except Exception:
        raise LabelFileError(f"{what}: its mask is no readable PNG") from None
    if pixels.ndim != 2:
        raise LabelFileError(f"{what}: its mask has colours, but must have one value a pixel")
    out[y : y + height, x : x + width] = pixels > 0
    return out
