"""Datasets that are files in folders: what all layouts share.

A layout lists which images there are and how the labels of each are read. Everything else is here: files are read and
checked in parallel and in one pass, images are stored no larger than training needs, and the set that results is
found again as long as the files stay as they are.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.fingerprint import fingerprint, slug
from semiseg_jax.data.label_maps import FolderError, values_of
from semiseg_jax.data.letterbox import Letterbox, resize
from semiseg_jax.data.records import (
    DatasetInfo,
    Record,
    Records,
    StoredSet,
    decode_image,
    describe_record,
    encode_png,
    is_turned,
    make_record,
    why_unreadable,
)
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import Supervision

logger = logging.getLogger("semiseg_jax")

Size = tuple[int, int]
Labels = dict[Supervision, Any]
VERSION = 5
_JPEG = (".jpg", ".jpeg")
_DIRECT = (*_JPEG, ".png")  # stored as they are; anything else becomes PNG
_SHOWN = 20
_SIZES = " but its image is "
_TURNED = " (the image is turned by its EXIF tag; its labels must be turned as well)"


@dataclasses.dataclass(frozen=True)
class Card:
    """What people ask of a dataset before they use it."""

    classes: str
    splits: str
    licence: str
    source: str  # where to get it
    tree: str  # the files that are expected below `path`


@dataclasses.dataclass(frozen=True)
class Item:
    """An image file and how the labels of each kind are read, given the image's size.

    Labels are a mask [H,W] uint8, points [P,3], strokes [S,5], boxes ([M,4], [M]) or tags [K], as `make_record` takes
    them, or None where a file labels nothing. What reads them raises `FolderError`.
    """

    image: Path
    labels: Mapping[Supervision, Callable[[Size], Any]]


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds, before pixels are read. An image may be in several splits."""

    classes: Sequence[str]
    background: int | None
    items: Mapping[str, Item]
    splits: Mapping[str, Sequence[str]]
    colors: Sequence[Sequence[int]] = ()

    @property
    def meta(self) -> dict[str, Any]:
        colors = self.colors or default_colors(len(self.classes))
        return {
            "classes": list(self.classes),
            "colors": [[int(value) for value in color] for color in colors],
            "background": self.background,
        }


