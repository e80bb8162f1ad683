"""Reads the files of a dataset folder, whose layout stands in `folder`, and says what is wrong with them."""

import dataclasses
import itertools
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data import folder_names
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import default_colors
from semiseg_jax.data.records import IMAGE_SUFFIXES
from semiseg_jax.data.types import IGNORE, MOST_CLASSES

logger = logging.getLogger("semiseg_jax")

_LAYOUT_HELP = "see the folder layout in the README"


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Of boxes.json: {ID: [([y0, x0, y1, x1], class)]}, and {ID: (height, width)} where it says so."""

    rows: Mapping[str, Sequence[tuple[list[float], int]]] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)


@dataclasses.dataclass(frozen=True)
class Source:
    """The listing and the JSON files of a dataset folder; pixels are read later."""

    root: Path
    classes: Sequence[str]
    colors: Sequence[Sequence[int]]
    background: int | None
    ignore_label: int
    ignore_named: bool  # dataset.json says which it is
    mask_colors: Sequence[Sequence[int]]  # what masks in colours show, where dataset.json says so
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    scribbles: Mapping[str, Path]
    points: Mapping[str, Any]
    boxes: "Boxes"
    tags: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]]


def read_source(root: Path, *, skip_bad: bool = False) -> Source:
    """Reads the listing and the JSON files; raises `FolderError` where the layout does not hold."""
    meta = _read_json(root / "dataset.json")
    classes = meta.get("classes")
    if not isinstance(classes, list) or not 2 <= len(classes) <= MOST_CLASSES:
        raise FolderError(
            f"{root}/dataset.json: `classes` must list 2 to {MOST_CLASSES} names; what is no thing is a class too, the "
            "background"
        )
    if problems := folder_names.meta_problems(meta):
        raise FolderError("\n".join(f"{root}/dataset.json: {text}" for text in problems))
    colors = meta.get("colors") or default_colors(len(classes))
    problems, remarks = folder_names.unused(root)
    if problems and not skip_bad:
        raise FolderError("\n".join(problems))
    for text in [*problems, *remarks]:
        logger.warning("%s", text)
    images = _by_id(root / "images", IMAGE_SUFFIXES)
    if not images:
        raise FolderError(f"{root}/images holds no image ({', '.join(IMAGE_SUFFIXES)}); {_LAYOUT_HELP}")
    masks, scribbles = (_label_maps(root / folder) for folder in ("masks", "scribbles"))
    points = _read_json(root / "points.json") if (root / "points.json").is_file() else {}
    boxes = _coco_by_id(root / "boxes.json", classes) if (root / "boxes.json").is_file() else Boxes()
    tags = _read_json(root / "tags.json") if (root / "tags.json").is_file() else {}
    _check_not_multi_hot(root / "tags.json", tags, len(classes))
    sources: dict[str, Iterable[str]] = {
        "masks": masks,
        "scribbles": scribbles,
        "points.json": points,
        "boxes.json": boxes,
        "tags.json": tags,
    }
    for where, by_id in sources.items():
        strangers = sorted(set(by_id) - set(images))
        if strangers:
            first = strangers[0]
            hint = "; ids are written without a suffix" if os.path.splitext(first)[0] in images else ""
            logger.warning(
                "%s: %d ids in %s have no image, the first is %s%s", root, len(strangers), where, first, hint
            )
    default_background = list(classes).index("background") if "background" in classes else None
    return Source(
        root=root,
        classes=classes,
        colors=[list(color) for color in colors[: len(classes)]],
        background=meta.get("background", default_background),
        ignore_label=meta.get("ignore_label", IGNORE),
        ignore_named="ignore_label" in meta,
        mask_colors=meta.get("colors") or (),
        images=images,
        masks=masks,
        scribbles=scribbles,
        points=points,
        boxes=boxes,
        tags=tags,
        splits=_read_splits(root, images, masks),
    )


def read_mask(source: Source, id: str, size: tuple[int, int]) -> np.ndarray | None:
    """None where it holds no class at all."""
    mask = _read_map(source, source.masks[id], size)
    return mask if (mask != IGNORE).any() else None


def read_scribbles(source: Source, id: str, size: tuple[int, int]) -> np.ndarray:
    drawn = _read_map(source, source.scribbles[id], size)
    if (drawn != IGNORE).all():
        raise FolderError(
            f"{source.scribbles[id]}: labels every pixel; where nothing is drawn it must be {source.ignore_label}, and "
            "maps of areas go to masks/"
        )
    return drawn


def _read_map(source: Source, path: Path, size: tuple[int, int]) -> np.ndarray:
    return read_index_map(path, size, len(source.classes), ignore_label=source.ignore_label, colors=source.mask_colors)


def read_points(source: Source, id: str, size: tuple[int, int]) -> np.ndarray:
    rows = _rows(f"{source.root}/points.json: {id}", source.points[id], ("y", "x", "class"))
    outside = (rows[:, 0] < 0) | (rows[:, 1] < 0) | (rows[:, 0] >= size[0]) | (rows[:, 1] >= size[1])
    if outside.any():
        swapped = (rows[:, 1] >= 0) & (rows[:, 0] >= 0) & (rows[:, 1] < size[0]) & (rows[:, 0] < size[1])
        hint = "; points are [y, x, class], are these [x, y, class]?" if swapped.all() else ""
        raise FolderError(
            f"{source.root}/points.json: {id}: point {rows[outside][0].tolist()} lies outside its image, which is "
            f"{size[0]} high and {size[1]} wide{hint}"
        )
    places = rows[:, :2]
    if ((places > 0) & (places < 1)).any() and (places <= 1).all() and max(size) > 1:
        raise FolderError(
            f"{source.root}/points.json: {id}: point {rows[0].tolist()} looks like shares of the image; "
            f"points are rows and columns of pixels, here up to {[size[0] - 1, size[1] - 1]}"
        )
    _check_classes(source, f"{source.root}/points.json: {id}", rows[:, 2])
    return rows


def read_boxes(source: Source, id: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    given = source.boxes.rows[id]
    rows = _rows(f"{source.root}/boxes.json: {id}", [box for box, _ in given], ("y0", "x0", "y1", "x1"))
    drawn_on = source.boxes.sizes.get(id, size)
    if tuple(drawn_on) != tuple(size):
        here = f"{source.root}/boxes.json: {id}"
        raise FolderError(f"{here}: was drawn on {drawn_on[1]}x{drawn_on[0]} but its image is {size[1]}x{size[0]}")
    limit = np.array([size[0], size[1]] * 2, np.float32)
    empty = (rows[:, 2:] <= rows[:, :2]).any(1)
    outside = (rows < -1).any(1) | (rows > limit + 1).any(1)
    for bad, what in ((empty, "has no area"), (outside, f"lies outside its image {size[1]}x{size[0]}")):
        if bad.any():
            y0, x0, y1, x1 = rows[bad][0].tolist()
            raise FolderError(f"{source.root}/boxes.json: {id}: box {[x0, y0, x1 - x0, y1 - y0]} {what}")
    return np.clip(rows, 0, limit), np.asarray([klass for _, klass in given], np.int32)


def read_tags(source: Source, id: str) -> np.ndarray:
    """Listed classes are present, the others absent; background is unknown unless it is listed."""
    listed = _rows(f"{source.root}/tags.json: {id}", source.tags[id], ())
    if len(np.unique(listed)) < len(listed):
        raise FolderError(
            f"{source.root}/tags.json: {id}: lists a class twice; tags are the indices of classes that are there"
        )
    _check_classes(source, f"{source.root}/tags.json: {id}", listed)
    tags = np.zeros(len(source.classes), np.int8)
    if source.background is not None:
        tags[source.background] = -1
    tags[listed.astype(np.int64)] = 1
    return tags


def _rows(where: str, rows: Any, columns: Sequence[str]) -> np.ndarray:
    """A list of rows with these columns, or of plain numbers where there are none, as float32."""
    try:
        array = np.asarray(rows, np.float32)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)
    shape = (len(columns),) if columns else ()
    if array.shape == (0,):
        return array.reshape(0, *shape)
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape or not np.isfinite(array).all():
        items = f"[{', '.join(columns)}]" if columns else "class indices"
        raise FolderError(f"{where}: is {str(rows)[:60]} but must be a list of {items}")
    return array


def _check_classes(source: Source, where: str, values: np.ndarray) -> None:
    bad = values[(values < 0) | (values >= len(source.classes)) | (values != np.floor(values))]
    if len(bad):
        raise FolderError(f"{where}: class {bad[0]:g} but the classes are 0..{len(source.classes) - 1}")


def _check_not_multi_hot(path: Path, tags: Mapping[str, Any], num_classes: int) -> None:
    """Rows of 0 and 1, one a class, would be read as classes 0 and 1."""
    rows = [row for row in tags.values() if isinstance(row, list)]
    hot = [row for row in rows if len(row) == num_classes and all(value in (0, 1) for value in row)]
    if hot and len(hot) == len(rows) and any(row != [0, 1] for row in hot):
        raise FolderError(
            f"{path}: holds a row of 0 and 1 for each image, such as {hot[0]}, but must list the indices of the "
            f"classes that are there, here {[klass for klass, value in enumerate(hot[0]) if value]}"
        )


def _coco_by_id(path: Path, classes: Sequence[str]) -> Boxes:
    """Crowd regions get class 255. Listed images without a box have none, for sure."""
    coco = _read_json(path)
    try:
        names = {row["id"]: row["name"] for row in coco["categories"]}
        unknown = sorted(set(names.values()) - set(classes))
        files: dict[str, str] = {}
        ids = {}
        sizes = {}
        for row in coco["images"]:
            id = ids[row["id"]] = Path(row["file_name"]).stem
            if id in files:
                raise FolderError(f"{path}: {files[id]!r} and {row['file_name']!r} would both be about the image {id}")
            files[id] = row["file_name"]
            if "height" in row and "width" in row:
                sizes[id] = (row["height"], row["width"])
        boxes: dict[str, list[tuple[list[float], int]]] = {id: [] for id in files}
        for number, row in enumerate(coco["annotations"]):
            lacking = [key for key in ("bbox", "category_id", "image_id") if key not in row]
            if lacking:
                raise FolderError(f"{path}: annotation {row.get('id', number)} has no {lacking[0]!r}")
            x, y, width, height = row["bbox"]
            name = names[row["category_id"]]
            if name in unknown:
                raise FolderError(f"{path}: category {name!r} is not among the classes {list(classes)}")
            klass = IGNORE if row.get("iscrowd") else list(classes).index(name)
            boxes[ids[row["image_id"]]].append(([y, x, y + height, x + width], klass))
    except FolderError:
        raise
    except KeyError as error:
        raise FolderError(
            f"{path}: not COCO (images, annotations, categories): {error} is nowhere to be found"
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise FolderError(f"{path}: not COCO (images, annotations, categories): {error}") from None
    return Boxes(boxes, sizes)


def _read_splits(root: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, list[str]]:
    files = sorted((root / "splits").glob("*.txt"))
    if not files:
        masked = sorted(set(masks) & set(images), key=lambda id: zlib.crc32(id.encode()))
        held_out = set(masked[: max(1, round(len(masked) / 5))] if len(masked) > 1 else ())
        return {"train": sorted(set(images) - held_out), "val": sorted(held_out)}
    splits = {}
    for path in files:
        ids = [_as_id(line.strip(), images) for line in read_text(path).splitlines() if line.strip()]
        if len(set(ids)) < len(ids):
            raise FolderError(f"{path}: {len(ids) - len(set(ids))} ids are listed twice")
        missing = [id for id in ids if id not in images]
        if missing:
            raise FolderError(f"{path}: {len(missing)} of {len(ids)} ids have no image, the first is {missing[0]!r}")
        splits[path.stem] = ids
    if name := stand_in(splits):
        splits["train"] = splits[name]
    for one, other in itertools.combinations(splits, 2):
        if "train" in (one, other) and {one, other} & {"val", "validation", "test"}:
            shared = set(splits[one]) & set(splits[other])
            if shared:
                logger.warning("%s: %d images are in both %s and %s", root, len(shared), one, other)
    return splits


def stand_in(splits: Iterable[str]) -> str:
    """The split to train on where none is called train: trainval, training, or the only one that is not for testing."""
    names = set(splits)
    left = names - {"val", "valid", "validation", "test", "testing"}
    if not names or "train" in names:
        return ""
    return next((name for name in ("trainval", "training") if name in names), left.pop() if len(left) == 1 else "")


def _as_id(line: str, images: Mapping[str, Path]) -> str:
    """The id that a line of a split means: it may be the name of the image's file, too."""
    name = Path(line)
    return name.stem if line not in images and name.stem in images and images[name.stem].name == name.name else line


def _label_maps(folder: Path) -> dict[str, Path]:
    found = _by_id(folder, (".png",))
    used = {path.name for path in found.values()}
    others = (
        sorted(name for name in os.listdir(folder) if name not in used and not name.startswith("."))
        if folder.is_dir()
        else []
    )
    if others:
        logger.warning(
            "%s: %d files are no .png and not used, the first is %s; class indices survive in PNG only",
            folder, len(others), others[0],
        )  # fmt: skip
    return found


def _by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes and not name.startswith("."):
            if stem in found:
                raise FolderError(f"{folder}: {found[stem].name} and {name} have the same id")
            found[stem] = folder / name
    return found


def read_text(path: Path) -> str:
    """A file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FolderError(f"{path}: is no text in UTF-8; save it as UTF-8") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except FolderError:
        raise
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise FolderError(f"{path}: must hold a JSON object; {_LAYOUT_HELP}")
    return content
