"""What every dataset builder writes: one record an image, with whichever labels exist.

Images and masks are stored as encoded bytes (b"" = absent), so that no TensorFlow is needed to write or read them.
"""

import abc
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm.auto import tqdm

from semiseg_jax.data import store
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
    groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)  # where sets are joined: own classes

    @classmethod
    def from_meta(cls, name: str, meta: Mapping[str, Any], splits: Mapping[str, Any]) -> "DatasetInfo":
        colors = tuple((r, g, b) for r, g, b in meta["colors"])
        return cls(name, tuple(meta["classes"]), colors, meta["background"], splits)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def index_digest(self) -> str:
        """Tells one index from another: classes, and of every image its id, size and kinds of labels."""
        content = [self.name, self.classes, self.background, self.splits]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

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


class DataSet(abc.ABC):
    """Images with labels, however they are kept: what the rest of the program asks of any set."""

    name: str
    home: Path  # where labels that are drawn from its masks are kept

    @property
    @abc.abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names, known before `build`."""

    @abc.abstractmethod
    def build(self) -> None:
        """Makes what reading needs, unless it is there already."""

    @abc.abstractmethod
    def dataset_info(self) -> DatasetInfo:
        """Classes, splits and a row for each image; after `build`."""

    @abc.abstractmethod
    def records(self, split: str) -> Sequence[Record]:
        """The records of a split as training reads them."""

    @property
    def state(self) -> str:
        """Tells one state of the source's files from another, wherever they lie; "" = unknown."""
        return ""

    def originals(self, split: str) -> Sequence[Record]:
        """Images and masks of a split at their own size."""
        return self.records(split)

    @property
    def places(self) -> Sequence[Path]:
        """Where what `build` makes is kept."""
        return [self.home.parent]

    def leftovers(self) -> Sequence[Path]:
        """Folders of ours that nothing will read any more: builds of earlier states of the source, or broken off."""
        return ()

    def outline(self) -> DatasetInfo | None:
        """What is known before `build`: ids and kinds by split, if anything."""
        return None


