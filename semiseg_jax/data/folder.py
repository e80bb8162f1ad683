"""`folder`: a folder of images with whichever labels exist, no code needed.

    dataset.json            {"classes": [...], "ignore_label": 255, "colors": [[r,g,b], ...]}
    images/ID.jpg           any format that OpenCV reads
    masks/ID.png            class indices, or the `colors` of the classes    (every label file is optional)
    scribbles/ID.png        class indices where something is drawn, ignore_label elsewhere
    points.json             {ID: [[y, x, class], ...]}
    boxes.json              COCO: images, annotations with bbox [x, y, w, h], categories
    tags.json               {ID: [class, ...]}
    splits/NAME.txt         one ID a line; without `train`, `trainval` or the only other one is for training

Every image may have a different subset of the labels. Without splits/, one fifth of the images with a mask become
`val` and the others `train`. All problems of a folder are reported together, before anything is written.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from semiseg_jax.data import weak_labels
from semiseg_jax.data.folder_files import (
    Source,
    read_boxes,
    read_mask,
    read_points,
    read_scribbles,
    read_source,
    read_tags,
    stand_in,
)
from semiseg_jax.data.label_maps import Color, moved_colors, own_colors, palette_of
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size
from semiseg_jax.data.types import IGNORE, Supervision

logger = logging.getLogger("semiseg_jax")


class Folder(Layout):
    """A folder of images with whichever labels exist, at `data.path`."""

    name = "folder"
    card = Card(
        classes="2 to 254, named in dataset.json",
        splits="splits/NAME.txt; without it a fifth of the images with masks becomes val",
        licence="yours",
        source="your own images",
        tree="dataset.json, images/, and any of masks/, scribbles/, points.json, boxes.json, tags.json, splits/",
    )

    def missing(self) -> Sequence[str]:
        if not self.root.is_dir():
            return ("there is no such folder; see the folder layout in the README",)
        if not (self.root / "dataset.json").is_file():
            return (
                'dataset.json is missing; the least it may hold is {"classes": ["background", "thing"]}',
                "other layouts are named, as --config=supervised:dataset=voc,path=DIR; `semiseg list datasets` has all",
            )
        return ()

    def watched(self) -> Sequence[Path]:
        names = ("dataset.json", "images", "masks", "scribbles", "points.json", "boxes.json", "tags.json", "splits")
        return [self.root / name for name in names]

    def build(self) -> None:
        name = stand_in(path.stem for path in (self.root / "splits").glob("*.txt"))
        if name and self.data.train_split == "train":
            logger.info("%s: has no splits/train.txt, so it trains on splits/%s.txt", self.root, name)
        super().build()

    def scan(self) -> Listing:
        source = self._source = read_source(self.root, skip_bad=self.data.skip_bad)
        items = {id: Item(path, _readers(source, id)) for id, path in source.images.items()}
        return Listing(source.classes, source.background, items, source.splits, source.colors)

    def verdict(self, values: Mapping[str, set[int]]) -> Sequence[str]:
        """Masks of 0 and 255, as many tools write them, and masks without any class."""
        items, masks = self.listing.items, self._source.masks
        masked = {id: found for id, found in values.items() if Supervision.DENSE in items[id].labels}
        empty = [id for id, found in masked.items() if not found]
        if empty:
            logger.warning("%s and %d more: hold no class, and count as no mask", masks[empty[0]], len(empty) - 1)
        colors = ((masks[id], _colors(masks[id], found - {IGNORE})) for id, found in masked.items())
        if moved := moved_colors(colors, "`semiseg import-labels masks` makes masks of colours"):
            return (moved,)
        suspects = [id for id, found in masked.items() if found == {0, IGNORE}]
        if not suspects:
            return ()
        label, thing = self._source.ignore_label, self.listing.classes[1]
        if set().union(*masked.values()) == {0, IGNORE}:
            return (
                f"masks/ hold nothing but 0 and {label}, which is ignore_label: where it means {thing!r}, write 1 "
                "instead",
            )
        text = (
            f"{masks[suspects[0]]} and {len(suspects) - 1} more of {len(masked)} masks: hold nothing but 0 and "
            f"{label}, which is ignore_label; where it means {thing!r}, write 1 instead, and if it does not, "
            f'put "ignore_label": {label} into dataset.json'
        )
        if 2 * len(suspects) > len(masked) and not self._source.ignore_named:
            return (text,)
        if not self._source.ignore_named:
            logger.warning("%s", text)
        return ()


def _colors(path: Path, values: set[int]) -> dict[int, Color]:
    """The colours by which a file with a palette shows these indices."""
    with Image.open(path) as file:
        return own_colors(palette_of(file), values)


def _readers(source: Source, id: str) -> dict[Supervision, Callable[[Size], Any]]:
    """What reads each kind of label that the folder has of an image."""
    readers: dict[Supervision, tuple[Any, Callable[[Size], Any]]] = {
        Supervision.DENSE: (
            source.masks,
            lambda size: read_mask(source, id, size),
        ),
        Supervision.SCRIBBLE: (
            source.scribbles,
            lambda size: weak_labels.trace_strokes(read_scribbles(source, id, size)),
        ),
        Supervision.POINTS: (source.points, lambda size: read_points(source, id, size)),
        Supervision.BOX: (source.boxes, lambda size: read_boxes(source, id, size)),
        Supervision.TAGS: (source.tags, lambda size: read_tags(source, id)),
    }
    return {kind: read for kind, (available, read) in readers.items() if id in available}
