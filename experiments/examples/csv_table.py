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
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.folder_files import default_colors
from semiseg_jax.data.records import Record, RecordBuilder, decode_image, decode_mask, make_record
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.options import Options, option

VERSION = 1


@dataclasses.dataclass(frozen=True)
class TableOptions(Options):
    classes: tuple[str, ...] = option((), "names, in the order of the indices in the masks")
    background: int = option(0, "the class that is background; -1 = none")


class CsvTable(RecordBuilder):
    name = "csv_table"
    Options = TableOptions  # fields of config.data.options

    def __init__(self, data: Data):
        options = TableOptions(**data.options)
        if not options.classes or not Path(data.path).is_file():
            raise ValueError("csv_table needs --config.data.path=TABLE.csv and data.options.classes, a tuple of names")
        self.table = Path(data.path).absolute()
        with self.table.open(newline="", encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))
        missing = {"image", "split"} - set(self.rows[0] if self.rows else ())
        if missing:
            raise ValueError(f"{self.table} has no column {', '.join(sorted(missing))}, or no row")
        self.classes = options.classes
        self.meta = {
            "classes": list(options.classes),
            "colors": default_colors(len(options.classes)),
            "background": options.background if options.background >= 0 else None,
        }
        super().__init__(data_dir=data.data_dir, config_name=f"{self.table.stem}-{self._fingerprint(options)}")

    def split_sizes(self) -> Mapping[str, int]:
        splits = [row["split"] for row in self.rows]
        return {split: splits.count(split) for split in dict.fromkeys(splits)}

    def check_source(self) -> None:
        lost = [str(path) for row in self.rows for path in self._files(row) if not path.is_file()]
        if lost:
            raise ValueError(f"{self.table} lists {len(lost)} files that do not exist, the first is {lost[0]}")

    def generate(self, split: str) -> Iterable[tuple[Record, tuple[int, int], Iterable[Supervision]]]:
        for row in self.rows:
            if row["split"] == split:
                try:
                    yield self._record(row)
                except ValueError as error:
                    raise ValueError(f"{self.table}: {row['image']}: {error}") from error

    def _record(self, row: Mapping[str, str]) -> tuple[Record, tuple[int, int], list[Supervision]]:
        image, *masks = (path.read_bytes() for path in self._files(row))
        height, width, _ = decode_image(image).shape
        kinds, mask, tags = [Supervision.UNLABELED], None, None
        if masks:
            mask = decode_mask(masks[0], (height, width))
            if mask.shape != (height, width) or not set(np.unique(mask)) <= {*range(len(self.classes)), IGNORE}:
                raise ValueError(
                    f"its mask must be {height}x{width} indices of {len(self.classes)} classes, or {IGNORE}"
                )
            kinds.append(Supervision.DENSE)
        if row.get("tags"):
            named = row["tags"].split()
            if not set(named) <= set(self.classes):
                raise ValueError(f"its tags are {row['tags']!r}, but the classes are {', '.join(self.classes)}")
            tags = np.array([name in named for name in self.classes], np.int8)
            if self.meta["background"] is not None:  # which nobody lists
                tags[self.meta["background"]] = -1
            kinds.append(Supervision.TAGS)
        id = Path(row["image"]).with_suffix("").as_posix().replace("/", "_")
        record = make_record(id=id, image=image, num_classes=len(self.classes), mask=mask, tags=tags)
        return record, (height, width), kinds

    def _files(self, row: Mapping[str, str]) -> list[Path]:
        return [self.table.parent / row[name] for name in ("image", "mask") if row.get(name)]

    def _fingerprint(self, options: TableOptions) -> str:
        """Of everything that the records come from: a table or a file that changed is built again."""
        files = [path for row in self.rows for path in self._files(row) if path.is_file()]
        about = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        text = f"{VERSION} {options} {about} {self.table.read_text(encoding='utf-8')}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]
