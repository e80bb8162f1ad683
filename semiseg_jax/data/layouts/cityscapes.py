"""`cityscapes`: Cityscapes as it is published.

    leftImg8bit/{train,val,test,train_extra}/CITY/ID_leftImg8bit.png
    gtFine/{train,val}/CITY/ID_gtFine_labelIds.png             or ID_gtFine_labelTrainIds.png where only these are
    gtFine/{train,val}/CITY/ID_gtFine_polygons.json            optional: tags
    gtFine/{train,val}/CITY/ID_gtFine_instanceIds.png          optional: boxes of vehicles and persons
    gtCoarse/{train,val,train_extra}/CITY/ID_gtCoarse_labelIds.png     optional: the masks of train_extra

Splits are train (2,975 images), val (500), test (1,525, without labels) and train_extra (19,998, with coarse masks), as
far as they are there. Masks have the 19 classes of the evaluation; what else there is has no label.

With `data.options={"classes": "vehicles+persons"}` the classes are background, vehicle (car, truck, bus, train,
motorcycle, bicycle) and person (with riders), and images have boxes: around the visible pixels of each instance. A box
is left out, as a region of which nothing is said, if it is that of a caravan or trailer, if it is smaller than
`min_box`, or if it is around a group whose members have no masks of their own.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size
from semiseg_jax.data.layouts.pairs import put
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.options import Options, option

# The classes of the evaluation in the order of their train ids: name -> (id in labelIds.png, colour).
CLASSES: Mapping[str, tuple[int, tuple[int, int, int]]] = {
    "road": (7, (128, 64, 128)), "sidewalk": (8, (244, 35, 232)), "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)), "fence": (13, (190, 153, 153)), "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)), "traffic sign": (20, (220, 220, 0)), "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)), "sky": (23, (70, 130, 180)), "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)), "car": (26, (0, 0, 142)), "truck": (27, (0, 0, 70)), "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)), "motorcycle": (32, (0, 0, 230)), "bicycle": (33, (119, 11, 32)),
}  # fmt: skip
PERSONS, VEHICLES = ("person", "rider"), ("car", "truck", "bus", "train", "motorcycle", "bicycle")
IDS = 34  # of labelIds.png
FIRST_THING = 24  # ids from here on are those of things, of which each has its own number in instanceIds.png
SPLITS = ("train", "val", "test", "train_extra")
IMAGE = "_leftImg8bit.png"


@dataclasses.dataclass(frozen=True)
class CityscapesOptions(Options):
    classes: str = option(
        "19", "those of the evaluation, or vehicles+persons, with boxes", choices=("19", "vehicles+persons")
    )
    masks: str = option("fine", "or coarse: the masks of split train", choices=("fine", "coarse"))
    min_box: int = option(10, "pixels; a smaller box is a region that is left out", low=0)


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes that are asked for, and which of them each of the 19 is."""

    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    background: int | None
    of_train_id: np.ndarray  # [19]

    @classmethod
    def make(cls, choice: str) -> "Classes":
        if choice == "19":
            return cls(tuple(CLASSES), [color for _, color in CLASSES.values()], None, np.arange(19, dtype=np.uint8))
        of = [1 if name in VEHICLES else 2 if name in PERSONS else 0 for name in CLASSES]
        colors = [(0, 0, 0), CLASSES["car"][1], CLASSES["person"][1]]
        return cls(("background", "vehicle", "person"), colors, 0, np.array(of, np.uint8))

    @property
    def of_id(self) -> np.ndarray:
        """[34] class of each value of labelIds.png."""
        table = np.full(IDS, IGNORE, np.uint8)
        table[[id for id, _ in CLASSES.values()]] = self.of_train_id
        return table

    @property
    def of_value(self) -> np.ndarray:
        """[256] class of each value of labelTrainIds.png."""
        table = np.full(256, IGNORE, np.uint8)
        table[: len(CLASSES)] = self.of_train_id
        return table


