"""`folder`: a folder of images with whichever labels exist, no code needed.

    dataset.json            {"classes": [...], "ignore_label": 255, "colors": [[r,g,b], ...]}
    images/ID.jpg           any format that OpenCV reads
    masks/ID.png            class indices                                    (every label file is optional)
    scribbles/ID.png        class indices where something is drawn, ignore_label elsewhere
    points.json             {ID: [[y, x, class], ...]}
    boxes.json              COCO: images, annotations with bbox [x, y, w, h], categories
    tags.json               {ID: [class, ...]}
    splits/NAME.txt         one ID a line

Every image may have a different subset of the labels. Without splits/, one fifth of the images with a mask become
`val` and the others `train`. All problems of a folder are reported together, before anything is written.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semiseg_jax.data import weak_labels
from semiseg_jax.data.records import IMAGE_SUFFIXES, Record, RecordBuilder, decode_image, encode_png, make_record
from semiseg_jax.data.types import IGNORE, Supervision

logger = logging.getLogger("semiseg_jax")

VERSION = 3
_DIRECT = {".jpg", ".jpeg", ".png"}  # stored as they are; anything else becomes PNG
_LAYOUT_HELP = "see the folder layout in the README"


class FolderError(ValueError):
    """What is wrong with a dataset folder, every problem on a line of its own."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The listing and the JSON files of a dataset folder; pixels are read later."""

    root: Path
    classes: Sequence[str]
    colors: Sequence[Sequence[int]]
    background: int | None
    ignore_label: int
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    scribbles: Mapping[str, Path]
    points: Mapping[str, Any]
    boxes: Mapping[str, Any]
    tags: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]]


