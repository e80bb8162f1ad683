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

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from semiseg_jax.data import weak_labels
from semiseg_jax.data.folder_files import Source, read_boxes, read_points, read_scribbles, read_source, read_tags
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size, read_index_map
from semiseg_jax.data.types import IGNORE, Supervision


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

    def scan(self) -> Listing:
        source = read_source(self.root)
        items = {id: Item(path, _readers(source, id)) for id, path in source.images.items()}
        return Listing(source.classes, source.background, items, source.splits, source.colors)

    def verdict(self, values: set[int]) -> Sequence[str]:
        classes = self.listing.classes
        if values == {0, IGNORE} and len(classes) > 1:
            return (
                f"masks/ hold nothing but 0 and {read_source(self.root).ignore_label}, which is ignore_label: where it "
                f"means {classes[1]!r}, write 1 instead",
            )
        return ()


def _readers(source: Source, id: str) -> dict[Supervision, Callable[[Size], Any]]:
    """What reads each kind of label that the folder has of an image."""
    num_classes = len(source.classes)
    readers: dict[Supervision, tuple[Any, Callable[[Size], Any]]] = {
        Supervision.DENSE: (
            source.masks,
            lambda size: read_index_map(source.masks[id], size, num_classes, ignore_label=source.ignore_label),
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
