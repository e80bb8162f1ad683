"""What every dataset builder writes: one record an image, with whichever labels exist.

Images and masks are stored as encoded bytes (b"" = absent), so that no TensorFlow is needed to write or read them.
"""

import abc
import contextlib
import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tqdm.auto import tqdm

from semiseg_jax.data.types import IGNORE, STROKE_PIECE, Supervision

Record = dict[str, Any]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What the rest of the program needs to know of a dataset."""

    name: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    background: int | None
    splits: Mapping[str, Sequence[Mapping[str, Any]]]  # per record, see describe_record

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def max_size(self, split: str) -> tuple[int, int]:
        sizes = np.array([row["size"] for row in self.splits[split]])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())


def features(num_classes: int) -> tfds.features.FeaturesDict:
    def rows(width: int) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None, width), dtype=np.float32)

    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Text(),
            "mask": tfds.features.Text(),
            "points": rows(3),
            "strokes": rows(5),
            "partial": rows(3),
            "boxes": rows(4),
            "box_class": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "tags": tfds.features.Tensor(shape=(num_classes,), dtype=np.int8),
        }
    )


def make_record(
    *,
    id: str,
    image: bytes,
    num_classes: int,
    mask: np.ndarray | None = None,
    points: np.ndarray | None = None,
    strokes: np.ndarray | None = None,
    partial: np.ndarray | None = None,
    boxes: tuple[np.ndarray, np.ndarray] | None = None,
    tags: np.ndarray | None = None,
) -> Record:
    """A record with every field filled; labels that are None are stored as absent."""

    def rows(value: np.ndarray | None, width: int) -> np.ndarray:
        return np.asarray(value if value is not None else [], np.float32).reshape(-1, width)

    box_rows, box_class = boxes if boxes is not None else (None, [])
    return {
        "id": id,
        "image": image,
        "mask": encode_png(mask) if mask is not None else b"",
        "points": rows(points, 3),
        "strokes": split_strokes(rows(strokes, 5)),
        "partial": rows(partial, 3),
        "boxes": rows(box_rows, 4),
        "box_class": np.asarray(box_class, np.int32).reshape(-1),
        "tags": np.full(num_classes, -1, np.int8) if tags is None else tags.astype(np.int8),
    }


def split_strokes(strokes: np.ndarray, longest: float = STROKE_PIECE) -> np.ndarray:
    """Cuts strokes [S,5] into pieces of at most `longest` pixels: drawing one then takes a fixed number of steps."""
    out = []
    for y0, x0, y1, x1, klass in strokes:
        pieces = max(1, math.ceil(max(abs(y1 - y0), abs(x1 - x0)) / longest))
        ends = np.linspace((y0, x0), (y1, x1), pieces + 1)
        out += [(*start, *end, klass) for start, end in itertools.pairwise(ends)]
    return np.asarray(out, np.float32).reshape(-1, 5)


def describe_record(record: Record, size: tuple[int, int], kinds: Iterable[Supervision]) -> dict[str, Any]:
    """The row of the index that is stored beside the records: enough to plan batches without reading them."""
    return {
        "id": record["id"],
        "size": [int(size[0]), int(size[1])],
        "kinds": sorted(int(kind) for kind in kinds),
        "points": len(record["points"]),
        "strokes": len(record["strokes"]),
        "partial": len(record["partial"]),
        "boxes": len(record["boxes"]),
        "tags": np.flatnonzero(record["tags"] == 1).tolist(),
    }


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of the builders. Subclasses fill `meta` and yield `(record, size, kinds)` per split."""

    VERSION = tfds.core.Version("1.1.0")
    meta: Mapping[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps builders out of the list of tfds, where two of one name are an error."""
        super().__init_subclass__(skip_registration=True, **options)

    def __init__(self, *, data_dir: str | None, config_name: str):
        config = tfds.core.BuilderConfig(name=config_name, version=self.VERSION)
        with _quiet_tfds():
            super().__init__(data_dir=data_dir or None, file_format="array_record", config=config)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=features(len(self.meta["classes"])),
            metadata=tfds.core.MetadataDict(dict(self.meta) | {"index": {split: [] for split in self.split_sizes()}}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split, images in self.split_sizes().items() if images}

    def _generate_examples(self, split: str) -> Any:
        index = self.info.metadata["index"][split]
        rows = tqdm(
            self.generate(split),
            desc=f"building {self.name} {split}",
            unit="image",
            leave=False,
            disable=None,
        )
        for number, (record, size, kinds) in enumerate(rows):
            index.append(describe_record(record, size, kinds))
            yield number, record

    def build(self) -> None:
        """Writes the records, unless they are there already."""
        if Path(self.data_path).exists():
            return
        self.check_source()
        print(f"building {self.name} in {self.data_path}", flush=True)
        with _quiet_tfds():
            try:
                self.download_and_prepare()
            except FileExistsError:  # another process was faster
                if not Path(self.data_path).exists():
                    raise
                self.info.read_from_directory(self.data_path)

    def check_source(self) -> None:
        """Raises if the source cannot be built; called before anything is written."""

    @abc.abstractmethod
    def split_sizes(self) -> Mapping[str, int]:
        """Images by split; empty splits are known but not written."""

    @abc.abstractmethod
    def generate(self, split: str) -> Iterable[tuple[Record, tuple[int, int], Iterable[Supervision]]]:
        """(record, size, kinds) of every image of a split."""

    def dataset_info(self) -> DatasetInfo:
        meta = self.info.metadata
        return DatasetInfo(
            name=self.name,
            classes=tuple(meta["classes"]),
            colors=tuple((r, g, b) for r, g, b in meta["colors"]),
            background=meta["background"],
            splits=meta["index"],
        )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Holds back warnings that libraries log through absl and that say nothing to our users."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Holds back what tfds says of downloads and configs, which do not exist here."""
    tfds.disable_progress_bar()
    with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()):
        yield


