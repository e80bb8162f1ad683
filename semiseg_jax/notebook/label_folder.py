"""A dataset folder to which labels are added image by image, as a person draws them.

A shape is what one movement draws, in a form that JSON holds:

    {"kind": "stroke", "class": 1, "width": 3, "places": [[y, x], ...]}
    {"kind": "point", "class": 1, "places": [[y, x]]}
    {"kind": "box", "class": 1, "places": [[y, x], [y, x]]}      two opposite corners

Places are in pixels from the top left corner of the image: pixel i covers i to i + 1. Strokes become scribbles/ID.png,
points become points.json, boxes become boxes.json. The file `.drawn.json` keeps the shapes themselves, so that drawing
can go on another day. What other programs wrote into the folder stays: shapes that no longer give what a file holds are
read from it anew when the folder is opened.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiseg_jax.data.folder_files import read_scribbles, read_source
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import default_colors
from semiseg_jax.data.records import decode_image
from semiseg_jax.data.types import IGNORE
from semiseg_jax.data.weak_labels import trace_strokes
from semiseg_jax.engine.files import write_whole
from semiseg_jax.exchange.drawings import Drawing, Drawings, Size, Stroke
from semiseg_jax.exchange.folder import draw_strokes, image_size, write_folder

Shape = Mapping[str, Any]
_PLACES = {"stroke": 1, "point": 1, "box": 2}  # the least that each kind has
_DRAWN = ".drawn.json"


class LabelFolder:
    """A dataset folder that is there, or is made of a folder of images."""

    def __init__(self, root: str | Path, images: str | Path = "", classes: Sequence[str] = ()):
        """Opens the folder.

        Args:
          root: the dataset folder.
          images: where there is no `root` yet: a folder of images, at any depth, which are copied.
          classes: likewise, the names of the classes; the first is background, by the name "background".
        """
        self.root = Path(root).expanduser()
        if not (self.root / "dataset.json").is_file():
            self._make(images, classes)
        self._source = read_source(self.root)
        self.ids = sorted(self._source.images)
        self.classes: Sequence[str] = list(self._source.classes)
        self.colors: Sequence[Sequence[int]] = self._source.colors
        self.background = self._source.background
        if classes and list(classes) != self.classes:
            raise ValueError(
                f"{self.root} is there already, with the classes {', '.join(self.classes)}; leave `classes` out, or "
                "name another folder"
            )
        self._drawn: dict[str, list[Shape]] = {}
        self._kept: dict[str, list[Shape]] = _read(self.root / _DRAWN)

    @property
    def kinds(self) -> list[str]:
        """The kinds of labels that some image has by now, as `data.quota` calls them."""
        kinds = {"stroke": "scribble", "point": "points", "box": "box"}
        found = {shape["kind"] for id in self.ids for shape in self.shapes(id)}
        return [name for kind, name in kinds.items() if kind in found]

    def image(self, id: str) -> np.ndarray:
        """[H,W,3] uint8."""
        return decode_image(self._path(id).read_bytes())

    def size(self, id: str) -> Size:
        return image_size(self._path(id))

    def shapes(self, id: str) -> list[Shape]:
        """What is drawn on an image. Labels that another program left there become shapes."""
        if id not in self._drawn:
            kept = self._kept.get(id, [])
            try:
                found = self._found(id)
            except FolderError:  # such as strokes over every pixel, which can still be undone
                if not kept:
                    raise
                found = kept
            same = [kind for kind in _PLACES if self._agree(id, _of(kind, kept), _of(kind, found))]
            self._drawn[id] = [shape for kind in _PLACES for shape in _of(kind, kept if kind in same else found)]
            if len(same) == len(_PLACES):
                self._drawn[id] = kept  # in the order in which they were drawn
        return self._drawn[id]

    def _agree(self, id: str, kept: Sequence[Shape], found: Sequence[Shape]) -> bool:
        """Whether kept shapes of one kind still give what the file holds, in which others were found."""
        if not kept or not found:
            return not kept and not found
        if kept[0]["kind"] == "stroke":
            size = self.size(id)
            return np.array_equal(self._picture(id, kept, size), read_scribbles(self._source, id, size))
        return _rounded(kept) == _rounded(found)

    def save(self, id: str, shapes: Sequence[Shape]) -> None:
        """Makes these shapes the labels of an image, and writes what changes."""
        size, before = self.size(id), self.shapes(id)
        after = [self._checked(id, shape, size) for shape in shapes]
        self._drawn[id] = after
        for kind, write in (("stroke", self._strokes), ("point", self._points), ("box", self._boxes)):
            if _of(kind, after) != _of(kind, before):
                write(id, _of(kind, after), size)
        kept = {**_read(self.root / _DRAWN), id: after}  # another canvas may have drawn on another image
        write_whole(self.root / _DRAWN, json.dumps({id: shapes for id, shapes in kept.items() if shapes}))

    def _make(self, images: str | Path, classes: Sequence[str]) -> None:
        if len(classes) < 2:
            raise ValueError(
                f"{self.root} is no dataset folder yet, for dataset.json is missing. To make one, name a folder of "
                'images and the classes: images="photos", classes=["background", "cat"]'
            )
        if images:
            write_folder(Drawings(()), Path(images).expanduser(), self.root, classes=classes)
        elif (self.root / "images").is_dir():
            content = {"classes": list(classes), "ignore_label": IGNORE, "colors": default_colors(len(classes))}
            _write(self.root / "dataset.json", content)
        else:
            raise ValueError(f'{self.root} holds no images yet; name the folder that has them, as images="photos"')

    def _path(self, id: str) -> Path:
        if id not in self._source.images:
            raise ValueError(f"{self.root} has no image {id!r}; an ID is the name of a file without its suffix")
        return self._source.images[id]

    def _found(self, id: str) -> list[Shape]:
        source = self._source
        shapes: list[Shape] = []
        if id in source.scribbles:
            rows = trace_strokes(read_scribbles(source, id, self.size(id))).tolist()
            shapes += [_shape("stroke", klass, places, width=1) for klass, places in _lines(rows)]
        shapes += [_shape("point", klass, [[y + 0.5, x + 0.5]]) for y, x, klass in source.points.get(id, ())]
        boxes = source.boxes.rows.get(id, ())
        shapes += [_shape("box", k, [[y0, x0], [y1, x1]]) for (y0, x0, y1, x1), k in boxes if k != IGNORE]
        return shapes

    def _checked(self, id: str, shape: Shape, size: Size) -> Shape:
        kind, klass, width = shape.get("kind"), shape.get("class"), shape.get("width", 1)
        if kind not in _PLACES:
            raise ValueError(f"{id}: a shape is a {kind!r} but must be a stroke, a point or a box")
        if not isinstance(klass, int) or not 0 <= klass < len(self.classes):
            raise ValueError(f"{id}: a {kind} has class {klass!r} but the classes are 0..{len(self.classes) - 1}")
        places = np.asarray(shape.get("places", ()), np.float64)
        if places.ndim != 2 or places.shape[1] != 2 or len(places) < _PLACES[kind] or not np.isfinite(places).all():
            raise ValueError(f"{id}: the places of a {kind} must be at least {_PLACES[kind]} pairs of y, x")
        inside = size if kind == "box" else np.subtract(size, 0.01)  # the far edges of the last pixels
        more = {"width": min(max(float(width), 1.0), 500.0)} if kind == "stroke" else {}
        return _shape(kind, klass, np.clip(places, 0, inside).round(2).tolist(), **more)

    def _strokes(self, id: str, shapes: Sequence[Shape], size: Size) -> None:
        path = self.root / "scribbles" / f"{id}.png"
        if not shapes:
            path.unlink(missing_ok=True)
            return
        drawn = self._picture(id, shapes, size)
        drawn[drawn == IGNORE] = self._source.ignore_label
        write_whole(path, cv2.imencode(".png", drawn)[1].tobytes())

    def _picture(self, id: str, strokes: Sequence[Shape], size: Size) -> np.ndarray:
        """[H,W] uint8 class indices along the strokes, 255 elsewhere."""
        names = [str(number) for number in range(len(self.classes))]
        lines = [Stroke(names[shape["class"]], _line(shape), shape["width"]) for shape in strokes]
        return draw_strokes(Drawing(id, id, strokes=lines), size, names)

    def _points(self, id: str, shapes: Sequence[Shape], size: Size) -> None:
        path = self.root / "points.json"
        everything = _read(path)
        everything.pop(id, None)
        if shapes:
            everything[id] = [[*map(int, shape["places"][0]), shape["class"]] for shape in shapes]
        _write(path, everything)

    def _boxes(self, id: str, shapes: Sequence[Shape], size: Size) -> None:
        """In COCO's form. An image that is listed without boxes would say that nothing is on it."""
        path = self.root / "boxes.json"
        coco = _read(path)
        images, annotations = coco.get("images", []), coco.get("annotations", [])
        categories = coco.get("categories") or [{"id": k, "name": name} for k, name in enumerate(self.classes)]
        number = {row["name"]: row["id"] for row in categories}
        mine = next((row["id"] for row in images if Path(row["file_name"]).stem == id), None)
        kept = [row for row in annotations if row["image_id"] != mine or row.get("iscrowd")]
        if mine is None:
            mine = 1 + max((row["id"] for row in images), default=0)
            images.append({"id": mine, "file_name": self._path(id).name, "height": size[0], "width": size[1]})
        for shape in shapes:
            (y0, x0), (y1, x1) = np.sort(np.asarray(shape["places"]), axis=0).tolist()
            name = self.classes[shape["class"]]
            if name not in number:
                number[name] = 1 + max(number.values(), default=0)
                categories.append({"id": number[name], "name": name})
            kept.append({"image_id": mine, "bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": number[name]})
        listed = {row["image_id"] for row in kept}
        images = [row for row in images if row["id"] != mine or mine in listed]
        content = {**coco, "images": images, "annotations": kept, "categories": categories}
        _write(path, content if images else {})