class StoredSet(DataSet):
    """A set that is written once, to a folder of its own, and read from there."""

    meta: Mapping[str, Any]  # classes, colors, background

    def __init__(self, *, data_dir: str | None, config_name: str):
        self.data_dir = data_dir
        self.data_path = store.place_of(data_dir) / self.name / config_name / store.VERSION
        self.home = self.data_path / "drawn"

    @property
    def class_names(self) -> Sequence[str]:
        return tuple((self._index if self.data_path.exists() else self.meta)["classes"])

    def build(self) -> None:
        if self.data_path.exists() or store.fetch(self.data_dir, self.data_path):
            return
        self.check_source()
        print(f"building {self.name} in {self.data_path}", flush=True)
        with tqdm(desc=f"listing {self.name}", unit="image", leave=False, disable=None) as bar:
            sizes = self.split_sizes()
            bar.reset(sum(sizes.values()))
            bar.set_description(f"building {self.name}")
            index: dict[str, list[dict[str, Any]]] = {split: [] for split in sizes}
            with store.writing(self.data_path, self.name, features(len(self.meta["classes"]))) as out:
                for entry in self.entries():
                    bar.update()
                    if entry:
                        split, record, row = entry
                        out.add(split, record)
                        index[split].append(row)
                bar.set_description(f"finishing {self.name}")
                out.index = {**self.meta, **self.finish_index(index)}
        store.send(self.data_dir, self.data_path)

    def leftovers(self) -> Sequence[Path]:
        return store.leftovers(self.data_path)

    def check_source(self) -> None:
        """Raises if the source cannot be built; called before anything is written."""

    @abc.abstractmethod
    def split_sizes(self) -> Mapping[str, int]:
        """Images that each split stores."""

    @abc.abstractmethod
    def entries(self) -> Iterator[tuple[str, Record, dict[str, Any]] | None]:
        """(split, record, its row of the index) of every image, split by split; None for one that is not written."""

    def finish_index(self, index: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Rows by split; and `views`, splits whose images others store, as pairs of a split and a place in it."""
        return {"splits": index, "views": {}}

    @functools.cached_property
    def _index(self) -> dict[str, Any]:
        return store.read_index(self.data_path)

    def dataset_info(self) -> DatasetInfo:
        return DatasetInfo.from_meta(self.name, self._index, self._index["splits"])

    def records(self, split: str) -> Sequence[Record]:
        if not self._index["splits"][split]:
            return []
        view = self._index["views"].get(split)
        if view is None:
            return store.open_split(self.data_path, split)
        return View({part: store.open_split(self.data_path, part) for part, _ in view}, view)


class RecordBuilder(StoredSet):
    """Base of builders that yield their records one by one, such as those from outside."""

    @abc.abstractmethod
    def generate(self, split: str) -> Iterable[tuple[Record, tuple[int, int], Iterable[Supervision]]]:
        """(record, size, kinds) of every image of a split."""

    def entries(self) -> Iterator[tuple[str, Record, dict[str, Any]]]:
        for split, images in self.split_sizes().items():
            for record, size, kinds in self.generate(split) if images else ():
                yield split, record, describe_record(record, size, kinds)


class Records(Sequence[Record]):
    """Base of sequences whose records are read when they are asked for."""

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


class View(Records):
    """Records that several sources hold, in an order of their own: places are pairs of a source and an index."""

    def __init__(self, sources: Mapping[Any, Sequence[Record]], places: Sequence[Sequence[Any]]):
        self.sources, self.places = sources, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        source, place = self.places[index]
        return self.sources[source][place]


def encode_png(array: np.ndarray) -> bytes:
    """Encodes a [H,W] index map or a [H,W,3] RGB image."""
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    # Named, the level brings filters that decode twice as fast.
    done, data = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 3])
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


_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))


def decode_image(data: bytes, reduce: float = 1.0) -> np.ndarray:
    """[H,W,3] uint8 RGB, turned upright by its EXIF tag.

    With `reduce` above 2 a JPEG may come at a half, a quarter or an eighth of its size, no smaller than 1 / `reduce`
    of it, which is several times faster.
    """
    jpeg = data[:2] == b"\xff\xd8"
    whole = cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    flag = next((flag for factor, flag in _REDUCED if reduce >= factor and jpeg), whole)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if array is None:
        raise ValueError("not a readable image")
    if data[:4] in (b"II*\0", b"MM\0*"):
        _check_pages(data)
    if array.dtype != np.uint8:
        if array.dtype != np.uint16 or array.max() < 2**15:
            raise ValueError(
                f"holds {array.dtype} values up to {array.max():g}, which would become dark or black: make them 8 bits"
            )
        array = (array // 256).astype(np.uint8)
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


def _check_pages(tiff: bytes) -> None:
    try:
        pages = getattr(Image.open(io.BytesIO(tiff)), "n_frames", 1)
    except Exception:  # of a kind that OpenCV alone reads
        return
    if pages > 1:
        raise ValueError(f"has {pages} pages, but an image is one: save each as a file of its own")


def is_turned(data: bytes) -> bool:
    """Whether the EXIF tag of an encoded image turns it by a quarter."""
    try:
        return Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception:
        return False


def why_unreadable(path: Path, error: Exception) -> str:
    """In words, where reading and decoding a file failed."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which is not there"
    return str(error) if isinstance(error, ValueError) else "not a readable image"


def decode_mask(data: bytes | Callable[[], np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """[H,W] uint8 class indices; all 255 where the record has no mask. Records of others may bring what makes it."""
    if not data:
        return np.full(size, IGNORE, np.uint8)
    if callable(data):
        return data()
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if array is None:
        raise ValueError("not a readable mask")
    return array
