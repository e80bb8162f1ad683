"""`coco`: COCO 2017, things and stuff, with masks from whichever of three sources there is.

    train2017/ID.jpg, val2017/ID.jpg                    images; also below images/
    unlabeled2017/ID.jpg                                a split `unlabeled`, if it is there

    annotations/panoptic_train2017.json                 panoptic: 80 things and 53 kinds of stuff;
    annotations/panoptic_train2017/ID.png               the maps may also lie beside annotations/
    stuffthingmaps/train2017/ID.png                     pixelmaps: COCO-Stuff, 80 things and 91 kinds of stuff;
                                                        also below annotations/
    annotations/instances_train2017.json                instances: things alone, drawn from polygons and run lengths

The same for val2017. Boxes and tags come from instances_*.json, else from panoptic_*.json. Crowds are labelled in masks
as their class is, and are regions to ignore among boxes. With data.options.classes="things" stuff is background.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size
from semiseg_jax.data.layouts.coco_files import Annotations, draw_instances, read_boxes, read_panoptic
from semiseg_jax.data.layouts.coco_names import PIXELMAP_NAMES, THING_IDS
from semiseg_jax.data.layouts.pairs import by_id, lacks, put, without
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.options import Options, option

YEARS = {"train": "train2017", "val": "val2017"}
SOURCES = ("panoptic", "pixelmaps", "instances")
UNLABELED = "unlabeled2017"


@dataclasses.dataclass(frozen=True)
class CocoOptions(Options):
    classes: str = option("stuff+things", "or things on background", choices=("stuff+things", "things"))
    masks: str = option("", f"{', '.join(SOURCES)}; empty = the first of them that is there", choices=("", *SOURCES))


@dataclasses.dataclass(frozen=True)
class Classes:
    """Names of the classes, and the class of each category."""

    names: Sequence[str]
    background: int | None
    of: Mapping[int, int]  # of categories that are classes

    @property
    def table(self) -> np.ndarray:
        """[256] the class of each category in masks: that of stuff is the background, if there is one."""
        table = np.full(256, IGNORE if self.background is None else self.background, np.uint8)
        for category, klass in self.of.items():
            table[category] = klass
        return table


class Coco(Layout):
    """COCO 2017: 123,287 photographs, 80 things and 53 or 91 kinds of stuff."""

    name = "coco"
    Options = CocoOptions
    card = Card(
        classes="133 (panoptic) or 171 (COCO-Stuff); or 81: background and 80 things; boxes and tags of things",
        splits="train 118287, val 5000, and unlabeled 123403 if unlabeled2017/ is there",
        licence="annotations CC BY 4.0; images: terms of use of Flickr",
        source="https://cocodataset.org/#download, https://github.com/nightrome/cocostuff",
        tree="train2017/ID.jpg, val2017/ID.jpg (or below images/), and for masks annotations/panoptic_train2017.json "
        "and panoptic_train2017/ID.png, or stuffthingmaps/train2017/ID.png, or annotations/instances_train2017.json; "
        "the same for val2017",
    )

    def __init__(self, data: Data):
        self.options = CocoOptions(**data.options)
        root = Path(data.path).expanduser()
        self.images = {split: _first(root, f"{year}", f"images/{year}") for split, year in YEARS.items()}
        self.unlabeled = _first(root, UNLABELED, f"images/{UNLABELED}")
        self.panoptic = _annotations(root, "panoptic")
        self.instances = _annotations(root, "instances")
        self.maps = {
            "panoptic": {
                split: _first(root, f"annotations/panoptic_{year}", f"panoptic_{year}") for split, year in YEARS.items()
            },
            "pixelmaps": {
                split: _first(root, f"stuffthingmaps/{year}", f"annotations/{year}") for split, year in YEARS.items()
            },
        }
        self.source = self.options.masks or next((name for name in SOURCES if self._any_of(name)), "")
        super().__init__(data)

    def _any_of(self, source: str) -> bool:
        """Whether a part of this source is there."""
        files = {"panoptic": self.panoptic, "instances": self.instances}.get(source, {})
        folders = self.maps.get(source, {})
        return any(file.path.is_file() for file in files.values()) or any(path.is_dir() for path in folders.values())

    def missing(self) -> Sequence[str]:
        if not self.root.is_dir():
            return super().missing()
        images = {split: by_id(folder, ".jpg") for split, folder in self.images.items()}
        empty = [self.images[split] for split in YEARS if not images[split]]
        problems = [lacks(folder, f"{self._named(folder)}/", "files *.jpg") for folder in empty]
        if not self.source:
            problems.append(
                "there are no masks: annotations/panoptic_*.json with panoptic_*/, or stuffthingmaps/, or "
                "annotations/instances_*.json are missing"
            )
        if self.source == "instances" and self.options.classes != "things":
            problems.append(
                'masks of instances are of things alone; give --config.data.options=\'{"classes": "things"}\''
            )
        files = {"panoptic": self.panoptic, "instances": self.instances}.get(self.source, {})
        problems += [f"{self._named(file.path)} is missing" for file in files.values() if not file.path.is_file()]
        for split, folder in self.maps.get(self.source, {}).items():
            maps = by_id(folder, ".png")
            if not maps:
                problems.append(lacks(folder, f"{self._named(folder)}/", "files *.png"))
                continue
            problems += without(images[split], maps, f"{self._named(folder)}/ has no map for", ".png")
        return problems

    def _named(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def watched(self) -> Sequence[Path]:
        files = [file.path for file in (*self.panoptic.values(), *self.instances.values())]
        return [*self.images.values(), self.unlabeled, *self.maps.get(self.source, {}).values(), *files]

    def scan(self) -> Listing:
        """Ids and kinds follow from names of files: annotations are read with the labels."""
        classes = self._classes()
        items: dict[str, Item] = {}
        splits: dict[str, list[str]] = {}
        for split, folder in self.images.items():
            maps = self.maps[self.source][split] if self.source in self.maps else None
            images = by_id(folder, ".jpg")
            splits[split] = list(images)
            found = {
                id: Item(folder / name, self._readers(split, id, maps / f"{id}.png" if maps else None, classes))
                for id, name in images.items()
            }
            put(items, found)
        unlabeled = by_id(self.unlabeled, ".jpg")
        if unlabeled:
            splits["unlabeled"] = list(unlabeled)
            put(items, {id: Item(self.unlabeled / name, {}) for id, name in unlabeled.items()})
        return Listing(classes.names, classes.background, items, splits)

    @property
    def class_names(self) -> Sequence[str]:
        return self._classes().names

    def finish_index(self, index: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        for file in (*self.panoptic.values(), *self.instances.values()):
            file.forget()
        return super().finish_index(index)

    def _classes(self) -> Classes:
        """In the order of category ids. The smaller of the files is asked, that of val."""
        if self.source == "pixelmaps":
            rows = [(id, name, id in THING_IDS) for id, name in PIXELMAP_NAMES.items()]
        else:
            file = (self.panoptic if self.source == "panoptic" else self.instances)["val"]
            rows = [(row["id"], row["name"], bool(row.get("isthing", 1))) for row in file.categories()]
        if max(id for id, _, _ in rows) > IGNORE:
            raise FolderError(f"{self.root}: ids of categories are above {IGNORE}, which is not COCO 2017")
        if self.options.classes == "things":
            things = [(id, name) for id, name, thing in rows if thing]
            names = ["background", *(name for _, name in things)]
            return Classes(names, 0, {id: place for place, (id, _) in enumerate(things, 1)})
        names = [name for _, name, _ in rows]
        return Classes(names, None, {id: place for place, (id, _, _) in enumerate(rows)})

    def _readers(
        self, split: str, id: str, map: Path | None, classes: Classes
    ) -> dict[Supervision, Callable[[Size], Any]]:
        readers: dict[Supervision, Callable[[Size], Any]] = {
            Supervision.DENSE: functools.partial(self._mask, split, id, map, classes)
        }
        for source in (self.instances[split], self.panoptic[split]):
            if source.path.is_file():
                readers.setdefault(Supervision.BOX, functools.partial(_boxes, source, id, classes))
        tagged = self.panoptic[split] if self.source == "panoptic" else self.instances[split]
        if tagged.path.is_file():
            readers[Supervision.TAGS] = functools.partial(_tags, tagged, id, classes)
        return readers

    def _mask(self, split: str, id: str, map: Path | None, classes: Classes, size: Size) -> np.ndarray:
        if map is None:
            file = self.instances[split]
            return draw_instances(f"{file.path}: {id}", file.segments(id, size), classes.table, size)
        if self.source == "panoptic":
            return read_panoptic(map, self.panoptic[split].segments(id, size), classes.table, size)
        # Maps of COCO-Stuff hold ids less one.
        table = np.append(classes.table[1:], np.uint8(IGNORE))
        return read_index_map(map, size, len(classes.names), table=table)


def _annotations(root: Path, kind: str) -> dict[str, Annotations]:
    return {split: Annotations(root / "annotations" / f"{kind}_{year}.json") for split, year in YEARS.items()}


def _boxes(file: Annotations, id: str, classes: Classes, size: Size) -> tuple[np.ndarray, np.ndarray]:
    things = {row["id"] for row in file.categories() if row.get("isthing", 1)}
    of_things = {category: klass for category, klass in classes.of.items() if category in things}
    return read_boxes(file.segments(id, size), of_things, size)


def _tags(file: Annotations, id: str, classes: Classes, size: Size) -> np.ndarray:
    """Of the categories that the file knows of: present or absent."""
    del size
    tags = np.full(len(classes.names), -1, np.int8)
    known = {row["id"] for row in file.categories()}
    tags[[klass for category, klass in classes.of.items() if category in known]] = 0
    tags[[classes.of[row["category_id"]] for row in file.segments(id) if row["category_id"] in classes.of]] = 1
    return tags


def _first(root: Path, *names: str) -> Path:
    """The first of these folders that is there, else the first of them."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])
