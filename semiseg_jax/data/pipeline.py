"""From pools of stored records to host batches: shuffling, decoding, stacking. Deterministic and resumable."""

import dataclasses
import functools
import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import grain
import numpy as np

from semiseg_jax.data.fields import USUAL_CANVAS
from semiseg_jax.data.letterbox import Letterbox, round_up
from semiseg_jax.data.pools import Stream
from semiseg_jax.data.records import DatasetInfo, Record, decode_image, decode_mask
from semiseg_jax.data.types import IGNORE, MADE_FOR, Example, Supervision

logger = logging.getLogger("semiseg_jax")
_ATTEMPTS = 10
_PREFETCH_BYTES = 2**30  # of batches that wait to be taken
_EPOCHS = 2**31  # endless; grain's lengths stay exact as floats


@dataclasses.dataclass(frozen=True)
class Layout:
    """The fixed shapes of an `Example` batch."""

    canvas: tuple[int, int]
    points: int
    strokes: int
    boxes: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """How one process cuts its part: micro-batches of `rows` rows, `units` of them a step (devices x accumulation)."""

    rows: int
    units: int
    process: int = 0
    processes: int = 1


def make_layout(
    info: DatasetInfo,
    split: str,
    pools: Mapping[Supervision, np.ndarray],
    canvas: Sequence[int],
    strict: bool,
) -> Layout:
    """Capacities from the index of the split. Canvas (0, 0) means the largest image, at most 512 a side."""
    rows = info.splits[split]
    height, width = canvas_of(info, split, canvas)

    def most(field: str, kinds: Sequence[Supervision]) -> int:
        members = [int(i) for kind in kinds if kind in pools for i in pools[kind]]
        return max([1, *(rows[i][field] for i in members)])

    largest = info.max_size(split)
    if largest[0] > height or largest[1] > width:
        logger.warning(
            "images of up to %dx%d pixels are shrunk to fit %dx%d; --config.data.canvas='(H, W)' changes that",
            largest[1], largest[0], width, height,
        )  # fmt: skip
    return Layout(
        canvas=(height, width),
        points=max(most("points", [Supervision.POINTS]), most("partial", [Supervision.PARTIAL])),
        strokes=most("strokes", [Supervision.SCRIBBLE]),
        boxes=most("boxes", [Supervision.BOX] if strict else list(pools)),
    )


def canvas_of(info: DatasetInfo, split: str, canvas: Sequence[int]) -> tuple[int, int]:
    """The canvas that is asked for; (0, 0) means the largest image, at most 512 a side."""
    height, width = canvas
    if not height or not width:
        height, width = (min(round_up(side, 32), USUAL_CANVAS) for side in info.max_size(split))
    return height, width


