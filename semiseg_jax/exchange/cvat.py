"""`cvat`: "CVAT for images 1.1", an annotations.xml, a folder that holds it, or the .zip that CVAT exports.

Polygons, ellipses and masks are areas; one with a higher z_order covers others, and of those with the same the later
one. Boxes, points, polylines (as strokes) and tags are what they are called. The label `ignore` marks pixels about
which nothing is said. Labels keep CVAT's order and colours; subsets become splits.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from semiseg_jax.exchange.archive import checked_names
from semiseg_jax.exchange.drawings import Drawing, Drawings, LabelFileError, Size
from semiseg_jax.exchange.geometry import ellipse
from semiseg_jax.exchange.left_out import LeftOut
from semiseg_jax.exchange.parsing import image_size, outline, parse_xml, whole, written
from semiseg_jax.exchange.sketch import Sketch, class_of, judged

_SPLITS = {"default": "", "training": "train", "validation": "val", "valid": "val", "testing": "test"}
_MAX_XML = 2**31


def read(source: Path, *, drop: Collection[str] = ()) -> Drawings:
    """Drawings of CVAT's XML files, without what has one of the labels `drop`."""
    left_out = LeftOut(drop)
    drawings: list[Drawing] = []
    colors: dict[str, list[int]] = {}
    classes: list[str] = []
    for where, content in _files(source):
        root = parse_xml(content, where)
        if root.tag != "annotations":
            raise LabelFileError(f"{where}: begins with <{root.tag[:40]}>, but CVAT's files with <annotations>")
        for label in root.iterfind("meta//labels/label"):
            _read_label(label, classes, colors, where)
        for element in root:
            if element.tag == "image":
                drawings.append(_read_image(element, where, left_out))
            elif element.tag == "track":
                left_out.count("tracks of videos: export single images from CVAT instead")
            elif element.tag not in ("version", "meta"):
                left_out.count(f"<{element.tag[:40]}>")
    kept = [name for name in dict.fromkeys(classes) if not left_out.drops(name)]
    return Drawings(judged(drawings), kept, left_out.words(), colors, dropped=left_out.dropped)


def _files(source: Path) -> list[tuple[str, bytes]]:
    """[(name, content)] of the XML files of a file, folder or archive."""
    try:
        if source.is_file() and source.suffix.lower() == ".zip":
            with zipfile.ZipFile(source) as archive:
                infos = [info for info in checked_names(archive, source) if info.filename.lower().endswith(".xml")]
                if sum(info.file_size for info in infos) > _MAX_XML:
                    raise LabelFileError(f"{source}: its XML files hold more than 2 GB")
                found = [(f"{source}: {info.filename}", archive.read(info)) for info in infos]
        else:
            paths = sorted(source.glob("*.xml")) if source.is_dir() else [source]
            found = [(str(path), path.read_bytes()) for path in paths]
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise error if isinstance(error, LabelFileError) else LabelFileError(f"{source}: {error}") from None
    if not found:
        raise LabelFileError(f"{source}: holds no .xml file")
    return found