class Folder(RecordBuilder):
    """Builds records from a folder; `simulate` draws missing weak labels from the masks.

    With `strong_classes`, mask files of images in `train_split` that may show any other class are never opened.
    The build's name holds a hash of the source's listing and of the options, so a changed folder is built again.
    """

    name = "folder"

    def __init__(
        self,
        path: str,
        *,
        data_dir: str | None = None,
        simulate: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        skip_bad: bool = False,
        strong_classes: Sequence[str] = (),
        train_split: str = "train",
    ):
        self.source = read_source(Path(path))
        closed = _weak_images(self.source, strong_classes, train_split) if strong_classes else frozenset()
        if closed:
            masks = {id: mask for id, mask in self.source.masks.items() if id not in closed}
            self.source = dataclasses.replace(self.source, masks=masks)
        self.simulate = {Supervision.parse(kind): dict(options) for kind, options in (simulate or {}).items()}
        for kind, options in self.simulate.items():
            weak_labels.check_options(kind, options)
        self.seed, self.skip_bad = seed, skip_bad
        self.meta = {
            "classes": list(self.source.classes),
            "colors": [list(color) for color in self.source.colors],
            "background": self.source.background,
        }
        simulated = {int(kind): options for kind, options in self.simulate.items()}
        spec = json.dumps([simulated, seed, skip_bad, VERSION, *sorted(closed)], sort_keys=True)
        digest = hashlib.sha256((_fingerprint(self.source.root) + spec).encode()).hexdigest()[:12]
        super().__init__(data_dir=data_dir, config_name=f"{_slug(self.source.root.name)}-{digest}")

    def split_sizes(self) -> Mapping[str, int]:
        return {split: len(ids) for split, ids in self.source.splits.items()}

    def check(self) -> list[str]:
        """Every problem of the folder, in words. Reads each file once."""
        source, problems, values = self.source, [], set[int]()
        for id in sorted({id for ids in source.splits.values() for id in ids}):
            try:
                _, _, labels = self.read(id)
                values |= set(np.unique(labels.get(Supervision.DENSE, ())).tolist())
            except FolderError as error:
                problems += str(error).split("\n")
        if values == {0, IGNORE} and len(source.classes) > 1 and not problems:
            problems.append(
                f"masks/ hold nothing but 0 and {source.ignore_label}, which is ignore_label: where it means "
                f"{source.classes[1]!r}, write 1 instead"
            )
        return problems

    def check_source(self) -> None:
        problems = [] if self.skip_bad else self.check()
        if problems:
            shown = "\n  ".join(problems[:20])
            more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise FolderError(
                f"{self.source.root} has {len(problems)} problem(s), nothing was written:\n  {shown}{more}\n"
                "Repair the files, or leave the images out with --config.data.skip_bad=True."
            )

    def generate(self, split: str) -> Iterable[tuple[Record, tuple[int, int], Iterable[Supervision]]]:
        written = 0
        for id in self.source.splits[split]:
            try:
                yield self.record(id)
                written += 1
            except FolderError as error:
                if not self.skip_bad:
                    raise
                logger.warning("left out: %s", error)
        if not written:
            raise FolderError(f"{self.source.root}: every image of split {split!r} was left out")

    def read(self, id: str) -> tuple[bytes, tuple[int, int], dict[Supervision, Any]]:
        """One image with all the labels of its files, checked -> encoded image, size, labels by kind."""
        source, problems = self.source, []
        path = source.images[id]
        data = path.read_bytes()
        try:
            image = decode_image(data)
        except ValueError:
            raise FolderError(f"{path}: not a readable image") from None
        size = (image.shape[0], image.shape[1])
        if path.suffix.lower() not in _DIRECT:
            data = encode_png(image)
        readers: Mapping[Supervision, tuple[Mapping[str, Any], Callable[[], Any]]] = {
            Supervision.DENSE: (source.masks, lambda: read_index_map(source.masks[id], size, source)),
            Supervision.SCRIBBLE: (source.scribbles, lambda: _read_scribbles(source, id, size)),
            Supervision.POINTS: (source.points, lambda: _read_points(source, id, size)),
            Supervision.BOX: (source.boxes, lambda: _read_boxes(source, id, size)),
            Supervision.TAGS: (source.tags, lambda: _read_tags(source, id)),
        }
        labels = {}
        for kind, (available, read) in readers.items():
            if id in available:
                try:
                    labels[kind] = read()
                except FolderError as error:
                    problems.append(str(error))
        if problems:
            raise FolderError("\n".join(problems))
        return data, size, labels

    def record(self, id: str) -> tuple[Record, tuple[int, int], list[Supervision]]:
        """`read`, plus simulated labels, as it is stored."""
        data, size, labels = self.read(id)
        if Supervision.SCRIBBLE in labels:
            labels[Supervision.SCRIBBLE] = weak_labels.trace_strokes(labels[Supervision.SCRIBBLE])
        if Supervision.DENSE in labels:
            self._simulate(id, labels[Supervision.DENSE], labels)
        record = make_record(
            id=id,
            image=data,
            num_classes=len(self.source.classes),
            mask=labels.get(Supervision.DENSE),
            points=labels.get(Supervision.POINTS),
            strokes=labels.get(Supervision.SCRIBBLE),
            partial=labels.get(Supervision.PARTIAL),
            boxes=labels.get(Supervision.BOX),
            tags=labels.get(Supervision.TAGS),
        )
        return record, size, [Supervision.UNLABELED, *labels]

    def _simulate(self, id: str, mask: np.ndarray, labels: dict[Supervision, Any]) -> None:
        """Adds the asked-for kinds that the image does not have."""
        for kind, options in self.simulate.items():
            if kind in labels:
                continue
            if kind == Supervision.TAGS:
                labels[kind] = weak_labels.tags(mask, len(self.source.classes))
                continue
            if kind == Supervision.BOX:
                options = {"background": self.source.background} | options
            rng = np.random.default_rng([self.seed, int(kind), zlib.crc32(id.encode())])
            labels[kind] = weak_labels.MAKERS[kind](mask, rng, **options)


def _weak_images(source: Source, strong_classes: Sequence[str], train_split: str) -> frozenset[str]:
    """Images for training whose tags do not say that they show nothing but strong classes and background."""
    strong = {source.classes.index(name) for name in strong_classes if name in source.classes} | {source.background}
    ids = {id for part in train_split.split("+") for id in source.splits.get(part, ())}

    def shown(id: str) -> set[int]:
        try:
            return set(np.flatnonzero(_read_tags(source, id) == 1))
        except FolderError:  # `check` reports it
            return {-1}

    return frozenset(id for id in ids if id not in source.tags or not shown(id) <= strong)


