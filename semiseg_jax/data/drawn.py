"""Weak labels that are drawn from the masks of a set and kept beside it: `data.simulate`.

They are drawn once for each choice of kinds, options, seed and canvas, at the size at which training sees the images:
a click, a stroke or a share of the pixels means the same for a thumbnail and for a photo of 20 megapixels.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm.auto import tqdm

from semiseg_jax.data import store, weak_labels
from semiseg_jax.data.fields import Data
from semiseg_jax.data.letterbox import Letterbox
from semiseg_jax.data.pipeline import canvas_of
from semiseg_jax.data.records import (
    DataSet,
    DatasetInfo,
    Record,
    Records,
    decode_mask,
    describe_record,
    features,
    make_record,
)
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import Supervision

FIELDS: Mapping[Supervision, tuple[str, ...]] = {
    Supervision.PARTIAL: ("partial",),
    Supervision.POINTS: ("points",),
    Supervision.SCRIBBLE: ("strokes",),
    Supervision.BOX: ("boxes", "box_class"),
    Supervision.TAGS: ("tags",),
}
AddDrawn = Callable[[Sequence[Record]], Sequence[Record]]
Drawing = tuple[Record, dict[str, Any]]  # the record of the labels, and what changes in the row of the image


def draw_labels(data: Data, source: DataSet, info: DatasetInfo) -> tuple[DatasetInfo, dict[str, AddDrawn]]:
    """Draws what `data.simulate` asks for, or finds it -> (info with these labels, what adds them to a split).

    Images that have labels of a kind keep them; images without a mask get none.
    """
    kinds = {Supervision.parse(kind): dict(options) for kind, options in data.simulate.items()}
    for kind, options in kinds.items():
        weak_labels.check_options(kind, options)
    canvas = canvas_of(info, data.train_split, data.canvas)
    artist = Artist(info, kinds, data.seed, canvas)
    splits = dict(info.splits)
    drawn: dict[str, AddDrawn] = {}
    for part in data.train_split.split("+"):
        folder = source.home / f"{store.file_name(part)}-{artist.digest}"
        if not folder.exists():
            _write(folder, part, artist, source.records(part), info.splits[part])
        changes = store.read_index(folder)["rows"]
        rows = [{**row, **change} for row, change in zip(info.splits[part], changes, strict=True)]
        splits[part] = rows
        drawn[part] = functools.partial(WithDrawn, folder, part, [change["drawn"] for change in changes])
    return dataclasses.replace(info, splits=splits), drawn


class Artist:
    """Draws the labels of one image after the other, the same ones for the same seed."""

    def __init__(
        self, info: DatasetInfo, kinds: Mapping[Supervision, Mapping[str, Any]], seed: int, canvas: tuple[int, int]
    ):
        self.info, self.kinds, self.seed, self.canvas = info, kinds, seed, canvas
        spec = [{int(kind): options for kind, options in kinds.items()}, seed, canvas]
        self.digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]

    def __call__(self, record: Record, row: Mapping[str, Any]) -> Drawing:
        wanted = [kind for kind in self.kinds if kind not in row["kinds"]] if Supervision.DENSE in row["kinds"] else []
        labels: dict[Supervision, Any] = {}
        if wanted:
            size = (row["size"][0], row["size"][1])
            mask = decode_mask(record["mask"], size)
            box = Letterbox.fit(size, self.canvas)
            seen = box.place_mask(mask)[: box.placed[0], : box.placed[1]]
            back = Letterbox(box.placed, size, size)
            id = record["id"].decode()
            labels = {kind: _returned(kind, self._draw(kind, id, seen), back) for kind in wanted}
        drawn = make_record(
            id=row["id"],
            image=b"",
            num_classes=self.info.num_classes,
            points=labels.get(Supervision.POINTS),
            strokes=labels.get(Supervision.SCRIBBLE),
            partial=labels.get(Supervision.PARTIAL),
            boxes=labels.get(Supervision.BOX),
            tags=labels.get(Supervision.TAGS),
        )
        described = describe_record(drawn, (0, 0), [*row["kinds"], *labels])
        change = {"kinds": described["kinds"], "drawn": [int(kind) for kind in labels]}
        for kind in labels:
            field = FIELDS[kind][0]
            change[field] = described[field]
        return drawn, change

    def _draw(self, kind: Supervision, id: str, mask: np.ndarray) -> Any:
        if kind == Supervision.TAGS:
            return weak_labels.tags(mask, self.info.num_classes)
        options = dict(self.kinds[kind])
        if kind == Supervision.BOX:
            options = {"background": self.info.background} | options
        rng = np.random.default_rng([self.seed, int(kind), zlib.crc32(id.encode())])
        return weak_labels.MAKERS[kind](mask, rng, **options)


class WithDrawn(Records):
    """Records with the labels that were drawn for them."""

    def __init__(self, folder: Path, part: str, drawn: Sequence[Sequence[int]], records: Sequence[Record]):
        self.records, self.drawn = records, drawn
        self.labels = store.open_split(folder, part) if drawn else []

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        record = dict(self.records[index])
        if self.drawn[index]:
            labels = self.labels[index]
            for kind in self.drawn[index]:
                record |= {field: labels[field] for field in FIELDS[Supervision(kind)]}
        return record


def _write(
    folder: Path, part: str, artist: Artist, records: Sequence[Record], rows: Sequence[Mapping[str, Any]]
) -> None:
    stored = features(artist.info.num_classes)
    kept = tfds.features.FeaturesDict({name: stored[name] for name in stored if name not in ("image", "mask")})
    changes = []

    def draw(index: int) -> Drawing:
        return artist(records[index], rows[index])

    with store.writing(folder, "drawn", kept) as out:
        numbers = tqdm(range(len(rows)), desc=f"drawing labels of {part}", unit="image", leave=False, disable=None)
        for record, change in in_order(draw, numbers):
            out.add(part, {name: record[name] for name in kept})
            changes.append(change)
        out.index = {"rows": changes}


def _returned(kind: Supervision, labels: Any, back: Letterbox) -> Any:
    """From pixels of what training sees to pixels of the record."""
    if kind == Supervision.TAGS:
        return labels
    if kind == Supervision.BOX:
        return back.place_rows(labels[0], pixels=False), labels[1]
    return back.place_rows(labels, pixels=True)