def _read_label(label: Element, classes: list[str], colors: dict[str, list[int]], where: str) -> None:
    kind, parent = label.findtext("type") or "", label.findtext("parent") or ""
    name = class_of(label.findtext("name"), f"{where}: a label in <meta>")
    if name is None or kind == "skeleton" or parent.strip():
        return
    classes.append(name)
    color = re.fullmatch(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", (label.findtext("color") or "").strip().lower())
    if color:
        colors[name] = [int(part, 16) for part in color.groups()]


def _read_image(element: Element, where: str, left_out: LeftOut) -> Drawing:
    name = element.get("name", "")
    where = f"{where}: image {name[:200] or element.get('id', '')[:40]!r}"
    if not name:
        raise LabelFileError(f"{where} has no name")
    subset = element.get("subset", "").strip()
    split = _SPLITS.get(subset.lower(), subset.lower())
    if not re.fullmatch(r"[\w-]{0,100}", split):
        raise LabelFileError(f"{where} is of the subset {subset[:40]!r}; name it in letters, digits, - and _")
    sketch = Sketch(where, image_size(element.get("height"), element.get("width"), where), left_out)
    layers = []  # areas are painted in the order of their layers
    for shape in element:
        before = len(sketch.areas)
        _read_shape(shape, sketch)
        layer = written(shape.get("z_order", 0), f"{where}: z_order", -1e9, 1e9)
        layers += [layer] * (len(sketch.areas) - before)
        for mark in ("occluded", "group_id"):
            if shape.get(mark, "0") not in ("0", ""):
                sketch.leave_out(f"marks {mark!r} of shapes")
        for attribute in shape.iterfind("attribute"):
            sketch.leave_out(f"attributes {attribute.get('name', '')[:40]!r} of shapes")
    sketch.areas = [sketch.areas[index] for index in np.argsort(layers, kind="stable")]
    return sketch.drawing(name, split=split)


def _read_shape(shape: Element, sketch: Sketch) -> None:
    read = _SHAPES.get(shape.tag)
    if read is None:
        sketch.leave_out(f"shapes <{shape.tag[:40]}>", covers=True)
        return
    what = f"{sketch.where}: a {shape.tag}"
    label = class_of(shape.get("label"), what)
    if not sketch.left_out.drops(label, "tags" if shape.tag == "tag" else "shapes"):
        read(shape, label, sketch, what)


def _numbers(shape: Element, names: str, what: str) -> list[float]:
    return [written(shape.get(name), f"{what}: {name}") for name in names.split()]


def _places(shape: Element, what: str) -> list[tuple[float, float]]:
    """[(y, x)] of "x,y;x,y"."""
    places = []
    for pair in (shape.get("points") or "").split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise LabelFileError(f"{what}: points hold {pair[:40]!r}, not x,y")
        places.append((written(y, f"{what}: a y"), written(x, f"{what}: an x")))
    return places


def _box(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    x0, y0, x1, y1 = _numbers(shape, "xtl ytl xbr ybr", what)
    degrees = written(shape.get("rotation", 0), f"{what}: rotation")
    sketch.box(label, np.array([(y0, x0), (y1, x1)]), degrees, ((y0 + y1) / 2, (x0 + x1) / 2))


def _polygon(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    sketch.area(label, [outline(_places(shape, what), what)])


def _ellipse(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    x, y = _numbers(shape, "cx cy", what)
    width, height = (written(shape.get(name), f"{what}: {name}", 1e-3) for name in ("rx", "ry"))
    degrees = written(shape.get("rotation", 0), f"{what}: rotation")
    sketch.area(label, mask=ellipse((y, x), (height, width), degrees))


def _polyline(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    sketch.stroke(label, _places(shape, what))


def _points(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    for y, x in _places(shape, what):
        sketch.point(label, y, x)


def _tag(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    sketch.tag(label)


def _mask(shape: Element, label: str | None, sketch: Sketch, what: str) -> None:
    height, width = sketch.size or (0, 0)
    left = whole(shape.get("left"), f"{what}: left", 0, width - 1)
    top = whole(shape.get("top"), f"{what}: top", 0, height - 1)
    inner = (
        whole(shape.get("height"), f"{what}: height", 1, height - top),
        whole(shape.get("width"), f"{what}: width", 1, width - left),
    )
    area = inner[0] * inner[1]
    runs = [whole(run, f"{what}: a run of rle", 0, area) for run in (shape.get("rle") or "").split(",")]
    if sum(runs) != area:
        raise LabelFileError(f"{what}: the runs of rle sum to {sum(runs)}, but it is {inner[1]}x{inner[0]} pixels")
    sketch.area(label, mask=partial(_unpack, np.array(runs), (top, left), inner))


def _unpack(runs: np.ndarray, corner: tuple[int, int], inner: Size, size: Size) -> np.ndarray:
    """Runs of pixels outside and inside in turn, row by row, within a rectangle."""
    mask = np.zeros(size, bool)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    (top, left), (height, width) = corner, inner
    mask[top : top + height, left : left + width] = values.reshape(inner)
    return mask


_SHAPES: dict[str, Callable[[Element, str | None, Sketch, str], None]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "polyline": _polyline,
    "points": _points,
    "tag": _tag,
    "mask": _mask,
}