def read_source(root: Path) -> Source:
    """Reads the listing and the JSON files; raises `FolderError` where the layout does not hold."""
    if not root.is_dir():
        raise FolderError(f"{root}: no such dataset folder; {_LAYOUT_HELP}")
    if not (root / "dataset.json").is_file():
        raise FolderError(
            f'{root}/dataset.json is missing; the least it may hold is {{"classes": ["background", "thing"]}}'
        )
    meta = _read_json(root / "dataset.json")
    classes = meta.get("classes")
    if not isinstance(classes, list) or not 2 <= len(classes) <= 254:
        raise FolderError(
            f"{root}/dataset.json: `classes` must list 2 to 254 names; what is no thing is a class too, the background"
        )
    colors = meta.get("colors") or default_colors(len(classes))
    if len(colors) < len(classes):
        raise FolderError(f"{root}/dataset.json: {len(colors)} colors for {len(classes)} classes")
    images = _by_id(root / "images", IMAGE_SUFFIXES)
    if not images:
        raise FolderError(f"{root}/images holds no image ({', '.join(IMAGE_SUFFIXES)}); {_LAYOUT_HELP}")
    masks, scribbles = (_label_maps(root / folder) for folder in ("masks", "scribbles"))
    points = _read_json(root / "points.json") if (root / "points.json").is_file() else {}
    boxes = _coco_by_id(root / "boxes.json", classes) if (root / "boxes.json").is_file() else {}
    tags = _read_json(root / "tags.json") if (root / "tags.json").is_file() else {}
    sources = {"masks": masks, "scribbles": scribbles, "points.json": points, "boxes.json": boxes, "tags.json": tags}
    for where, by_id in sources.items():
        strangers = sorted(set(by_id) - set(images))
        if strangers:
            logger.warning("%s: %d ids in %s have no image, the first is %s", root, len(strangers), where, strangers[0])
    default_background = list(classes).index("background") if "background" in classes else None
    return Source(
        root=root,
        classes=classes,
        colors=[list(color) for color in colors[: len(classes)]],
        background=meta.get("background", default_background),
        ignore_label=int(meta.get("ignore_label", IGNORE)),
        images=images,
        masks=masks,
        scribbles=scribbles,
        points=points,
        boxes=boxes,
        tags=tags,
        splits=_read_splits(root, images, masks),
    )


def read_index_map(path: Path, size: tuple[int, int], source: Source) -> np.ndarray:
    """A mask or scribble file as [H,W] uint8 with 255 where there is no label. Palette files give their indices."""
    try:
        with Image.open(path) as file:
            array = np.asarray(file)
    except Exception:
        raise FolderError(f"{path}: not a readable PNG") from None
    if array.ndim != 2:
        raise FolderError(f"{path}: has {array.shape[-1]} channels but must hold one class index a pixel")
    if array.shape != tuple(size):
        raise FolderError(f"{path}: is {array.shape[1]}x{array.shape[0]} but its image is {size[1]}x{size[0]}")
    num_classes, ignore_label = len(source.classes), source.ignore_label
    array = np.where(array == ignore_label, IGNORE, array.astype(np.int64))
    strange = np.setdiff1d(np.unique(array), [*range(num_classes), IGNORE])
    if len(strange):
        raise FolderError(
            f"{path}: has values {strange[:8].tolist()} but the classes are 0..{num_classes - 1} "
            f"and ignore_label is {ignore_label}"
        )
    return array.astype(np.uint8)


