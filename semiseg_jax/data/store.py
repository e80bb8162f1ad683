"""Sets of records on disk: array_record files and an index, which tfds opens without TensorFlow.

    FOLDER/NAME-SPLIT.array_record-00000-of-00002   the records, see `records.features`
    FOLDER/dataset_info.json, features.json         what `tfds.builder_from_directory(FOLDER)` reads
    FOLDER/index.json                               classes, and a row for each record: enough to plan batches

Records go straight to their file, in one pass. (The writers of tfds copy them first, past a gigabyte with TensorFlow.)
A set appears under its name when it is complete; until then it is an `incomplete.*` folder beside it.
"""

import contextlib
import glob
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.proto import tf_example_pb2

from semiseg_jax.data.remote import Store, address_of, cache_of

logger = logging.getLogger("semiseg_jax")

INCOMPLETE = "incomplete."
VERSION = "1.2.0"
_SHARD_BYTES = 512 * 2**20


def place_of(data_dir: str | None) -> Path:
    """Where sets are kept: `data.data_dir`, or the usual place. Of a place in a store, the local copy."""
    place = _named(data_dir)
    address = address_of(place)
    return cache_of(address, "datasets") if address else Path(place).expanduser()


def _named(data_dir: str | None) -> str:
    return str(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def fetch(data_dir: str | None, folder: Path) -> bool:
    """Copies a set that this package built from a store -> whether it was there."""
    if not address_of(_named(data_dir)):
        return False
    make_folder(folder.parent)
    place = Store(_named(data_dir))
    found = place.get_whole(folder.relative_to(place_of(data_dir)).as_posix(), folder)
    if found:
        print(f"copied {folder.parent.name} from {place}", flush=True)
    return found


def send(data_dir: str | None, folder: Path) -> None:
    """Copies a set that was built to the store where sets are kept, for other machines."""
    if not address_of(_named(data_dir)):
        return
    place = Store(_named(data_dir))
    try:
        place.put_whole(folder, folder.relative_to(place_of(data_dir)).as_posix())
        print(f"kept in {place}", flush=True)
    except Exception as error:  # of the libraries of stores
        logger.warning("the set could not be kept in %s (%s); it is in %s", place, error, folder)


def fetch_prepared(data_dir: str | None, under: Path, *, described: bool = False) -> None:
    """Copies what is below a folder of a store that tfds wrote; if `described`, only what says which sets there are."""
    if not address_of(_named(data_dir)):
        return
    place, local = Store(_named(data_dir)), place_of(data_dir)
    there = place.sizes(under.relative_to(local).as_posix())
    wanted = [name for name in there if not described or name.endswith((".json", ".txt"))]
    missing = [name for name in wanted if not (local / name).is_file() or (local / name).stat().st_size != there[name]]
    if missing and not described:
        size = sum(there[name] for name in missing)
        print(f"copying {size / 2**20:,.0f} MiB from {place} to {local}", flush=True)
    place.copy_files(missing, local)


def file_name(split: str) -> str:
    """What a split is called in names of files: only letters, digits and _ of ASCII can be read back."""
    if re.fullmatch(r"\w+", split, re.ASCII):
        return split
    return re.sub(r"\W", "_", split, flags=re.ASCII) + f"_{hashlib.sha256(split.encode()).hexdigest()[:8]}"


class Writer:
    """Writes the records of one set, split by split."""

    def __init__(self, folder: Path, name: str, features: tfds.features.FeaturesDict):
        self.folder, self.name, self.features = folder, name, features
        self.index: dict[str, Any] = {}
        self._serializer = ExampleSerializer(features.get_serialized_info())
        self._shards: dict[str, list[list[int]]] = {}  # by split: records and bytes of each
        self._file: ArrayRecordWriter | None = None

    def add(self, split: str, record: Mapping[str, Any]) -> None:
        self.add_bytes(split, self._serializer.serialize_example(self.features.encode_example(record)))

    def add_bytes(self, split: str, data: bytes) -> None:
        """Adds a record that is serialized already. A split is written in one go."""
        split = file_name(split)
        shards = self._shards.setdefault(split, [])
        if not shards or shards[-1][1] > _SHARD_BYTES:
            self._close()
            shards.append([0, 0])
            self._file = ArrayRecordWriter(str(self._shard(split, len(shards) - 1)), "group_size:1")
        if self._file is None:
            raise ValueError(f"split {split!r} was closed; write all of a split before the next one")
        self._file.write(data)
        shards[-1][0] += 1
        shards[-1][1] += len(data)

    def finish(self) -> None:
        """Names the files by their number and writes the metadata."""
        self._close()
        infos = []
        for split, shards in self._shards.items():
            for number in range(len(shards)):
                final = f"{self.name}-{split}.array_record-{number:05d}-of-{len(shards):05d}"
                self._shard(split, number).rename(self.folder / final)
            template = tfds.core.ShardedFileTemplate(
                data_dir=self.folder, dataset_name=self.name, split=split, filetype_suffix="array_record"
            )
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[records for records, _ in shards],
                    num_bytes=sum(size for _, size in shards),
                    filename_template=template,
                )
            )
        if infos:
            tfds.folder_dataset.write_metadata(
                data_dir=self.folder, features=self.features, split_infos=infos, version=VERSION, check_data=False
            )
        (self.folder / "index.json").write_text(json.dumps(self.index))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _shard(self, split: str, number: int) -> Path:
        return self.folder / f"{split}.{number}.writing"


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write to that will be `folder`, if nothing fails; if another process is faster, its folder stays."""
    for broken in _broken_off(folder.parent):
        shutil.rmtree(broken, ignore_errors=True)
    building = folder.with_name(f"{INCOMPLETE}{os.getpid()}.{uuid.uuid4().hex[:8]}.{_machine()}")
    make_folder(building)
    try:
        yield building
        with contextlib.suppress(OSError):  # a folder that is not empty is there already
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        with contextlib.suppress(OSError):  # what was made for it alone, NAME/CONFIG; folders with anything in stay
            folder.parent.rmdir()
            folder.parent.parent.rmdir()
    if not folder.exists():
        raise OSError(f"{folder} could not be written")


def make_folder(folder: Path) -> None:
    """Makes a folder of ours, also one that is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made ({error.strerror}); --config.data.data_dir=DIR keeps built sets elsewhere"
        ) from None