def _rounded(shapes: Sequence[Shape]) -> list[tuple[float, ...]]:
    """Points by their pixels, boxes by their corners to a tenth, which files keep."""
    rows = []
    for shape in shapes:
        corners = np.sort(np.asarray(shape["places"], np.float64), axis=0)
        rounded = np.floor(corners) if shape["kind"] == "point" else corners.round(1)
        rows.append((*rounded.ravel().tolist(), shape["class"]))
    return sorted(rows)


def _of(kind: str, shapes: Sequence[Shape]) -> list[Shape]:
    return [shape for shape in shapes if shape["kind"] == kind]


def _shape(kind: str, klass: float, places: Sequence[Sequence[float]], **more: float) -> Shape:
    return {"kind": kind, "class": int(klass), "places": [list(place) for place in places], **more}


def _line(shape: Shape) -> np.ndarray:
    """The places of a stroke, of which a dot has two that are the same."""
    places = np.asarray(shape["places"], np.float64)
    return np.repeat(places, 2, axis=0) if len(places) == 1 else places


def _lines(rows: Sequence[Sequence[float]]) -> list[tuple[float, list[list[float]]]]:
    """Rows y0, x0, y1, x1, class of strokes -> (class, places) of whole lines, in the middle of their pixels."""
    lines: list[tuple[float, list[list[float]]]] = []
    for before, row in itertools.pairwise([None, *rows]):
        y0, x0, y1, x1, klass = row  # type: ignore[misc]  # only the first is None
        if before is None or before[2:] != [y0, x0, klass]:
            lines.append((klass, [[y0 + 0.5, x0 + 0.5]]))
        lines[-1][1].append([y1 + 0.5, x1 + 0.5])
    return lines


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    if content:
        write_whole(path, json.dumps(content, indent=1))
    else:
        path.unlink(missing_ok=True)
