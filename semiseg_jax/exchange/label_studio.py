"""`label_studio`: what Label Studio exports as JSON or JSON-MIN, a file or a folder of such files.

Brushes, polygons and ellipses are areas, and later ones cover earlier ones; rectangles are boxes, key points are
points, choices are tags. The label `ignore` marks pixels about which nothing is said. Of several annotations of an
image the one marked as ground truth counts, else the newest; cancelled ones never do. JSON-MIN does not tell choices
from texts: both become tags there, so JSON is better where texts were typed.

Places are percent of the image as it is stored: turning its view (`image_rotation`) changes none of them.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.exchange.brush_rle import decode_alpha
from semiseg_jax.exchange.drawings import Drawing, Drawings, LabelFileError, Ring, Size
from semiseg_jax.exchange.geometry import ellipse
from semiseg_jax.exchange.left_out import LeftOut
from semiseg_jax.exchange.parsing import brief, fields, files_below, image_size, listed, outline, read_json, written
from semiseg_jax.exchange.sketch import Sketch, class_of, judged
from semiseg_jax.exchange.task_names import image_name, names_an_image, without_prefix

Fields = Mapping[str, Any]
_ABOUT_MIN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history")
_DRAWN = ("rle", "points", "radiusX", "width", "x")


def read(source: Path, *, predictions: bool = False, drop: Collection[str] = ()) -> Drawings:
    """Drawings of Label Studio's tasks, without what has one of the labels `drop`.

    With `predictions`, those of models too, where nobody annotated.
    """
    left_out = LeftOut(drop)
    tasks: dict[tuple[str, str], list[tuple[str, Fields]]] = {}
    for where, task in _tasks(source):
        name, versions = _image_of(task, where), _versions(task, where, left_out, predictions)
        tasks.setdefault((str(task.get("id", where)), name), []).extend((where, version) for version in versions)
    drawings = []
    for (_, name), annotated in tasks.items():
        if annotated:
            where, best = max(annotated, key=lambda pair: _rank(pair[1]))
            left_out.count("older annotations of images that have a newer or a ground truth one", len(annotated) - 1)
            drawings.append(_drawing(name, best, f"{where} ({name})", left_out))
    return Drawings(judged(drawings, empty=True), left_out=left_out.words(), dropped=left_out.dropped)


def _tasks(source: Path) -> Iterator[tuple[str, Fields]]:
    """(where, task) of the tasks of all files."""
    for path in files_below(source, ".json"):
        content = read_json(path)
        for number, task in enumerate(content if isinstance(content, list) else [content]):
            where = f"{path}: task {number}"
            task = fields(task, where)
            if "result" in task and isinstance(task.get("task"), dict):  # one annotation, as storages keep them
                task = {**task["task"], "annotations": [task]}
            yield where, task


def _image_of(task: Fields, where: str) -> str:
    """The path or name of the image of a task."""
    data = fields(task["data"], f"{where}: data") if "data" in task else task
    named = {key: value for key, value in data.items() if isinstance(value, str) and names_an_image(value)}
    if not named:
        raise LabelFileError(f"{where} names no image in {', '.join(map(str, data))[:200]}")
    if len(set(named.values())) > 1 and not {"image", "img"} & set(named):
        raise LabelFileError(f"{where} names several images, in {', '.join(named)[:200]}; one a task is read")
    return image_name(named.get("image") or named.get("img") or next(iter(named.values())))


def _versions(task: Fields, where: str, left_out: LeftOut, predictions: bool) -> list[Fields]:
    """The annotations of a task that count."""
    if "data" not in task:
        return [_unpacked_min(task)]
    key = "annotations" if "annotations" in task else "completions"  # as they were called before 2021
    versions = []
    for number, version in enumerate(listed(task.get(key), f"{where}: {key}")):
        version = fields(version, f"{where}: annotation {number}")
        if version.get("was_cancelled") or version.get("skipped"):
            left_out.count("cancelled annotations")
        else:
            versions.append(version)
    left_out.count("drafts", len(listed(task.get("drafts"), f"{where}: drafts")))
    predicted = [fields(each, f"{where}: prediction") for each in listed(task.get("predictions"), where)]
    if predictions and not versions:
        return predicted
    left_out.count("predictions" + " of annotated images" * predictions, len(predicted))
    return versions


def _unpacked_min(record: Fields) -> Fields:
    """JSON-MIN as an annotation: people drew or chose what stands between `id` and `annotator`."""
    keys = list(record)
    begin, end = (keys.index(key) if key in keys else len(keys) for key in ("id", "annotator"))
    results: list[Any] = []
    for key in keys:
        value, drawn = record[key], begin < keys.index(key) < end
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            results += [{"value": item, "type": key, **item} for item in value]
        elif isinstance(value, dict) and "choices" in value:
            results.append({"value": value, "type": "choices"})
        elif drawn and isinstance(value, str):
            results.append({"value": {"choices": [value]}, "type": "choices"})
        elif key not in _ABOUT_MIN and not isinstance(value, str | int | float | None):
            results.append({"type": key})
    return {**{key: record[key] for key in record if key in _ABOUT_MIN}, "result": results}


def _rank(version: Fields) -> tuple[bool, str]:
    return version.get("ground_truth") is True, str(version.get("updated_at") or version.get("created_at") or "")


def _drawing(name: str, version: Fields, where: str, left_out: LeftOut) -> Drawing:
    results = [fields(each, f"{where}: a result") for each in listed(version.get("result"), f"{where}: result")]
    sizes = {
        image_size(each.get("original_height"), each["original_width"], where)
        for each in results if each.get("original_width") is not None
    }  # fmt: skip
    if len(sizes) > 1:
        raise LabelFileError(f"{where}: its results are of images of different sizes")
    sketch = Sketch(where, sizes.pop() if sizes else None, left_out)
    regions: dict[str, tuple[Fields, set[str | None]]] = {}
    for index, each in enumerate(results):
        value = each.get("value")
        if not isinstance(value, dict):
            sketch.leave_out(f"results of type {str(each.get('type'))[:40]!r}")
            continue
        if each.get("parentID"):
            sketch.leave_out("regions' places below other regions")
        labels = _labels(value, where)
        if not any(key in value for key in _DRAWN):
            _whole_image(each, value, labels, sketch)
        elif labels or not _describes(value):
            # A shape and its label, or a label from each of two lists, are results of the same id.
            _, known = regions.setdefault(str(each.get("id", index)), (value, set()))
            known |= labels
            if each.get("item_index"):
                raise LabelFileError(f"{where}: a task of several images; one a task is read")
        else:
            sketch.leave_out("choices and texts of single regions")
    for value, labels in regions.values():
        kept = {label for label in labels if not left_out.drops(label, "regions")}
        if kept or not labels:
            _region(value, kept, sketch)
    return sketch.drawing(name, other_name=without_prefix(name))


def _labels(value: Fields, where: str) -> set[str | None]:
    names: list[Any] = []
    for key, given in value.items():
        if key.endswith("labels"):
            names += listed(given, f"{where}: {key}")
    return {class_of(name, f"{where}: a region") for name in names}


def _describes(value: Fields) -> bool:
    """Whether a result says something of a region that another result draws."""
    return any(key in value for key in ("choices", "text", "rating", "number", "taxonomy", "datetime"))


def _whole_image(result: Fields, value: Fields, labels: set[str | None], sketch: Sketch) -> None:
    if "choices" in value:
        for choice in listed(value["choices"], f"{sketch.where}: choices"):
            sketch.tag(class_of(choice, f"{sketch.where}: a choice"))
    else:
        sketch.leave_out(f"results of type {str(result.get('type'))[:40]!r}", covers=bool(labels))


def _region(value: Fields, labels: set[str | None], sketch: Sketch) -> None:
    what = f"{sketch.where}: a region"
    if sketch.size is None:
        raise LabelFileError(f"{what} has no original_width and original_height")
    label = next(iter(labels), None)
    if len(labels) != 1:
        sketch.leave_out(f"regions {'of several labels' if labels else 'without a label'}: their pixels are ignored")
        label = None
    if "rle" in value:
        sketch.area(label, mask=partial(decode_alpha, _packed(value["rle"], what), what))
    elif "points" in value:
        if value.get("closed") is False:
            sketch.leave_out("polygons that are not closed", covers=True)
        else:
            sketch.area(label, [outline(_pairs(value["points"], sketch.size, what), what)])
    elif "radiusX" in value:
        center, radii = (
            _place(value, "y", "x", sketch.size, what),
            _place(value, "radiusY", "radiusX", sketch.size, what),
        )
        if min(radii) <= 0:
            raise LabelFileError(f"{what} is an ellipse without an area")
        sketch.area(label, mask=ellipse(center, radii, _degrees(value, what)))
    elif "height" in value:
        corner, sides = _place(value, "y", "x", sketch.size, what), _place(value, "height", "width", sketch.size, what)
        corners: Ring = np.array([corner, np.add(corner, sides)])
        sketch.box(label, corners, _degrees(value, what), corner)  # it turns around its first corner
    elif "x" in value:
        sketch.point(label, *_place(value, "y", "x", sketch.size, what))
    else:
        sketch.leave_out("regions of an unknown shape", covers=True)


def _place(value: Fields, y: str, x: str, size: Size, what: str) -> tuple[float, float]:
    """y, x in pixels of two fields in percent."""
    down, right = (written(value.get(key), f"{what}: {key}", -1e4, 1e4) for key in (y, x))
    return down / 100 * size[0], right / 100 * size[1]


def _pairs(points: Any, size: Size, what: str) -> Iterator[tuple[float, float]]:
    for pair in listed(points, f"{what}: points"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise LabelFileError(f"{what}: points hold {brief(pair)}, not [x, y]")
        yield _place({"x": pair[0], "y": pair[1]}, "y", "x", size, what)


def _degrees(value: Fields, what: str) -> float:
    return written(value.get("rotation") or 0, f"{what}: rotation")


def _packed(rle: Any, what: str) -> bytes:
    try:
        return bytes(listed(rle, f"{what}: rle"))
    except (TypeError, ValueError):
        raise LabelFileError(f"{what}: rle is not a list of bytes") from None
