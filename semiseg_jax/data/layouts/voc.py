"""`voc`: Pascal VOC 2012 as it is published, with what others published beside it.

    VOC2012/JPEGImages/ID.jpg
    VOC2012/ImageSets/Segmentation/{train,val}.txt
    VOC2012/SegmentationClass/ID.png           palette PNG, 255 is void
    VOC2012/Annotations/ID.xml                 optional: boxes and tags
    SegmentationClassAug/ID.png                optional: masks of SBD as index PNG, or SBD itself:
    benchmark_RELEASE/dataset/cls/ID.mat       its folder `cls`, also below SBD/ or sbd/
    VOC2012/ImageSets/Segmentation/train_aug.txt      optional, or trainaug.txt: what train_aug is
    scribble_annotation/pascal_2012/ID.xml     optional: ScribbleSup
    points/voc_whats_the_point.json            optional: What's the Point, {ID: [{"x": .., "y": .., "cls": 0..20}, ..]};
    points/voc_whats_the_point_bg_from_scribbles.json     and clicks on background; both also as .json.gz

`data.path` is the VOCdevkit, or VOC2012 itself. Whatever is optional may lie in either; `data.options` names other
places.

Splits are train (1,464 images), val (1,449) and train_aug (10,582): the images of its list, else all that have a mask
or scribbles, without those of val. Where an image has a mask of VOC and one of SBD, VOC's is used, in every split.

Tags and boxes come from Annotations, so that no mask is opened for them. An object that is marked difficult is a tag of
its image, as it is there to be seen; its box is a region that is left out, as masks leave it out.

Published clicks and scribbles have some places far outside of their image. These are left out, and so are lines from or
to them.
"""

import dataclasses
import functools
import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.options import Options, option

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# What scribbles call some of them.
SHORT = {"plane": 1, "bike": 2, "table": 11, "plant": 16, "monitor": 20, "tv": 20}
INDEX = {name: index for index, name in enumerate(CLASSES)} | SHORT

LISTS = "ImageSets/Segmentation"
SBD_PLACES = (
    "SegmentationClassAug",
    *(
        f"{outer}{inner}cls"
        for outer in ("", "SBD/", "sbd/")
        for inner in ("benchmark_RELEASE/dataset/", "dataset/", "")
    ),
)
SCRIBBLE_PLACES = tuple(
    f"{folder}{inner}pascal_2012"
    for folder in ("", "ScribbleSup/")
    for inner in ("scribble_annotation/", "ScribbleAnnotation/", "")
)
CLICK_PLACES = ("points", "clicks", "whats_the_point")


@dataclasses.dataclass(frozen=True)
class VocOptions(Options):
    """Places, absolute or from `data.path`; empty = where the layout expects them."""

    sbd: str = option("", "folder of the masks of SBD, ID.png or ID.mat")
    scribbles: str = option("", "folder of the XML files of ScribbleSup")
    clicks: str = option("", "folder of the JSON files of What's the Point")


@dataclasses.dataclass(frozen=True)
class Tree:
    """What there is. Files are by id; a folder that is not there has none."""

    lists: Mapping[str, Sequence[str]]
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    sbd: Mapping[str, Path]
    objects: Mapping[str, Path]
    scribbles: Mapping[str, Path]
    clicks: Sequence[Path]

    def masks_of(self, ids: Iterable[str]) -> dict[str, Path]:
        both = {**self.sbd, **self.masks}
        return {id: both[id] for id in ids if id in both}

    @functools.cached_property
    def splits(self) -> dict[str, Sequence[str]]:
        """train and val, and train_aug where more than train is known of it."""
        train, val = self.lists["train"], set(self.lists["val"])
        listed = self.lists["train_aug"] or sorted({*train, *self.masks, *self.sbd, *self.scribbles} & {*self.images})
        more = [id for id in listed if id not in val]
        return {"train": train, "val": self.lists["val"]} | ({"train_aug": more} if set(more) - set(train) else {})


