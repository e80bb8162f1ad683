"""Datasets by name: builds on first use, then opens."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from semiseg_jax.data.folder import Folder
from semiseg_jax.data.records import DatasetInfo, Record, RecordBuilder
from semiseg_jax.data.shapes import Shapes
from semiseg_jax.data.types import Supervision


@dataclasses.dataclass(frozen=True)
class Dataset:
    builder: RecordBuilder
    info: DatasetInfo

    def records(self, split: str) -> Sequence[Record]:
        if split not in self.info.splits:
            raise ValueError(f"{self.info.name} has no split {split!r}; it has: {', '.join(self.info.splits)}")
        sources = [self.builder.as_data_source(part) for part in split.split("+")]
        return sources[0] if len(sources) == 1 else Joined(sources)

    def masked_indices(self, split: str) -> list[int]:
        """Records of a split that have a mask to be compared with."""
        return [i for i, row in enumerate(self.info.splits[split]) if Supervision.DENSE in row["kinds"]]

    def labels_beside(self, split: str, kinds: Collection[Supervision]) -> dict[Supervision, int]:
        """How many images have labels of each other kind."""
        rows = [row for part in split.split("+") for row in self.info.splits[part]]
        counts = {kind: sum(int(kind) in row["kinds"] for row in rows) for kind in sorted(Supervision, reverse=True)}
        return {kind: count for kind, count in counts.items() if kind and count and kind not in kinds}

    def eval_split(self, asked: str) -> str:
        """The split asked for, else the first of val, validation and test that has masks, else ""."""
        if not asked:
            found = (name for name in ("val", "validation", "test") if name in self.info.splits)
            return next((name for name in found if self.masked_indices(name)), "")
        if asked not in self.info.splits:
            raise ValueError(f"{self.info.name} has no split {asked!r}; it has: {', '.join(self.info.splits)}")
        if not self.masked_indices(asked):
            raise ValueError(f"split {asked!r} of {self.info.name} has no image with a mask to be compared with")
        return asked


class Joined(Sequence[Record]):
    """Records of several sources, one after the other."""

    def __init__(self, sources: Sequence[Sequence[Record]]):
        self.sources = sources
        self.ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: Any) -> Any:
        source = bisect.bisect_right(self.ends, index)
        return self.sources[source][index - (self.ends[source - 1] if source else 0)]


def _shapes(data: Any) -> RecordBuilder:
    if data.path or data.simulate:
        raise ValueError(
            "data.path and data.simulate belong to dataset 'folder'; 'shapes' has every kind of label already"
        )
    return Shapes(data_dir=data.data_dir)


def _folder(data: Any) -> RecordBuilder:
    if not data.path:
        raise ValueError("dataset 'folder' needs the folder's path: --config.data.path=DIR")
    return Folder(
        data.path,
        data_dir=data.data_dir,
        simulate=data.simulate.to_dict(),
        seed=data.seed,
        skip_bad=data.skip_bad,
        strong_classes=data.strong_classes,
        train_split=data.train_split,
    )


BUILDERS: Mapping[str, Callable[[Any], RecordBuilder]] = {"shapes": _shapes, "folder": _folder}


def make_builder(data: Any) -> RecordBuilder:
    """The builder that `config.data` names."""
    if data.name not in BUILDERS:
        raise ValueError(f"unknown dataset {data.name!r}; known datasets: {', '.join(sorted(BUILDERS))}")
    return BUILDERS[data.name](data)


def open_dataset(data: Any) -> Dataset:
    """Builds the dataset of `config.data` if need be, and opens it."""
    builder = make_builder(data)
    builder.build()
    info = builder.dataset_info()
    splits = dict(info.splits)
    for split in (data.train_split, data.eval_split):
        parts = split.split("+")
        if len(parts) > 1 and all(part in splits for part in parts):
            splits[split] = [row for part in parts for row in splits[part]]
    return Dataset(builder, dataclasses.replace(info, splits=splits))
