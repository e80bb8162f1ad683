"""Folders of images beside folders of their labels, and random splits: what several published layouts share."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Item, Layout, Size
from semiseg_jax.data.types import Supervision
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class SplitOptions(Options):
    """Of sets that come without training and validation lists."""

    seed: int = option(0, "of the random split")
    val: int = option(0, "training images that make a split val instead", low=0)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A folder of images and one of their labels, where files of one image have the same name but for its end."""

    images: str
    labels: str
    image_end: str = ".jpg"
    label_end: str = ".png"

    def files(self, root: Path) -> dict[str, tuple[Path, Path]]:
        """{ID: (image, labels)} of a tree without problems."""
        images, labels = by_id(root / self.images, self.image_end), by_id(root / self.labels, self.label_end)
        return {id: (root / self.images / name, root / self.labels / labels[id]) for id, name in images.items()}

    def items(self, root: Path, read: Callable[[Path, Size], Any]) -> dict[str, Item]:
        """What `read` makes of a label file is the mask of its image."""
        return {
            id: Item(image, {Supervision.DENSE: functools.partial(read, labels)})
            for id, (image, labels) in self.files(root).items()
        }

    def problems(self, root: Path) -> list[str]:
        """What is missing, in words."""
        ends = {self.images: self.image_end, self.labels: self.label_end}
        found = {folder: by_id(root / folder, end) for folder, end in ends.items()}
        empty = [folder for folder in ends if not found[folder]]
        if empty:
            return [lacks(root / folder, f"{folder}/", f"files *{ends[folder]}") for folder in empty]
        images, labels = found[self.images], found[self.labels]
        return [
            *without(images, labels, f"{self.labels}/ has no labels for", self.label_end),
            *without(labels, images, f"{self.images}/ has no image for", self.image_end),
        ]


class PairLayout(Layout):
    """Base of layouts of one folder of images and one of labels."""

    pair: Pair

    def missing(self) -> Sequence[str]:
        return super().missing() or self.pair.problems(self.root)

    def watched(self) -> Sequence[Path]:
        return [self.root / self.pair.images, self.root / self.pair.labels]


def put(items: dict[str, Item], more: Mapping[str, Item]) -> None:
    """Adds the items of another split, which must have other ids: one image would be read for both."""
    for id, item in more.items():
        if id in items:
            raise FolderError(f"{items[id].image} and {item.image} have the same name; an image is in one split")
        items[id] = item


def by_id(folder: Path, end: str) -> dict[str, str]:
    """{ID: name} of the files ID + `end` in a folder, in order; those of no folder are none."""
    if not folder.is_dir():
        return {}
    names = sorted(
        name for name in os.listdir(folder) if name.lower().endswith(end.lower()) and not name.startswith(".")
    )
    return {name[: -len(end)]: name for name in names}


def lacks(folder: Path, name: str, what: str) -> str:
    return f"{name} holds no {what}" if folder.is_dir() else f"{name} is missing, with {what}"


def without(wanted: Iterable[str], there: Mapping[str, str], words: str, end: str) -> list[str]:
    """A line about the ids that are wanted but not there, if any."""
    lost = [id for id in wanted if id not in there]
    return [f"{words} {len(lost)} files, the first is {lost[0]}{end}"] if lost else []


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """The ids in an order that depends on them and the seed alone."""
    return sorted(ids, key=lambda id: hashlib.sha256(f"{seed} {id}".encode()).digest())


def with_val(train: Sequence[str], test: Sequence[str], options: SplitOptions) -> dict[str, list[str]]:
    """Splits train and test, and val if some training images are to make it."""
    if options.val >= len(train):
        raise FolderError(f"data.options.val is {options.val} but there are {len(train)} training images")
    order = shuffled(train, options.seed)
    val = order[: options.val]
    return {"train": sorted(order[options.val :]), **({"val": sorted(val)} if val else {}), "test": sorted(test)}


def check_size(path: Path, found: Size, size: Size) -> None:
    if tuple(found) != tuple(size):
        raise FolderError(f"{path}: is {found[1]}x{found[0]} but its image is {size[1]}x{size[0]}")
