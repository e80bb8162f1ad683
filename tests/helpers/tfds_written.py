"""Small sets that tfds's own writers wrote, in the feature layouts of real sets, and the same sets as tfrecord."""

import itertools
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds

SIZE = (40, 48)
BOX = tfds.features.BBox(0.25, 0.25, 0.75, 0.75)


def png(array) -> bytes:
    array = np.asarray(array)
    return cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()


def photo(mask, suffix=".jpg") -> bytes:
    """An image whose brightness follows its mask."""
    shade = np.where(np.asarray(mask) > np.min(mask), 220, 40).astype(np.uint8)
    return cv2.imencode(suffix, np.repeat(shade[..., None], 3, axis=2))[1].tobytes()


def square(i, inside, outside=0, dtype=np.uint8):
    mask = np.full(SIZE, outside, dtype)
    mask[10 + i : 26 + i, 12:30] = inside
    return mask


def trimap(i):
    """A pet as its set has it: 1 = pet, 2 = background, 3 = border."""
    mask = square(i, 1, 2)
    mask[9 + i, 12:30] = 3
    return mask


def write(builder: tfds.core.GeneratorBasedBuilder, splits) -> Path:
    """Writes examples by split with the builder's own features."""
    builder._split_generators = lambda _: {split: builder._generate_examples(split) for split in splits}
    builder._generate_examples = lambda split: enumerate(splits[split])
    builder.download_and_prepare()
    return Path(builder.data_dir)


def write_pet(data_dir, train=4, test=2) -> Path:
    def example(i):
        return {
            "image": photo(trimap(i) == 1),
            "label": i,
            "species": 0,
            "file_name": f"cat_{i}.jpg",
            "segmentation_mask": png(trimap(i)),
            "head_bbox": BOX,
        }

    builder = tfds.builder("oxford_iiit_pet", data_dir=data_dir, file_format="array_record")
    return write(builder, {"train": map(example, range(train)), "test": map(example, range(train, train + test))})


def write_cityscapes(data_dir, config="semantic_segmentation") -> Path:
    def example(i, values=(7, 26)):
        mask = square(i, values[1], values[0])
        mask[0] = 3
        return {"image_id": f"ulm_{i:06d}", "image_left": photo(mask, ".png"), "segmentation_label": png(mask)}

    builder = tfds.builder(f"cityscapes/{config}", data_dir=data_dir, file_format="array_record")
    splits = {"train": [example(i) for i in range(3)], "validation": [example(4), example(5, (8, 33))]}
    if config == "semantic_segmentation":
        splits["test"] = [example(6, (0, 0))]
    else:
        splits["train_extra"] = [example(6)]
    return write(builder, splits)


def custom(name: str, features, data_dir, splits, version="1.0.0") -> Path:
    """A set of this name that has these features."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    members = {
        "name": name,
        "VERSION": tfds.core.Version(version),
        "_info": info,
        "_split_generators": lambda self, _: None,
        "_generate_examples": lambda self: None,
        "__module__": __name__,
        "pkg_dir_path": None,
    }
    with tfds.core.registered.skip_registration():
        made = type(name.title().replace("_", ""), (tfds.core.GeneratorBasedBuilder,), members)
    return write(made(data_dir=data_dir, file_format="array_record"), splits)


def write_cells(data_dir, values=(0, 1), **kwargs) -> Path:
    """A set that no program knows: a photo, a mask of cells, and a number."""
    features = {
        "photo": tfds.features.Image(),
        "cells": tfds.features.Image(shape=(None, None, 1)),
        "id": np.int64,
    }

    def example(i):
        mask = square(i, values[1], values[0])
        return {"photo": photo(mask), "cells": png(mask), "id": 100 + i}

    return custom(
        "cell_set", features, data_dir, {"train": map(example, range(6)), "val": map(example, (6, 7))}, **kwargs
    )


def as_tfrecord(folder: Path) -> Path:
    """Turns an array_record set into what tfds writes by default, by hand."""
    builder = tfds.builder_from_directory(folder)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    for split, info in builder.info.splits.items():
        records = iter(builder.as_data_source(split, deserialize_method=raw) if info.num_examples else ())
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
            write_tfrecord(Path(str(path).replace("array_record", "tfrecord")), itertools.islice(records, length))
            Path(path).unlink()
    file = folder / "dataset_info.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    return folder


def write_tfrecord(path: Path, records) -> None:
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + struct.pack("<I", masked_crc(length)))
            file.write(record + struct.pack("<I", masked_crc(record)))


def masked_crc(data: bytes) -> int:
    """CRC-32C bit by bit, masked."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