class Voc(Layout):
    """Pascal VOC 2012, with SBD, ScribbleSup and What's the Point where they are, at `data.path`."""

    name = "voc"
    Options = VocOptions
    card = Card(
        classes="21: background and 20 classes of objects",
        splits="train 1,464, val 1,449, train_aug 10,582 (with SBD)",
        licence="pictures under the terms of Flickr; annotations for research",
        source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012; SBD: Hariharan et al., ICCV 2011; scribbles: "
        "ScribbleSup, Lin et al., CVPR 2016; clicks: What's the Point, Bearman et al., ECCV 2016",
        tree="VOC2012/ with JPEGImages/, ImageSets/Segmentation/{train,val}.txt, SegmentationClass/, Annotations/; and "
        "any of SegmentationClassAug/ or benchmark_RELEASE/dataset/cls/*.mat, scribble_annotation/pascal_2012/, "
        "points/voc_whats_the_point*.json",
    )

    def __init__(self, data: Data):
        self.options = VocOptions(**data.options)
        super().__init__(data)

    @functools.cached_property
    def base(self) -> Path:
        """The folder VOC2012."""
        inside = (self.root / "VOC2012", self.root / "VOCdevkit" / "VOC2012")
        return next((folder for folder in inside if folder.is_dir()), self.root)

    def place(self, given: str, usual: Sequence[str]) -> Path:
        """The folder that an option names, else the first usual place that is there, else the first one."""
        if given:
            return self.root / Path(given).expanduser()
        # VOC2012 itself, the VOCdevkit around it, and what is given
        near = [self.base, *([self.base.parent] if self.base.name == "VOC2012" else []), self.root]
        candidates = [folder / name for folder in near for name in usual]
        return next((folder for folder in candidates if folder.is_dir()), candidates[0])

    @functools.cached_property
    def sources(self) -> dict[str, Path]:
        """The folder of each kind of files."""
        return {
            "images": self.base / "JPEGImages",
            "masks": self.base / "SegmentationClass",
            "objects": self.base / "Annotations",
            "sbd": self.place(self.options.sbd, SBD_PLACES),
            "scribbles": self.place(self.options.scribbles, SCRIBBLE_PLACES),
            "clicks": self.place(self.options.clicks, CLICK_PLACES),
        }

    @functools.cached_property
    def tree(self) -> Tree:
        found = self.sources
        names = {"train": ["train.txt"], "val": ["val.txt"], "train_aug": ["train_aug.txt", "trainaug.txt"]}
        return Tree(
            lists={
                split: next(filter(None, (_listed(self.base / LISTS / name) for name in files)), [])
                for split, files in names.items()
            },
            images=_by_id(found["images"], ".jpg"),
            masks=_by_id(found["masks"], ".png"),
            sbd=_by_id(found["sbd"], ".png") or _by_id(found["sbd"], ".mat"),
            objects=_by_id(found["objects"], ".xml"),
            scribbles=_by_id(found["scribbles"], ".xml"),
            clicks=sorted(found["clicks"].glob("*whats_the_point*.json*")),
        )

    def watched(self) -> Sequence[Path]:
        return [self.base / LISTS, *self.sources.values()]

    def missing(self) -> Sequence[str]:
        if problems := super().missing():
            return problems
        tree, lacks = self.tree, []
        if not tree.images:
            lacks.append(f"{self.sources['images']} is missing or holds no ID.jpg")
        for split in ("train", "val"):
            if not tree.lists[split]:
                lacks.append(f"{self.base / LISTS / split}.txt is missing or empty")
        for name in ("sbd", "scribbles", "clicks"):
            if getattr(self.options, name) and not getattr(tree, name):
                lacks.append(f"{self.sources[name]}, which data.options.{name} names, holds no such file")
        return [*lacks, *self._asked_for(), *self._incomplete()]

    def _asked_for(self) -> list[str]:
        """What is not there although the config asks for it."""
        tree, folders = self.tree, self.sources
        kinds = {Supervision.parse(kind) for kind, rows in self.data.quota.items() if rows}
        drawn = {Supervision.parse(kind) for kind in self.data.simulate}
        wanted = kinds - drawn | ({Supervision.DENSE} if kinds & drawn else set())
        needs = {
            Supervision.DENSE: (tree.masks or tree.sbd, folders["masks"]),  # also to draw others from
            Supervision.BOX: (tree.objects, folders["objects"]),
            Supervision.TAGS: (tree.objects, folders["objects"]),
            Supervision.SCRIBBLE: (tree.scribbles, folders["scribbles"]),
            Supervision.POINTS: (tree.clicks, folders["clicks"]),
        }
        lacks = [
            f"{folder} is missing or empty: data.quota asks for {kind.name.lower()} rows"
            for kind, (files, folder) in needs.items()
            if kind in wanted and not files
        ]
        if self.data.strong_classes and not tree.objects:
            lacks.append(f"{folders['objects']} is missing or empty: data.strong_classes needs the tags of every image")
        if "train_aug" in self.data.train_split.split("+") and "train_aug" not in tree.splits:
            lacks.append(
                f"data.train_split asks for train_aug: that needs the masks of SBD, in {folders['sbd']} or "
                f"{self.base.parent / SBD_PLACES[1]}, or scribbles, or the list {self.base / LISTS}/train_aug.txt"
            )
        return lacks

    def _incomplete(self) -> list[str]:
        """Folders that lack some of the files that the lists ask for."""
        tree, lacks = self.tree, []
        masked = tree.masks_of([*tree.masks, *tree.sbd])
        checks = [(split, ids, tree.images, "images", ".jpg") for split, ids in tree.splits.items()]
        checks += [(split, tree.lists[split], masked, "masks", ".png") for split in ("train", "val")]
        checks += [(split, ids, tree.objects, "objects", ".xml") for split, ids in tree.splits.items()]
        for split, ids, files, folder, suffix in checks:
            lost = [id for id in ids if id not in files]
            if files and lost:
                lacks.append(
                    f"{self.sources[folder]} lacks {len(lost)} of the {len(ids)} files of {split}, the first is "
                    f"{lost[0]}{suffix}"
                )
        return lacks

    def scan(self) -> Listing:
        tree = self.tree
        clicks = read_clicks(tree.clicks)
        ids = dict.fromkeys(itertools.chain.from_iterable(tree.splits.values()))
        masks = tree.masks_of(ids)
        readers: dict[Supervision, tuple[Mapping[str, Any], Callable[[Any, Size], Any]]] = {
            Supervision.DENSE: (masks, read_mask),
            Supervision.SCRIBBLE: (tree.scribbles, read_scribbles),
            Supervision.POINTS: (clicks, read_points),
            Supervision.BOX: (tree.objects, read_boxes),
            Supervision.TAGS: (tree.objects, read_tags),
        }
        items = {
            id: Item(
                tree.images[id],
                {kind: functools.partial(read, files[id]) for kind, (files, read) in readers.items() if id in files},
            )
            for id in ids
        }
        return Listing(CLASSES, 0, items, tree.splits, palette(len(CLASSES)))


