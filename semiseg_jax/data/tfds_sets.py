"""`tfds:NAME`: any set that tfds prepared and that has an image and a mask, read where it lies, without TensorFlow.

    DATA_DIR/NAME/[CONFIG/]VERSION                            the set, as `tfds build` writes it
    DATA_DIR/semiseg_jax/NAME-VERSION-DIGEST/array_record/    its records, if they are stored as tfrecord
    DATA_DIR/semiseg_jax/NAME-VERSION-DIGEST/DIGEST/          an index for this meaning of its masks, and drawn labels

Pixels are not stored again unless they are in tfrecord files. The index is made once: all masks are read for it.
"""

import dataclasses
import functools
import hashlib
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm.auto import tqdm

from semiseg_jax.data import store, tfds_convert
from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Card, default_colors
from semiseg_jax.data.records import (
    DataSet,
    DatasetInfo,
    Record,
    Records,
    decode_image,
    describe_record,
    make_record,
)
from semiseg_jax.data.tfds_mappings import TfdsOptions, meaning_of
from semiseg_jax.data.tfds_places import find_set, split_name
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import Supervision
from semiseg_jax.options import read

_VERSION = 2  # of the index
_SHOWN = 20
Example = dict[str, Any]


class TfdsSet(DataSet):
    """A set that tfds prepared, with masks, such as tfds:oxford_iiit_pet or tfds:NAME/CONFIG."""

    Options = TfdsOptions
    card = Card(
        classes="built in for oxford_iiit_pet, cityscapes, coco/2017_panoptic and others; else named by options",
        splits="those of the set, and parts of them: train[:90%]",
        licence="of the set",
        source="https://www.tensorflow.org/datasets/catalog/overview; tfds build NAME prepares it",
        tree="TFDS_DATA_DIR/NAME/[CONFIG/]VERSION, as tfds writes it: tfrecord or array_record",
    )

    def __init__(self, data: Data):
        self.data, self.name = data, data.name
        place = store.place_of(data.data_dir)
        if not data.path:
            store.fetch_prepared(data.data_dir, place / split_name(data.name)[0], described=True)
        self.folder = find_set(data.name, place, data.path)
        if not data.path:
            store.fetch_prepared(data.data_dir, self.folder)
        self.builder = tfds.builder_from_directory(self.folder)
        self.options = read(TfdsOptions, data.options, "config.data.options")
        title = split_name(data.name)[0]
        if self.builder.info.name != title:
            raise FolderError(f"{self.folder} is the set {self.builder.info.name!r}, not {title!r}")
        self.meaning = meaning_of(title, self.options, self.builder.info.features)
        own = place / "semiseg_jax" / f"{self.builder.info.full_name.replace('/', '-')}-{_digest(self._identity())}"
        self.converted = own / "array_record"
        meaning = [_VERSION, dataclasses.asdict(self.meaning), data.skip_bad]
        self.own = own / _digest(meaning)
        self.home = self.own / "drawn"

    def _identity(self) -> list[Any]:
        """A set that is written again, or moved, is another one."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        stats = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        return [str(self.folder.resolve()), stats]

    @property
    def class_names(self) -> Sequence[str]:
        if self.meaning.classes:
            return self.meaning.classes
        if not self._index_file.exists():
            raise ValueError(
                f"{self.name}: classes are counted in its masks, by semiseg prepare; or name them with "
                "--config.data.options='{\"classes\": [...]}'"
            )
        return tuple(self._index["classes"])

    @functools.cached_property
    def _random_access(self) -> bool:
        """Whether records can be read in any order as they are; raises an error if they cannot be converted either."""
        formats = {form.value for form in self.builder.info.available_file_formats()}
        if not formats & {"array_record", "tfrecord"}:
            raise FolderError(
                f"{self.folder}: is stored as {', '.join(sorted(formats))}; prepare it as array_record: "
                f"tfds build {self.builder.info.name} --file_format=array_record"
            )
        return "array_record" in formats

    @property
    def _index_file(self) -> Path:
        return self.own / "index.json"

    def build(self) -> None:
        if not self._random_access and not self.converted.exists():
            tfds_convert.convert(self.folder, self.converted)
        if not self._index_file.exists():
            index = json.dumps(self._make_index())
            store.make_folder(self.own)
            written = self.own / f"{store.INCOMPLETE}{uuid.uuid4().hex[:8]}"
            written.write_text(index)
            written.replace(self._index_file)

    def _make_index(self) -> dict[str, Any]:
        info, meaning = self.builder.info, self.meaning
        known = f"{len(meaning.classes)} classes" if meaning.classes else "classes as the masks count them"
        print(
            f"{self.name}: image is {meaning.image!r}, mask {meaning.mask!r}, id {meaning.id or 'its number'!r}, "
            f"{known}; every mask is read once for the index, in {self.own}",
            flush=True,
        )
        problems: list[str] = []
        splits: dict[str, list[dict[str, Any]]] = {}
        ids: set[str] = set()
        total = sum(split.num_examples for split in info.splits.values())
        with tqdm(total=total, desc=f"indexing {info.name}", unit="image", leave=False, disable=None) as bar:
            for split, about in info.splits.items():
                look = functools.partial(self._look, split, self._examples(split) if about.num_examples else [])
                rows = []
                for row, problem in in_order(look, range(about.num_examples)):
                    bar.update()
                    problems += [problem] if problem else []
                    rows += [row] if row else []
                splits[split] = _told_apart(rows, split, ids)
        if problems and not (self.data.skip_bad and any(splits.values())):
            raise FolderError(_report(self.folder, problems))
        for problem in problems:
            print(f"left out: {problem}")
        classes = meaning.classes or self._counted(splits)
        colors = meaning.colors or default_colors(len(classes))
        return {"classes": classes, "colors": colors, "background": meaning.background, "splits": splits}

    def _look(self, split: str, examples: Sequence[Example], at: int) -> tuple[dict[str, Any] | None, str]:
        """(the row of the index, "") of an image, or (None, what is wrong with it)."""
        id = f"{split}_{at:06d}"
        try:
            example = examples[at]
            id = self.meaning.id_of(example, id)
            size, classes = _size(example[self.meaning.image]), []
            if len(example[self.meaning.mask]):
                mask = self.meaning.raw_mask(example)
                if mask.shape != size:
                    raise ValueError(f"its mask is {mask.shape[1]}x{mask.shape[0]} but it is {size[1]}x{size[0]}")
                classes = self.meaning.shown(np.flatnonzero(np.bincount(mask.ravel())))
        except (OSError, ValueError, KeyError, RuntimeError, cv2.error) as error:
            return None, f"{split} {id}: {error}"
        record = make_record(id=id, image=b"", num_classes=len(self.meaning.classes), **self._labels(example, size))
        kinds = [Supervision.UNLABELED] + [Supervision.DENSE] * bool(classes)
        kinds += [Supervision.TAGS] * bool((record["tags"] >= 0).any())
        kinds += [Supervision.BOX] * bool(self.meaning.box)
        return describe_record(record, size, kinds) | {"at": at, "classes": classes}, ""

    def _labels(self, example: Example, size: tuple[int, int]) -> dict[str, Any]:
        """Boxes and tags of an image, as `make_record` takes them."""
        labels: dict[str, Any] = {}
        if self.meaning.box:
            labels["boxes"] = np.asarray(example[self.meaning.box])[None] * [*size, *size], [1]
        if self.meaning.tags:
            labels["tags"] = np.array(self.meaning.tags)
        if self.meaning.segments:
            labels["tags"] = np.zeros(len(self.meaning.classes), np.int8)
            labels["tags"][np.asarray(example[self.meaning.segments]["label"], np.int64)] = 1
        return labels

    def _counted(self, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
        """Names of the classes that the masks show, if these count up from 0."""
        shown = {klass for rows in splits.values() for row in rows for klass in row["classes"]}
        if len(shown) < 2 or max(shown) != len(shown) - 1:
            values = [value + self.options.offset for value in sorted(shown)][:12]
            raise FolderError(
                f"{self.folder}: masks hold values {values} (and ignored ones: {list(self.options.ignored)}), which do "
                "not count classes; say what they are, such as --config.data.options="
                '\'{"classes": ["background", "thing"], "values": [0, 255], "ignored": []}\''
            )
        return [f"class {klass}" for klass in sorted(shown)]

    def _examples(self, split: str) -> "Examples":
        builder = self.builder if self._random_access else tfds.builder_from_directory(self.converted)
        return Examples(builder, split, self.meaning.features)

    @functools.cached_property
    def _index(self) -> dict[str, Any]:
        index: dict[str, Any] = json.loads(self._index_file.read_text())
        splits = index["splits"]
        asked = {*self.data.train_split.split("+"), *self.data.eval_split.split("+")}
        asked |= {name for name in self.data.assign.values() if isinstance(name, str)}
        for name in asked:
            base, start, end = self._slice(name)
            if name not in splits and base in splits:
                splits[name] = [row for row in splits[base] if start <= row["at"] < end]
        return index

    def _slice(self, name: str) -> tuple[str, int, int]:
        """A part of a split, such as train[:90%], as (split, the first of its images, the one after the last)."""
        base = name.partition("[")[0]
        if base == name or base not in self.builder.info.splits:
            return base, 0, 0
        try:
            (part,) = tfds.core.ReadInstruction.from_spec(name).to_absolute(self.builder.info.splits)
        except Exception as error:
            raise ValueError(f"{self.name}: split {name!r} cannot be read: {error}") from None
        length = self.builder.info.splits[base].num_examples
        return base, part.from_ or 0, length if part.to is None else part.to

    def dataset_info(self) -> DatasetInfo:
        return DatasetInfo.from_meta(self.name, self._index, self._index["splits"])

    def records(self, split: str) -> Sequence[Record]:
        rows = self._index["splits"][split]
        return _TfdsRecords(self, rows, self._examples(self._slice(split)[0])) if rows else []


class Examples(Records):
    """The examples of a split with some of their features; images and masks stay encoded."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, names: Sequence[str]):
        self.features = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})
        self.decoders = {
            name: tfds.decode.SkipDecoding()
            for name, feature in self.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        self.source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.features.deserialize_example_np(self.source[index], decoders=self.decoders)


class _TfdsRecords(Records):
    """Records of a tfds set; a mask is decoded when it is asked for."""

    def __init__(self, tfds_set: TfdsSet, rows: Sequence[Mapping[str, Any]], examples: Sequence[Example]):
        self.set, self.rows, self.examples = tfds_set, rows, examples
        self.classes = len(tfds_set.class_names)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row, meaning = self.rows[index], self.set.meaning
        example = self.examples[row["at"]]
        labels = self.set._labels(example, (row["size"][0], row["size"][1]))
        record = make_record(id=row["id"], image=example[meaning.image], num_classes=self.classes, **labels)
        if Supervision.DENSE in row["kinds"]:
            record["mask"] = functools.partial(meaning.mask_of, example)
        return record | {"id": row["id"].encode()}


def _size(image: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, upright; of most formats without decoding its pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as file:
            width, height = file.size
            turned = file.getexif().get(0x0112, 1) >= 5
    except Exception:  # PIL reads fewer formats
        array = decode_image(image)
        return array.shape[0], array.shape[1]
    return (width, height) if turned else (height, width)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _told_apart(rows: Sequence[dict[str, Any]], split: str, seen: set[str]) -> list[dict[str, Any]]:
    """IDs that were `seen` in this or another split get split and number: label maps are written as ID.png."""
    told = []
    for row in rows:
        told.append(row | {"id": f"{row['id']}_{split}_{row['at']:06d}"} if row["id"] in seen else row)
        seen.add(row["id"])
    return told


def _report(folder: Path, problems: Sequence[str]) -> str:
    shown = "\n  ".join(problems[:_SHOWN])
    more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return (
        f"{folder} has {len(problems)} problem(s):\n  {shown}{more}\n"
        "Prepare the set again if its files are damaged or missing. If masks hold other values than expected, say what "
        "they mean with --config.data.options. Or leave these images out with --config.data.skip_bad=True."
    )
