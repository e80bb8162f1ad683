"""`csv`: a table with a column of images and one of tags, or one column of 0 and 1 a class.

    image,tags             image,cat,dog
    photos/1.jpg,cat dog   photos/1.jpg,1,1
    photos/2.jpg,          photos/2.jpg,0,0

Tags are separated by spaces, commas, semicolons or |. An empty field means that the image shows none of the classes.
"""

import csv
import re
from collections.abc import Collection
from pathlib import Path

from semiseg_jax.exchange.drawings import Drawing, Drawings, LabelFileError
from semiseg_jax.exchange.left_out import LeftOut

_IMAGE_COLUMNS = ("image", "filename", "file_name", "file", "path")


def read(source: Path, *, drop: Collection[str] = ()) -> Drawings:
    """Tags of a .csv file, but for the tags `drop`."""
    left_out = LeftOut(drop)
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelFileError(f"{source}: not a readable table in UTF-8 ({error})") from None
    image = next((name for name in columns if name.strip().lower() in _IMAGE_COLUMNS), None)
    if image is None:
        raise LabelFileError(
            f"{source}: has no column {' or '.join(_IMAGE_COLUMNS)}, but {', '.join(columns) or 'none'}"
        )
    others = [name for name in columns if name != image]
    listed = next((name for name in others if name.strip().lower() in ("tags", "tag", "labels", "label")), None)
    drawings = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not row[image].strip():
            raise LabelFileError(f"{source}: line {number} has another number of fields than the first, or no image")
        tags = _listed(row[listed]) if listed else _flagged(row, others, f"{source}: line {number}")
        kept = [tag for tag in tags if not left_out.drops(tag, "tags")]
        drawings.append(Drawing(row[image].strip(), f"{source}: line {number}", tags=kept))
    classes = [] if listed else [name.strip() for name in others if not left_out.drops(name.strip())]
    return Drawings(drawings, classes, left_out.words(), dropped=left_out.dropped)


def _listed(field: str) -> list[str]:
    return [tag for tag in re.split(r"[\s,;|]+", field) if tag]


def _flagged(row: dict[str, str], columns: list[str], where: str) -> list[str]:
    strange = [name for name in columns if row[name].strip() not in ("0", "1")]
    if strange or not columns:
        what = f"column {strange[0]!r} is {row[strange[0]]!r}, not 0 or 1" if strange else "has no column of tags"
        raise LabelFileError(f"{where}: {what}")
    return [name.strip() for name in columns if row[name].strip() == "1"]