class Cityscapes(Layout):
    """Cityscapes: 19 classes, or vehicles and persons with boxes, at `data.path`."""

    name = "cityscapes"
    Options = CityscapesOptions
    card = Card(
        classes="19 of streets, or background, vehicle and person",
        splits="train 2,975, val 500, test 1,525 (no labels), train_extra 19,998 (coarse masks)",
        licence="for research; to be agreed to at the source",
        source="https://www.cityscapes-dataset.com: leftImg8bit_trainvaltest, gtFine_trainvaltest, gtCoarse",
        tree="leftImg8bit/SPLIT/CITY/, gtFine/SPLIT/CITY/ and, for coarse masks, gtCoarse/SPLIT/CITY/",
    )

    def __init__(self, data: Data):
        self.options = CityscapesOptions(**data.options)
        self.classes = Classes.make(self.options.classes)
        self.boxed = self.classes.background is not None
        super().__init__(data)

    @functools.cached_property
    def images(self) -> dict[str, dict[str, Path]]:
        """By split and id."""
        found = {split: _files(self.root / "leftImg8bit" / split, IMAGE) for split in SPLITS}
        return {split: files for split, files in found.items() if files}

    @functools.cached_property
    def labels(self) -> dict[str, dict[str, dict[str, Path]]]:
        """Label files by split, what they are and id."""
        return {
            split: {"masks": self._masks(split)}
            | {what: _files(self.root / "gtFine" / split, f"_gtFine_{name}") for what, name in _MORE.items()}
            for split in self.images
            if split != "test"
        }

    def _masks(self, split: str) -> dict[str, Path]:
        kind = self._kind(split)
        folder = self.root / kind / split
        return {**_files(folder, f"_{kind}_labelTrainIds.png"), **_files(folder, f"_{kind}_labelIds.png")}

    def _kind(self, split: str) -> str:
        coarse = split == "train_extra" or (split == "train" and self.options.masks == "coarse")
        return "gtCoarse" if coarse else "gtFine"

    def watched(self) -> Sequence[Path]:
        return [self.root / name for name in ("leftImg8bit", "gtFine", "gtCoarse")]

    def missing(self) -> Sequence[str]:
        if problems := super().missing():
            return problems
        asked = [*self.data.train_split.split("+"), *filter(None, [self.data.eval_split])]
        lacks = [
            f"{self.root}/leftImg8bit/{split}/ is missing or holds no CITY/ID{IMAGE}"
            for split in dict.fromkeys(asked)
            if split in SPLITS and split not in self.images
        ]
        kinds = {kind for kind, rows in self.data.quota.items() if rows} - {*self.data.simulate}
        files = self.labels.get("train", {})
        if "box" in kinds and not self.boxed:
            lacks.append('boxes go with --config.data.options=\'{"classes": "vehicles+persons"}\'')
        elif "box" in kinds and files and not files["boxes"]:
            lacks.append(f"{self.root}/gtFine/train/ has no ID_gtFine_{_MORE['boxes']}: data.quota asks for box rows")
        if ("tags" in kinds or self.data.strong_classes) and files and not files["tags"]:
            lacks.append(f"{self.root}/gtFine/train/ has no ID_gtFine_{_MORE['tags']}, from which tags come")
        return [*lacks, *self._incomplete()]

    def _incomplete(self) -> list[str]:
        """Folders of labels that lack some or all of their files."""
        lacks = []
        for split, labels in self.labels.items():
            images = self.images[split]
            for what, files in labels.items():
                lost = [id for id in images if id not in files]
                needed = what == "masks" and split in ("train", "val")
                if lost and (files or needed):
                    kind = self._kind(split) if what == "masks" else "gtFine"
                    name = "labelIds.png" if what == "masks" else _MORE[what]
                    lacks.append(
                        f"{self.root / kind / split}/ lacks the {what} of {len(lost)} of {len(images)} images, first "
                        f"{images[lost[0]].parent.name}/{lost[0]}_{kind}_{name}"
                    )
        return lacks

    def scan(self) -> Listing:
        items: dict[str, Item] = {}
        for split, images in self.images.items():
            labels = self.labels.get(split, {})
            put(items, {id: Item(path, dict(self._readers(labels, id))) for id, path in images.items()})
        splits = {split: list(images) for split, images in self.images.items()}
        return Listing(self.classes.names, self.classes.background, items, splits, self.classes.colors)

    def _readers(
        self, labels: Mapping[str, Mapping[str, Path]], id: str
    ) -> Sequence[tuple[Supervision, Callable[[Size], Any]]]:
        paths = {what: files[id] for what, files in labels.items() if id in files}
        readers: list[tuple[Supervision, Callable[[Size], Any]]] = []
        if "masks" in paths:
            readers.append((Supervision.DENSE, functools.partial(read_mask, paths["masks"], classes=self.classes)))
        if "boxes" in paths and self.boxed:
            read = functools.partial(read_boxes, paths["boxes"], classes=self.classes, min_box=self.options.min_box)
            readers.append((Supervision.BOX, read))
        if "tags" in paths:
            readers.append((Supervision.TAGS, functools.partial(read_tags, paths["tags"], classes=self.classes)))
        return readers


