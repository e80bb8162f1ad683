"""`csv_table`: images and labels that a table lists, one image a row.

    image,mask,tags,split
    photos/1.jpg,masks/1.png,,train
    photos/2.jpg,,cat dog,train
    photos/3.jpg,masks/3.png,,val

`data.path` is the table; its files are found from its folder. A mask holds class indices, 255 is no label; tags name
the classes that an image shows, of which an empty field says nothing. Both columns may be absent. `data.options` names
the classes.
"""

import csv
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import Item, Layout, Listing, Size
from semiseg_jax.data.types import Supervision
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class TableOptions(Options):
    classes: tuple[str, ...] = option((), "names, in the order of the indices in the masks")
    background: int = option(0, "the class that is background; -1 = none")


class CsvTable(Layout):
    name = "csv_table"
    Options = TableOptions  # fields of config.data.options

    def __init__(self, data: Data):
        self.options = TableOptions(**data.options)
        self.table = Path(data.path).expanduser()
        if not self.options.classes or not self.table.is_file():
            raise ValueError("csv_table needs --config.data.path=TABLE.csv and data.options.classes, a tuple of names")
        with self.table.open(newline="", encoding="utf-8") as file:
            self.lines = list(csv.DictReader(file))
        self.background = self.options.background if self.options.background >= 0 else None
        super().__init__(data)

    def missing(self) -> list[str]:
        absent = {"image", "split"} - set(self.lines[0] if self.lines else ())
        if absent:
            return [f"it has no column {', '.join(sorted(absent))}, or no row"]
        lost = [str(path) for line in self.lines for path in self._files(line) if not path.is_file()]
        return [f"it lists {len(lost)} files that do not exist, the first is {lost[0]}"] if lost else []

    def watched(self) -> list[Path]:
        return [self.table, *(path for line in self.lines for path in self._files(line))]

    def scan(self) -> Listing:
        items: dict[str, Item] = {}
        splits: dict[str, list[str]] = {}
        for line in self.lines:
            id = Path(line["image"]).with_suffix("").as_posix().replace("/", "_")
            image, *masks = self._files(line)
            labels: dict[Supervision, Callable[[Size], Any]] = {}
            if masks:
                classes = len(self.options.classes)
                labels[Supervision.DENSE] = functools.partial(read_index_map, masks[0], num_classes=classes)
            if line.get("tags"):
                labels[Supervision.TAGS] = functools.partial(self._tags, line)
            items[id] = Item(image, labels)
            splits.setdefault(line["split"], []).append(id)
        return Listing(self.options.classes, self.background, items, splits)

    def _tags(self, line: Mapping[str, str], size: Size) -> np.ndarray:
        del size
        named = line["tags"].split()
        if not set(named) <= set(self.options.classes):
            known = ", ".join(self.options.classes)
            raise FolderError(f"{line['image']}: its tags are {line['tags']!r}, but the classes are {known}")
        tags = np.array([name in named for name in self.options.classes], np.int8)
        if self.background is not None:  # which nobody lists
            tags[self.background] = -1
        return tags

    def _files(self, line: Mapping[str, str]) -> list[Path]:
        return [self.table.parent / line[name] for name in ("image", "mask") if line.get(name)]