def encode_png(array: np.ndarray) -> bytes:
    """Encodes a [H,W] index map or a [H,W,3] RGB image."""
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", array)
    if not done:
        raise ValueError(f"could not encode an array of shape {array.shape} as PNG")
    return data.tobytes()


def label_counts(record: Record, kind: Supervision, num_classes: int) -> np.ndarray:
    """[K] how many pixels of each class the labels of `kind` name: those of the mask, of clicks, along strokes."""
    amounts = None
    if kind == Supervision.DENSE:
        labels = decode_mask(record["mask"], (0, 0)).ravel()
    elif kind in (Supervision.PARTIAL, Supervision.POINTS):
        labels = record["partial" if kind == Supervision.PARTIAL else "points"][:, 2]
    elif kind == Supervision.SCRIBBLE:
        y0, x0, y1, x1, labels = record["strokes"].T
        amounts = 1 + np.hypot(y1 - y0, x1 - x0)
    else:
        labels = np.zeros(0)
    return np.bincount(labels.astype(int), amounts, minlength=IGNORE + 1)[:num_classes]


def given_labels(record: Record, kinds: Iterable[Supervision], size: tuple[int, int]) -> np.ndarray:
    """[H,W] uint8 what clicks, strokes and the partial mask say, each if among `kinds`; IGNORE at all other pixels."""
    drawn = [np.zeros((0, 3), np.float32)]
    for kind in kinds:
        if kind == Supervision.SCRIBBLE:
            start, end, klass = np.split(record["strokes"], [2, 4], axis=1)
            drawn += [np.hstack([start + t * (end - start), klass]) for t in np.linspace(0, 1, STROKE_PIECE + 2)]
        elif kind in (Supervision.PARTIAL, Supervision.POINTS):
            drawn.append(record["partial" if kind == Supervision.PARTIAL else "points"])
    y, x, klass = np.floor(np.concatenate(drawn) + np.array([0.5, 0.5, 0.0])).astype(int).T
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1]) & (klass >= 0)
    labels = np.full(size, IGNORE, np.uint8)
    # Where two meet the lower class wins, as in training.
    np.minimum.at(labels, (y[inside], x[inside]), klass[inside].astype(np.uint8))
    return labels


def decode_image(data: bytes) -> np.ndarray:
    """[H,W,3] uint8 RGB, turned upright by its EXIF tag."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if array is None:
        raise ValueError("not a readable image")
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """[H,W] uint8 class indices; all 255 where the record has no mask."""
    if not data:
        return np.full(size, IGNORE, np.uint8)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if array is None:
        raise ValueError("not a readable mask")
    return array