# What labels beside the masks come from.
_MORE = {"boxes": "instanceIds.png", "tags": "polygons.json"}


def read_mask(path: Path, size: Size, *, classes: Classes) -> np.ndarray:
    table = classes.of_value if path.name.endswith("labelTrainIds.png") else classes.of_id
    return read_index_map(path, size, len(classes.names), table=table)


def read_boxes(path: Path, size: Size, *, classes: Classes, min_box: int) -> tuple[np.ndarray, np.ndarray]:
    """instanceIds.png has 1000 * id + number where a thing has a number, and id elsewhere."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            values = np.asarray(file).astype(np.int32)
    except Exception:
        raise FolderError(f"{path}: not a readable PNG") from None
    if values.shape != tuple(size):
        raise FolderError(f"{path}: is {values.shape[::-1]} but its image is {size[1]}x{size[0]}")
    if values.max(initial=0) >= 1000 * IDS:
        raise FolderError(f"{path}: has the value {values.max()}, which is no instance of Cityscapes")
    y, x = np.nonzero(values >= 1000)
    numbers, of = np.unique(values[y, x], return_inverse=True)
    rows = np.tile(np.array([*size, 0, 0], np.float32), (len(numbers), 1))
    for column, (update, at) in enumerate(((np.minimum, y), (np.minimum, x), (np.maximum, y + 1), (np.maximum, x + 1))):
        update.at(rows[:, column], of, at.astype(np.float32))
    klass = classes.of_id[numbers // 1000].astype(np.int32)
    klass[(rows[:, 2:] - rows[:, :2] < min_box).any(axis=1)] = IGNORE
    groups = _groups((values >= FIRST_THING) & (values < 1000))
    return np.concatenate([rows, groups]), np.concatenate([klass, np.full(len(groups), IGNORE, np.int32)])


def _groups(region: np.ndarray) -> np.ndarray:
    """[M,4] boxes around the connected parts of a region."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    x, y, width, height = stats[1:, :4].T
    return np.stack([y, x, y + height, x + width], axis=1).astype(np.float32)


def read_tags(path: Path, size: Size, *, classes: Classes) -> np.ndarray:
    """What has a polygon, or is a group, is present and other classes absent; nothing is said of background."""
    try:
        names = {str(thing["label"]).removesuffix("group") for thing in json.loads(path.read_text())["objects"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(f"{path}: not JSON with the objects of an image and their labels") from None
    tags = np.zeros(len(classes.names), np.int8)
    tags[[int(klass) for name, klass in zip(CLASSES, classes.of_train_id, strict=True) if name in names]] = 1
    if classes.background is not None:
        tags[classes.background] = -1
    return tags


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """{ID: folder/CITY/ID + ending}."""
    found = {}
    for city in sorted(os.listdir(folder)) if folder.is_dir() else []:
        for name in sorted(os.listdir(folder / city)) if (folder / city).is_dir() else []:
            if name.endswith(ending) and name[0] != ".":
                found[name.removesuffix(ending)] = folder / city / name
    return found