class ExampleLoader:
    """Turns (source, kind, places in the pool of this kind, seed) into one row of an `Example`.

    It is the record at the first place. Where that cannot be read, it is the next one that can be; this is reported
    once, and counted in `replaced`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        info: DatasetInfo,
        pools: Mapping[Supervision, np.ndarray],
        layout: Layout,
        *,
        strict: bool,
        made_labels: str | Path = "",
        made_for: Sequence[Supervision] = MADE_FOR,
        sizes: Sequence[Sequence[int]] = (),
        ids: Sequence[str] = (),
    ):
        self.records, self.info, self.pools, self.layout, self.strict = records, info, pools, layout, strict
        self.made_labels, self.made_for, self.sizes = made_labels, made_for, sizes
        self.ids = ids
        self.replaced = 0
        self._lock = threading.Lock()

    def __call__(self, where: tuple[int, int, Sequence[int], int]) -> dict[str, np.ndarray]:
        source, kind_number, places, seed = where
        pool = self.pools[Supervision(kind_number)]
        error: Exception | None = None
        for place in places:
            index = int(pool[place])
            try:
                row = self.example(
                    self.records[index], Supervision(kind_number), self.sizes[index] if self.sizes else None
                )
            except (OSError, ValueError, RuntimeError, cv2.error) as caught:
                error = caught
                self._report(index, caught)
                continue
            row["seed"] = np.uint32(seed)
            row["id"] = np.array([source, index], np.int32)
            return row
        raise RuntimeError(f"no readable record of {Supervision(kind_number).name.lower()} was found") from error

    def example(self, record: Record, kind: Supervision, known: Sequence[int] | None = None) -> dict[str, Any]:
        """One row with the labels of `kind`; unless strict, also the boxes and tags that the image has.

        Where the image's size is known, a JPEG far larger than its place on the canvas is decoded at a part of it.
        """
        layout = self.layout
        shrinks = max(side / limit for side, limit in zip(known, layout.canvas, strict=True)) if known else 1.0
        image = decode_image(record["image"], shrinks)
        size = (known[0], known[1]) if known else (image.shape[0], image.shape[1])
        box = Letterbox.fit(size, layout.canvas)
        if kind == Supervision.DENSE:
            mask = box.place_mask(decode_mask(record["mask"], size))
        elif kind in self.made_for and self.made_labels:
            made = Path(self.made_labels, f"{record['id'].decode()}.png")
            mask = box.place_mask(decode_mask(made.read_bytes(), size))
        else:
            mask = np.full(box.canvas, IGNORE, np.uint8)
        points = record["partial"] if kind == Supervision.PARTIAL else record["points"]
        if kind not in (Supervision.PARTIAL, Supervision.POINTS):
            points = points[:0]
        strokes = record["strokes"] if kind == Supervision.SCRIBBLE else record["strokes"][:0]
        has_boxes = kind == Supervision.BOX or not self.strict
        has_tags = kind == Supervision.TAGS or not self.strict
        return {
            "image": box.place_image(image),
            "mask": mask,
            "points": _pad(box.place_rows(points, pixels=True), layout.points),
            "strokes": _pad(box.place_rows(strokes, pixels=True), layout.strokes),
            "boxes": _pad(box.place_rows(record["boxes"] if has_boxes else record["boxes"][:0], pixels=False),
                          layout.boxes, 0.0),
            "box_class": _pad(record["box_class"] if has_boxes else record["box_class"][:0], layout.boxes),
            "tags": record["tags"] if has_tags else np.full(self.info.num_classes, -1, np.int8),
            "size": np.array(box.placed, np.int32),
            "kind": np.int32(kind),
        }  # fmt: skip

    def _report(self, index: int, error: Exception) -> None:
        with self._lock:
            self.replaced += 1
            if self.replaced == 1:
                name = self.ids[index] if self.ids else index
                logger.warning("image %s cannot be read (%s) and is replaced by another one", name, error)


def make_batches(
    loader: ExampleLoader, streams: Sequence[Stream], shard: Shard, *, seed: int, threads: int = 4
) -> grain.DatasetIterator:
    """An endless iterator of `Example` batches with `shard.rows * shard.units` rows, all streams in each unit.

    The order depends on nothing but the arguments; `get_state` and `set_state` resume it exactly.
    """
    unit = sum(stream.rows for stream in streams)
    if shard.rows % unit:
        raise ValueError(f"{shard.rows} rows a micro-batch is not a multiple of the quota's {unit}")
    sources: list[grain.MapDataset] = []
    for number, stream in enumerate(streams):
        mine = grain.MapDataset.source(_Order(number, stream, seed))[shard.process :: shard.processes]
        rows = stream.rows * (shard.rows // unit)
        # One source for each row of a batch: grain rounds weights, and makes 100 and 166 of 3 and 5.
        sources += [mine[row::rows] for row in range(rows)]
    dataset = (
        grain.MapDataset.mix(sources)
        .map(loader)
        .batch(shard.rows, batch_fn=_stack_by_kind)
        .batch(shard.units, batch_fn=_concatenate)
    )
    threads, waiting = ahead(loader, shard, threads)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=waiting)))


def ahead(loader: ExampleLoader, shard: Shard, threads: int) -> tuple[int, int]:
    """Threads that each make a batch, and batches that may wait to be taken, so that both fit into memory."""
    height, width = loader.layout.canvas
    held = max(1, _PREFETCH_BYTES // (4 * height * width * shard.rows * shard.units))  # images and masks
    return min(threads, held), min(threads + 2, held)


class _Order(grain.sources.RandomAccessDataSource):
    """The endless order of one stream: every epoch a new permutation -> what `ExampleLoader` takes.

    The places after the first are of the same stream, so that a row asked of one set is never replaced by another's.
    The seed follows from the place in this order, which all processes share: any number of them draws the same crops.
    (Grain's own shuffle costs 0.2 ms a row on small pools, a quarter of the pipeline's time.)
    """

    def __init__(self, source: int, stream: Stream, seed: int):
        self.source, self.stream, self.size, self.seed = source, stream, len(stream.places), seed
        self._epoch = functools.lru_cache(maxsize=4)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([_hash(self.seed, self.stream.name), epoch]).permutation(self.size)

    def __len__(self) -> int:
        return self.size * _EPOCHS

    def __getitem__(self, place: int) -> tuple[int, int, list[int], int]:
        epoch, at = divmod(int(place), self.size)
        order = self._epoch(epoch)
        tried = [int(self.stream.places[order[(at + n) % self.size]]) for n in range(min(_ATTEMPTS, self.size))]
        return self.source, int(self.stream.kind), tried, _hash(self.seed, f"{self.stream.name} {place}")


def _stack_by_kind(rows: Sequence[Mapping[str, np.ndarray]]) -> Example:
    ordered = sorted(rows, key=lambda row: -int(row["kind"]))
    return cast(Example, {key: np.stack([row[key] for row in ordered]) for key in ordered[0]})


def _concatenate(units: Sequence[Mapping[str, np.ndarray]]) -> Example:
    if len(units) == 1:
        return cast(Example, units[0])
    return cast(Example, {key: np.concatenate([unit[key] for unit in units]) for key in units[0]})


def _pad(rows: np.ndarray, capacity: int, fill: float = -1) -> np.ndarray:
    if len(rows) > capacity:
        raise ValueError(f"{len(rows)} rows of geometry but a capacity of {capacity}")
    out = np.full((capacity, *rows.shape[1:]), fill, rows.dtype)
    out[: len(rows)] = rows
    return out


def _hash(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:4], "big") >> 1