def default_colors(num_classes: int) -> list[list[int]]:
    """Well-spaced colours; the first is dark, as it is the background of most sets."""
    hues = (np.arange(num_classes) * 0.61803) % 1.0
    bands = np.clip(np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colors = np.round(60 + 185 * bands).astype(int)
    colors[0] = 30
    return colors.tolist()


def _read_scribbles(source: Source, id: str, size: tuple[int, int]) -> np.ndarray:
    drawn = read_index_map(source.scribbles[id], size, source)
    if (drawn != IGNORE).all():
        raise FolderError(
            f"{source.scribbles[id]}: labels every pixel; where nothing is drawn it must be {source.ignore_label}, and "
            "maps of areas go to masks/"
        )
    return drawn


def _read_points(source: Source, id: str, size: tuple[int, int]) -> np.ndarray:
    rows = _rows(f"points.json: {id}", source.points[id], ("y", "x", "class"))
    outside = (rows[:, 0] < 0) | (rows[:, 1] < 0) | (rows[:, 0] >= size[0]) | (rows[:, 1] >= size[1])
    if outside.any():
        raise FolderError(f"points.json: {id}: point {rows[outside][0].tolist()} lies outside its image {list(size)}")
    places = rows[:, :2]
    if ((places > 0) & (places < 1)).any() and (places <= 1).all() and max(size) > 1:
        raise FolderError(
            f"points.json: {id}: point {rows[0].tolist()} looks like shares of the image; points are rows and columns "
            f"of pixels, here up to {[size[0] - 1, size[1] - 1]}"
        )
    _check_classes(source, f"points.json: {id}", rows[:, 2])
    return rows


def _read_boxes(source: Source, id: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(f"boxes.json: {id}", [box for box, _ in source.boxes[id]], ("y0", "x0", "y1", "x1"))
    limit = np.array([size[0], size[1]] * 2, np.float32)
    if (rows < -1).any() or (rows > limit + 1).any() or (rows[:, 2:] <= rows[:, :2]).any():
        raise FolderError(f"boxes.json: {id}: a box is empty or lies outside its image {list(size)}")
    return np.clip(rows, 0, limit), np.asarray([klass for _, klass in source.boxes[id]], np.int32)


def _read_tags(source: Source, id: str) -> np.ndarray:
    """Listed classes are present, the others absent; background is unknown unless it is listed."""
    listed = _rows(f"tags.json: {id}", source.tags[id], ())
    _check_classes(source, f"tags.json: {id}", listed)
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
        raise FolderError(f"{where}: must be a list of {items}")
    return array


def _check_classes(source: Source, where: str, values: np.ndarray) -> None:
    bad = values[(values < 0) | (values >= len(source.classes)) | (values != np.floor(values))]
    if len(bad):
        raise FolderError(f"{where}: class {bad[0]:g} but the classes are 0..{len(source.classes) - 1}")


def _coco_by_id(path: Path, classes: Sequence[str]) -> dict[str, list[tuple[list[float], int]]]:
    """{ID: [([y0,x0,y1,x1], class)]}; crowd regions get class 255. Listed images without a box have none, for sure."""
    coco = _read_json(path)
    try:
        names = {row["id"]: row["name"] for row in coco["categories"]}
        unknown = sorted(set(names.values()) - set(classes))
        ids = {row["id"]: Path(row["file_name"]).stem for row in coco["images"]}
        boxes: dict[str, list[tuple[list[float], int]]] = {id: [] for id in ids.values()}
        for row in coco["annotations"]:
            x, y, width, height = row["bbox"]
            name = names[row["category_id"]]
            if name in unknown:
                raise FolderError(f"{path}: category {name!r} is not among the classes {list(classes)}")
            klass = IGNORE if row.get("iscrowd") else list(classes).index(name)
            boxes[ids[row["image_id"]]].append(([y, x, y + height, x + width], klass))
    except FolderError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{path}: not COCO (images, annotations, categories): {error!r}") from None
    return boxes


def _read_splits(root: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, list[str]]:
    files = sorted((root / "splits").glob("*.txt"))
    if not files:
        masked = sorted(set(masks) & set(images), key=lambda id: zlib.crc32(id.encode()))
        held_out = set(masked[: max(1, round(len(masked) / 5))] if len(masked) > 1 else ())
        return {"train": sorted(set(images) - held_out), "val": sorted(held_out)}
    splits = {}
    for path in files:
        ids = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if len(set(ids)) < len(ids):
            raise FolderError(f"{path}: {len(ids) - len(set(ids))} ids are listed twice")
        missing = [id for id in ids if id not in images]
        if missing:
            raise FolderError(f"{path}: {len(missing)} of {len(ids)} ids have no image, the first is {missing[0]!r}")
        splits[path.stem] = ids
    for one, other in itertools.combinations(splits, 2):
        if "train" in (one, other) and {one, other} & {"val", "validation", "test"}:
            shared = set(splits[one]) & set(splits[other])
            if shared:
                logger.warning("%s: %d images are in both %s and %s", root, len(shared), one, other)
    return splits


def _label_maps(folder: Path) -> dict[str, Path]:
    found = _by_id(folder, (".png",))
    others = sorted(path.name for path in folder.iterdir() if path not in found.values()) if folder.is_dir() else []
    if others:
        logger.warning(
            "%s: %d files are no .png and not used, the first is %s; class indices survive in PNG only",
            folder, len(others), others[0],
        )  # fmt: skip
    return found


def _by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in suffixes:
            if path.stem in found:
                raise FolderError(f"{folder}: {found[path.stem].name} and {path.name} have the same id")
            found[path.stem] = path
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise FolderError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise FolderError(f"{path}: must hold a JSON object; {_LAYOUT_HELP}")
    return content


def _fingerprint(root: Path) -> str:
    """Names, sizes and times of all files below the folder."""
    rows = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            stat = path.stat()
            rows.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "data"