class Layout(StoredSet):
    """Base of the layouts. With `data.strong_classes`, masks of training images that may show others stay closed."""

    card: ClassVar[Card]

    def __init__(self, data: Data):
        self.data, self.root = data, Path(data.path).expanduser()
        if not data.path:
            raise ValueError(f"dataset {self.name!r} needs its folder: --config.data.path=DIR")
        problems = self.missing()
        if problems:
            raise FolderError(f"{self.root} is no dataset of the layout {self.name!r}:\n  " + "\n  ".join(problems))
        closed = [sorted(data.strong_classes), data.train_split] if data.strong_classes else []
        self.how = json.dumps(
            [data.stored_side, data.skip_bad, closed, dict(data.options)], sort_keys=True, default=str
        )
        spec = f"{VERSION} {fingerprint(self.root, self.watched())} {self.how}"
        digest = hashlib.sha256(spec.encode()).hexdigest()[:12]
        super().__init__(data_dir=data.data_dir, config_name=f"{slug(self.root.name)}-{digest}")

    @property
    def state(self) -> str:
        return self.data_path.parent.name

    def missing(self) -> Sequence[str]:
        """What the tree lacks, in words; looked at before anything is read or written."""
        return () if self.root.is_dir() else ("there is no such folder",)

    @abc.abstractmethod
    def watched(self) -> Sequence[Path]:
        """Files and folders that the set is made of: one that changes makes another set."""

    @abc.abstractmethod
    def scan(self) -> Listing:
        """What there is; raises `FolderError` where the layout does not hold."""

    def verdict(self, values: Mapping[str, set[int]]) -> Sequence[str]:
        """Problems of all masks together, given the values that the mask of each image holds."""
        del values
        return ()

    @functools.cached_property
    def listing(self) -> Listing:
        listing = self.scan()
        return _closed(listing, self.data) if self.data.strong_classes else listing

    @property
    def meta(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {**self.listing.meta, "root": str(self.root.absolute()), "how": self.how}

    def outline(self) -> DatasetInfo | None:
        """What is known before any image is read: ids and kinds; of a set that is built already, nothing."""
        if self.data_path.exists():
            return None
        rows = {
            id: {"id": id, "kinds": [int(Supervision.UNLABELED), *map(int, item.labels)]}
            for id, item in self.listing.items.items()
        }
        splits = {split: [rows[id] for id in ids] for split, ids in self.listing.splits.items()}
        return DatasetInfo.from_meta(self.name, self.listing.meta, splits)

    @functools.cached_property
    def _stored_in(self) -> dict[str, str]:
        """The split that stores each image: the first one that lists it."""
        owner: dict[str, str] = {}
        for split, ids in self.listing.splits.items():
            for id in ids:
                owner.setdefault(id, split)
        return owner

    def split_sizes(self) -> Mapping[str, int]:
        owners = list(self._stored_in.values())
        return {split: owners.count(split) for split in self.listing.splits}

    def entries(self) -> Iterator[tuple[str, Record, dict[str, Any]] | None]:
        """Reads every file once. Problems are collected to the end; after the first nothing more is written."""
        found: dict[str, None] = {}  # problems, each once: several images may share a file
        values: dict[str, set[int]] = {}
        for split, ids in self.listing.splits.items():
            own = [id for id in ids if self._stored_in[id] == split]
            for made, problem in in_order(self._try, own):
                if made is None:
                    found |= dict.fromkeys(problem.split("\n"))
                    if self.data.skip_bad:
                        logger.warning("left out: %s", problem)
                    yield None
                    continue
                record, row = made
                values[row["id"]] = set(row["classes"])
                yield (split, record, row) if self.data.skip_bad or not found else None
        problems = [] if self.data.skip_bad else list(found)
        problems += [] if problems else self.verdict(values)
        if problems:
            shown = "\n  ".join(problems[:_SHOWN])
            more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise FolderError(
                f"{self.root} has {len(problems)} problem(s), nothing was written:\n  {shown}{more}\n"
                "Repair the files, or leave the images out with --config.data.skip_bad=True."
            )

    def finish_index(self, index: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Splits that share images with others are views of what those store."""
        place = {row["id"]: (split, number) for split, rows in index.items() for number, row in enumerate(rows)}
        splits: dict[str, Any] = {}
        views: dict[str, Any] = {}
        for split, ids in self.listing.splits.items():
            kept = [id for id in ids if id in place]
            if ids and not kept:
                raise FolderError(f"{self.root}: every image of split {split!r} was left out")
            splits[split] = [index[place[id][0]][place[id][1]] for id in kept]
            if len(kept) != len(index[split]) or any(place[id][0] != split for id in kept):
                views[split] = [list(place[id]) for id in kept]
        return {"splits": splits, "views": views}

    def _try(self, id: str) -> tuple[tuple[Record, dict[str, Any]] | None, str]:
        try:
            return self._record(id), ""
        except FolderError as error:
            return None, str(error)

    def _record(self, id: str) -> tuple[Record, dict[str, Any]]:
        """An image and its labels as they are stored -> (record, its row of the index)."""
        data, image, labels = self.read(id)
        size = (image.shape[0], image.shape[1])
        classes = values_of(labels[Supervision.DENSE]).tolist() if Supervision.DENSE in labels else []
        side = self.data.stored_side or max(size)
        box = Letterbox.fit(size, (side, side))
        if box.placed != size:
            data = _encode(resize(image, box.placed), self.listing.items[id].image)
            labels = {kind: _shrunk(kind, value, box) for kind, value in labels.items()}
        record = make_record(
            id=id,
            image=data,
            num_classes=len(self.listing.classes),
            mask=labels.get(Supervision.DENSE),
            points=labels.get(Supervision.POINTS),
            strokes=labels.get(Supervision.SCRIBBLE),
            partial=labels.get(Supervision.PARTIAL),
            boxes=labels.get(Supervision.BOX),
            tags=labels.get(Supervision.TAGS),
        )
        row = describe_record(record, box.placed, [Supervision.UNLABELED, *labels])
        return record, row | {"classes": classes} | ({"full": list(size)} if box.placed != size else {})

    def read(self, id: str, kinds: Sequence[Supervision] = tuple(Supervision)) -> tuple[bytes, np.ndarray, Labels]:
        """An image with its labels of these kinds, at their own size -> encoded image, image, labels."""
        item = self.listing.items[id]
        try:
            data = item.image.read_bytes()
            image = decode_image(data)
        except (OSError, ValueError, cv2.error) as error:
            raise FolderError(f"{item.image}: {why_unreadable(item.image, error)}") from None
        if item.image.suffix.lower() not in _DIRECT:
            data = encode_png(image)
        labels, problems = {}, []
        for kind, read in item.labels.items():
            try:
                if kind in kinds and (found := read((image.shape[0], image.shape[1]))) is not None:
                    labels[kind] = found
            except FolderError as error:
                problems.append(str(error))
        if problems:
            turned = _TURNED if any(_SIZES in text for text in problems) and is_turned(data) else ""
            raise FolderError("\n".join(dict.fromkeys(problems)) + turned)
        return data, image, labels

    def originals(self, split: str) -> Sequence[Record]:
        rows = self.dataset_info().splits[split]
        stored = self.records(split)
        return _Originals(self, rows, stored) if any("full" in row for row in rows) else stored


class _Originals(Records):
    """Images and masks of a split at their own size: from the files where what is stored is smaller."""

    def __init__(self, builder: Layout, rows: Sequence[Mapping[str, Any]], stored: Sequence[Record]):
        self.builder, self.rows, self.stored = builder, rows, stored

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows[index]
        if "full" not in row:
            return self.stored[index]
        data, _, labels = self.builder.read(row["id"], [Supervision.DENSE])
        classes = len(self.builder.listing.classes)
        record = make_record(id=row["id"], image=data, num_classes=classes)
        if Supervision.DENSE in labels:
            record["mask"] = lambda: labels[Supervision.DENSE]
        return record | {"id": row["id"].encode()}


def _shrunk(kind: Supervision, value: Any, box: Letterbox) -> Any:
    if kind == Supervision.DENSE:
        return resize(value, box.placed, nearest=True)
    if kind == Supervision.BOX:
        return box.place_rows(value[0], pixels=False), value[1]
    return value if kind == Supervision.TAGS else box.place_rows(value, pixels=True)


def _encode(image: np.ndarray, source: Path) -> bytes:
    """As JPEG where the source is one, else without loss."""
    if source.suffix.lower() not in _JPEG:
        return encode_png(image)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _closed(listing: Listing, data: Data) -> Listing:
    """Without masks of training images whose tags do not say that they show strong classes and background alone."""
    strong: set[int | None] = {listing.background}
    strong |= {listing.classes.index(name) for name in data.strong_classes if name in listing.classes}
    ids = {id for part in data.train_split.split("+") for id in listing.splits.get(part, ())}

    def shown(item: Item) -> set[int]:
        try:
            return set(np.flatnonzero(item.labels[Supervision.TAGS]((0, 0)) == 1).tolist())
        except (KeyError, FolderError):  # an error is reported when the image is read
            return {-1}

    items = dict(listing.items)
    for id in ids:
        item = items[id]
        if not shown(item) <= strong:
            open_ones = {kind: item.labels[kind] for kind in set(item.labels) - {Supervision.DENSE}}
            items[id] = dataclasses.replace(item, labels=open_ones)
    return dataclasses.replace(listing, items=items)


def default_colors(num_classes: int) -> list[list[int]]:
    """Well-spaced colours; the first is dark, as it is the background of most sets."""
    hues = (np.arange(num_classes) * 0.61803) % 1.0
    bands = np.clip(np.abs((hues[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    colors = np.round(60 + 185 * bands).astype(int)
    colors[0] = 30
    return colors.tolist()
