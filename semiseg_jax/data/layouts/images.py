"""`images`: a folder of plain images without labels, at any depth, for training on unlabelled images.

The classes are those of the set that it is joined with, or the two of `data.options.classes`.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Card, Item, Layout, Listing
from semiseg_jax.data.records import IMAGE_SUFFIXES
from semiseg_jax.data.types import MOST_CLASSES
from semiseg_jax.options import OptionError, Options, option


@dataclasses.dataclass(frozen=True)
class ImagesOptions(Options):
    classes: tuple[str, ...] = option(("background", "thing"), "names, 2 to 254 of them")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= len(set(self.classes)) == len(self.classes) <= MOST_CLASSES:
            raise OptionError("classes", f"is {self.classes!r} but must be 2 to {MOST_CLASSES} different names")


class Images(Layout):
    """Plain images in a folder and the folders below it, without labels."""

    name = "images"
    Options = ImagesOptions
    card = Card(
        classes="those of data.options.classes",
        splits="train",
        licence="yours",
        source="your own images",
        tree=f"files of the kinds {' '.join(IMAGE_SUFFIXES)}, in folders at any depth",
    )

    def __init__(self, data: Data):
        self.options = ImagesOptions(**data.options)
        super().__init__(data)

    def missing(self) -> Sequence[str]:
        if not self.root.is_dir():
            return ("there is no such folder",)
        return () if self.watched() else (f"it holds no image ({', '.join(IMAGE_SUFFIXES)})",)

    def watched(self) -> Sequence[Path]:
        """The images alone: what else lies there is no matter."""
        found = []
        for folder, inner, names in os.walk(self.root, followlinks=True):
            inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
            found += [Path(folder, name) for name in sorted(names) if _is_image(name)]
        return found

    def scan(self) -> Listing:
        items: dict[str, Item] = {}
        for path in self.watched():
            id = "_".join(path.relative_to(self.root).with_suffix("").parts)
            if id in items:
                raise FolderError(f"{items[id].image} and {path} have the same id, {id!r}; rename one of them")
            items[id] = Item(path, {})
        classes = self.options.classes
        background = classes.index("background") if "background" in classes else None
        return Listing(classes, background, items, {"train": list(items)})


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