def read_mask(path: Path, size: Size) -> np.ndarray:
    """The mask of a PNG, or of a .mat file of SBD."""
    if path.suffix == ".png":
        return read_index_map(path, size, len(CLASSES))
    from scipy.io import loadmat

    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except Exception:
        raise FolderError(f"{path}: not a readable .mat file with GTcls.Segmentation") from None
    if mask.shape != tuple(size):
        raise FolderError(f"{path}: is {mask.shape[::-1]} but its image is {size[1]}x{size[0]}")
    if strange := set(np.unique(mask).tolist()) - {*range(len(CLASSES)), IGNORE}:
        raise FolderError(f"{path}: has values {sorted(strange)[:8]} but the classes are 0..{len(CLASSES) - 1}")
    return mask.astype(np.uint8)


def read_tags(path: Path, size: Size) -> np.ndarray:
    """Objects are present and other classes absent; nothing is said of background."""
    tags = np.zeros(len(CLASSES), np.int8)
    tags[0] = -1
    for klass, _, _ in _objects(path):
        tags[klass] = 1
    return tags


def read_boxes(path: Path, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Published corners are pixels, counted from 1, that belong to the box."""
    objects = _objects(path)
    corners = np.array([corners for _, corners, _ in objects], np.float32).reshape(-1, 4)
    rows = corners - np.array([1, 1, 0, 0], np.float32)
    limit = np.array([size[0], size[1]] * 2, np.float32)
    if (rows < -1).any() or (rows > limit + 1).any() or (rows[:, 2:] <= rows[:, :2]).any():
        raise FolderError(f"{path}: a box is empty or lies outside its image, which is {size[1]}x{size[0]}")
    return np.clip(rows, 0, limit), np.array([IGNORE if hard else klass for klass, _, hard in objects], np.int32)


def _objects(path: Path) -> list[tuple[int, tuple[float, ...], bool]]:
    """(class, (y0, x0, y1, x1) as published, difficult) of every object."""
    found = []
    for node in _xml(path).iter("object"):
        name = (node.findtext("name") or "").strip()
        if name not in CLASSES:
            raise FolderError(f"{path}: object {name!r} is no class of VOC")
        try:
            corners = tuple(float(node.findtext(f"bndbox/{side}") or "") for side in ("ymin", "xmin", "ymax", "xmax"))
        except ValueError:
            raise FolderError(f"{path}: a {name} has no bndbox with xmin, ymin, xmax and ymax") from None
        found.append((INDEX[name], corners, (node.findtext("difficult") or "0").strip() == "1"))
    return found


def read_scribbles(path: Path, size: Size) -> np.ndarray:
    """Lines from each point to the next; a single point is a dot."""
    rows: list[tuple[float, ...]] = []
    for node in _xml(path).iter("polygon"):
        name = (node.findtext("tag") or "").strip()
        if name not in INDEX:
            raise FolderError(f"{path}: scribble {name!r} is no class of VOC")
        try:
            places = [(float(p.findtext("Y") or ""), float(p.findtext("X") or "")) for p in node.iter("point")]
        except ValueError:
            raise FolderError(f"{path}: a point of a {name} has no X and Y") from None
        places = places * 2 if len(places) == 1 else places
        rows += [(*start, *end, INDEX[name]) for start, end in itertools.pairwise(places)]
    strokes = np.array(rows, np.float32).reshape(-1, 5)
    return _inside(strokes, size)


def read_clicks(files: Sequence[Path]) -> dict[str, list[tuple[float, float, int]]]:
    """{ID: [(y, x, class), ...]} of all files together."""
    clicks: dict[str, list[tuple[float, float, int]]] = {}
    for path in files:
        try:
            data = path.read_bytes()
            content = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
            for id, rows in content.items():
                found = [(float(row["y"]), float(row["x"]), int(row["cls"])) for row in rows]
                if found:
                    clicks.setdefault(id, []).extend(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(f'{path}: not JSON of the form {{ID: [{{"x", "y", "cls"}}]}}: {error!r}') from None
    wrong = next((id for id, rows in clicks.items() for row in rows if not 0 <= row[2] < len(CLASSES)), None)
    if wrong is not None:
        raise FolderError(f"{files[0].parent}: a click of {wrong} has a class that is not 0..{len(CLASSES) - 1}")
    return clicks


def read_points(rows: Sequence[tuple[float, float, int]], size: Size) -> np.ndarray:
    return _inside(np.array(rows, np.float32).reshape(-1, 3), size)


def _inside(rows: np.ndarray, size: Size) -> np.ndarray:
    """Rows (y, x, ..., class) all of whose places are in the image; one that is less than a pixel outside counts."""
    places = rows[:, :-1].reshape(len(rows), -1, 2)
    last = np.array(size, np.float32) - 1
    kept = ((places > -1) & (places < last + 1)).all(axis=(1, 2))
    clipped = np.clip(places, 0, last).reshape(len(rows), -1)
    return np.concatenate([clipped, rows[:, -1:]], axis=1)[kept]


def palette(classes: int) -> list[list[int]]:
    """The colours of VOC: the bits of an index go in turn to red, green and blue, highest first."""
    return [
        [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        for index in range(classes)
    ]


def _xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise FolderError(f"{path}: not readable as XML ({error})") from None


def _listed(path: Path) -> list[str]:
    """The ids of a list, also of one whose lines are paths of images and masks."""
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def _by_id(folder: Path, suffix: str) -> dict[str, Path]:
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return {name.removesuffix(suffix): folder / name for name in names if name.endswith(suffix) and name[0] != "."}
