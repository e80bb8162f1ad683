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

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data import weak_labels
from semiseg_jax.data.folder_files import FolderError, Source, read_image_and_labels, read_source, read_tags
from semiseg_jax.data.records import Record, RecordBuilder, make_record
from semiseg_jax.data.types import IGNORE, Supervision

logger = logging.getLogger("semiseg_jax")

VERSION = 3


class Folder(RecordBuilder):
    """Builds records from a folder; `simulate` draws missing weak labels from the masks.

    With `strong_classes`, mask files of images in `train_split` that may show any other class are never opened.
    The build's name holds a hash of the source's listing and of the options, so a changed folder is built again.
    """

    name = "folder"

    def __init__(
        self,
        path: str,
        *,
        data_dir: str | None = None,
        simulate: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        skip_bad: bool = False,
        strong_classes: Sequence[str] = (),
        train_split: str = "train",
    ):
        self.source = read_source(Path(path))
        closed = _weak_images(self.source, strong_classes, train_split) if strong_classes else frozenset()
        if closed:
            masks = {id: mask for id, mask in self.source.masks.items() if id not in closed}
            self.source = dataclasses.replace(self.source, masks=masks)
        self.simulate = {Supervision.parse(kind): dict(options) for kind, options in (simulate or {}).items()}
        for kind, options in self.simulate.items():
            weak_labels.check_options(kind, options)
        self.seed, self.skip_bad = seed, skip_bad
        self.meta = {
            "classes": list(self.source.classes),
            "colors": [list(color) for color in self.source.colors],
            "background": self.source.background,
        }
        simulated = {int(kind): options for kind, options in self.simulate.items()}
        spec = json.dumps([simulated, seed, skip_bad, VERSION, *sorted(closed)], sort_keys=True)
        digest = hashlib.sha256((_fingerprint(self.source.root) + spec).encode()).hexdigest()[:12]
        super().__init__(data_dir=data_dir, config_name=f"{_slug(self.source.root.name)}-{digest}")

    def split_sizes(self) -> Mapping[str, int]:
        return {split: len(ids) for split, ids in self.source.splits.items()}

    def check(self) -> list[str]:
        """Every problem of the folder, in words. Reads each file once."""
        source, problems, values = self.source, [], set[int]()
        for id in sorted({id for ids in source.splits.values() for id in ids}):
            try:
                _, _, labels = read_image_and_labels(self.source, id)
                values |= set(np.unique(labels.get(Supervision.DENSE, ())).tolist())
            except FolderError as error:
                problems += str(error).split("\n")
        if values == {0, IGNORE} and len(source.classes) > 1 and not problems:
            problems.append(
                f"masks/ hold nothing but 0 and {source.ignore_label}, which is ignore_label: where it means "
                f"{source.classes[1]!r}, write 1 instead"
            )
        return problems

    def check_source(self) -> None:
        problems = [] if self.skip_bad else self.check()
        if problems:
            shown = "\n  ".join(problems[:20])
            more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise FolderError(
                f"{self.source.root} has {len(problems)} problem(s), nothing was written:\n  {shown}{more}\n"
                "Repair the files, or leave the images out with --config.data.skip_bad=True."
            )

    def generate(self, split: str) -> Iterable[tuple[Record, tuple[int, int], Iterable[Supervision]]]:
        written = 0
        for id in self.source.splits[split]:
            try:
                yield self.record(id)
                written += 1
            except FolderError as error:
                if not self.skip_bad:
                    raise
                logger.warning("left out: %s", error)
        if not written:
            raise FolderError(f"{self.source.root}: every image of split {split!r} was left out")

    def record(self, id: str) -> tuple[Record, tuple[int, int], list[Supervision]]:
        """An image and its labels as they are stored, simulated ones among them."""
        data, size, labels = read_image_and_labels(self.source, id)
        if Supervision.SCRIBBLE in labels:
            labels[Supervision.SCRIBBLE] = weak_labels.trace_strokes(labels[Supervision.SCRIBBLE])
        if Supervision.DENSE in labels:
            self._simulate(id, labels[Supervision.DENSE], labels)
        record = make_record(
            id=id,
            image=data,
            num_classes=len(self.source.classes),
            mask=labels.get(Supervision.DENSE),
            points=labels.get(Supervision.POINTS),
            strokes=labels.get(Supervision.SCRIBBLE),
            partial=labels.get(Supervision.PARTIAL),
            boxes=labels.get(Supervision.BOX),
            tags=labels.get(Supervision.TAGS),
        )
        return record, size, [Supervision.UNLABELED, *labels]

    def _simulate(self, id: str, mask: np.ndarray, labels: dict[Supervision, Any]) -> None:
        """Adds the asked-for kinds that the image does not have."""
        for kind, options in self.simulate.items():
            if kind in labels:
                continue
            if kind == Supervision.TAGS:
                labels[kind] = weak_labels.tags(mask, len(self.source.classes))
                continue
            if kind == Supervision.BOX:
                options = {"background": self.source.background} | options
            rng = np.random.default_rng([self.seed, int(kind), zlib.crc32(id.encode())])
            labels[kind] = weak_labels.MAKERS[kind](mask, rng, **options)


def _weak_images(source: Source, strong_classes: Sequence[str], train_split: str) -> frozenset[str]:
    """Images for training whose tags do not say that they show nothing but strong classes and background."""
    strong = {source.classes.index(name) for name in strong_classes if name in source.classes} | {source.background}
    ids = {id for part in train_split.split("+") for id in source.splits.get(part, ())}

    def shown(id: str) -> set[int]:
        try:
            return set(np.flatnonzero(read_tags(source, id) == 1))
        except FolderError:  # `check` reports it
            return {-1}

    return frozenset(id for id in ids if id not in source.tags or not shown(id) <= strong)


def _fingerprint(root: Path) -> str:
    """Names, sizes and times of all files below the folder."""
    rows = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            stat = path.stat()
            rows.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "data"