@contextlib.contextmanager
def writing(folder: Path, name: str, features: tfds.features.FeaturesDict) -> Iterator[Writer]:
    """A set that will stand in `folder`, if nothing fails; if another process is faster, its set stays."""
    with appearing(folder) as building:
        writer = Writer(building, name, features)
        try:
            yield writer
            writer.finish()
        finally:
            writer._close()


def leftovers(folder: Path) -> list[Path]:
    """What stands beside a set, FOLDER = .../NAME/CONFIG/VERSION, and will not be read again.

    That is what a killed process was writing, sets of older versions of this program, and sets of earlier states of
    the same source, `root`, that were built in the same way, `how`.
    """
    own = read_index(folder)
    found = []
    for config in folder.parent.parent.iterdir():
        found += _broken_off(config)
        for other in config.iterdir() if config.is_dir() else ():
            if other == folder or other.name.startswith(INCOMPLETE) or not other.is_dir():
                continue
            same_name = config.name.rpartition("-")[0] == folder.parent.name.rpartition("-")[0]
            if not (other / "index.json").is_file():
                stale = same_name and (other / "dataset_info.json").is_file()
            else:
                index = read_index(other)
                stale = same_name and "root" in own and all(index.get(key) == own.get(key) for key in ("root", "how"))
            found += [config if stale and len(list(config.iterdir())) == 1 else other] if stale else []
    return found


def _broken_off(folder: Path) -> list[Path]:
    """Unfinished sets in a folder whose process is gone."""
    found = []
    for path in folder.glob(f"{INCOMPLETE}*.*.{glob.escape(_machine())}"):
        pid = path.name.split(".")[1]
        if pid.isdigit() and not is_running(int(pid)):
            found.append(path)
    return found


def _machine() -> str:
    """Where process numbers mean the same: containers of one machine count for themselves."""
    with contextlib.suppress(OSError):
        return f"{platform.node()}-{Path('/proc/self/ns/pid').stat().st_ino}"
    return platform.node()


def is_running(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_index(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "index.json").read_text())
    except (FileNotFoundError, ValueError) as error:
        raise _damaged(folder, f"index.json cannot be read ({error})") from None
    return content


def open_split(folder: Path, split: str) -> Sequence[Any]:
    """The records of a split, read when they are asked for."""
    for name in ("dataset_info.json", "features.json"):
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
    try:
        return _Stored(tfds.builder_from_directory(folder), file_name(split))
    except Exception as error:
        raise _damaged(folder, f"split {split!r} cannot be opened ({error})") from error


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"the set in {folder} is damaged: {what}. Delete this folder, and the set is built again.")


class _Stored(Sequence[dict[str, Any]]):
    """As the data source of tfds, which takes four times as long to take a record apart."""

    def __init__(self, builder: Any, split: str):
        self.place, self.split = Path(builder.data_path), split
        self.bytes = builder.as_data_source(split).data_source
        self.fields = [
            (name, None if isinstance(feature, tfds.features.Text) else np.dtype(feature.np_dtype),
             [-1 if side is None else side for side in feature.shape])
            for name, feature in builder.info.features.items()
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.bytes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._record(self.bytes[int(index)])
        except Exception as error:
            raise _damaged(self.place, f"record {index} of split {self.split!r} cannot be read ({error})") from error

    def _record(self, data: bytes) -> dict[str, Any]:
        stored = tf_example_pb2.Example.FromString(data).features.feature
        record: dict[str, Any] = {}
        for name, dtype, shape in self.fields:
            field = stored[name]
            if dtype is None:
                record[name] = field.bytes_list.value[0]
            else:
                values = field.float_list.value if dtype.kind == "f" else field.int64_list.value
                record[name] = np.array(values, dtype).reshape(shape)
        return record
