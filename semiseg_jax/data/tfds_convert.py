"""tfds sets that are stored as tfrecord, tfds's default, become array_record, whose records can be read in any order.

A tfrecord file is a row of records: length (8 bytes, little-endian), CRC of the length, bytes, CRC of the bytes.
"""

import functools
import json
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm.auto import tqdm

from semiseg_jax.data import store
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.threads import in_order

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reversed


def convert(source: Path, target: Path) -> None:
    """Writes the set in `source` to `target`, shard by shard; it appears there when it is complete."""
    info = tfds.builder_from_directory(source).info
    shards = [
        (Path(path), length)
        for split in info.splits.values()
        for path, length in zip(
            split.filename_template.sharded_filepaths(split.num_shards), split.shard_lengths, strict=True
        )
    ]
    total = sum(length for _, length in shards)
    print(f"converting {info.full_name} from tfrecord to array_record, {total} records, in {target}", flush=True)
    lock = threading.Lock()
    with (
        store.appearing(target) as folder,
        tqdm(total=total, desc=f"converting {info.name}", unit="record", leave=False, disable=None) as bar,
    ):

        def write(shard: tuple[Path, int]) -> None:
            path, length = shard
            writer = ArrayRecordWriter(str(folder / path.name.replace(".tfrecord", ".array_record")), "group_size:1")
            count = 0
            try:
                for data in read_records(path):
                    writer.write(data)
                    count += 1
                    with lock:
                        bar.update()
            finally:
                writer.close()
            if count != length:
                raise FolderError(
                    f"{path}: has {count} records but dataset_info.json says {length}; prepare the set again"
                )

        for _ in in_order(write, shards):
            pass
        _write_metadata(source, folder, {path.name for path, _ in shards})


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a tfrecord file. Lengths are checked against their CRC and against the file."""
    try:
        left = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise FolderError(f"{path}: cannot be read ({error.strerror}); prepare the set again") from None
    with file:
        while left:
            head = file.read(12)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else -1
            left -= 12 + length + 4
            if length < 0 or (masked_crc(head[:8]) == struct.unpack("<I", head[8:])[0] and left < 0):
                raise FolderError(f"{path}: ends in the middle of a record; copy or prepare the set again")
            if masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                raise FolderError(
                    f"{path}: is damaged, the checksum of a length is wrong; copy or prepare the set again"
                )
            yield file.read(length)
            file.read(4)  # the CRC of the bytes


def masked_crc(data: bytes) -> int:
    """The CRC-32C of a few bytes, turned and shifted as these files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _crc_table()[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _write_metadata(source: Path, target: Path, records: set[str]) -> None:
    """Everything that describes the set, as it was but for the format."""
    for path in source.iterdir():
        if path.is_file() and path.name not in records:
            shutil.copy(path, target)
    file = target / "dataset_info.json"
    content = json.loads(file.read_text())
    content["fileFormat"] = "array_record"
    content.pop("alternativeFileFormats", None)
    for split in content["splits"]:
        if "filepathTemplate" in split:
            split["filepathTemplate"] = split["filepathTemplate"].replace(".tfrecord", ".array_record")
    file.write_text(json.dumps(content, indent=2))
