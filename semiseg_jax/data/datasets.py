"""Datasets by name: builds on first use, then opens."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from semiseg_jax.data.drawn import AddDrawn, draw_labels
from semiseg_jax.data.fields import Data
from semiseg_jax.data.folder import Folder
from semiseg_jax.data.joined import JoinedSet
from semiseg_jax.data.layouts.ade20k import Ade20k
from semiseg_jax.data.layouts.camvid import Camvid
from semiseg_jax.data.layouts.cityscapes import Cityscapes
from semiseg_jax.data.layouts.coco import Coco
from semiseg_jax.data.layouts.images import Images
from semiseg_jax.data.layouts.sift_flow import SiftFlow
from semiseg_jax.data.layouts.stanford_background import StanfordBackground
from semiseg_jax.data.layouts.voc import Voc
from semiseg_jax.data.layouts.weizmann_horse import WeizmannHorse
from semiseg_jax.data.pools import ONLY_TAGS, make_pools, make_streams, parse_quota, weak_rows
from semiseg_jax.data.records import DataSet, DatasetInfo, Record, Records
from semiseg_jax.data.shapes import Shapes
from semiseg_jax.data.tfds_mappings import KNOWN
from semiseg_jax.data.tfds_sets import TfdsSet
from semiseg_jax.data.types import Supervision
from semiseg_jax.options import read
from semiseg_jax.registry import find


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set that is open: its info, with the labels that were drawn from its masks, and its records."""

    source: DataSet
    info: DatasetInfo
    drawn: Mapping[str, AddDrawn] = dataclasses.field(default_factory=dict)  # by split
    hidden: Mapping[str, Sequence[bool]] = dataclasses.field(default_factory=dict)  # by split, see `_hide`

    def records(self, split: str) -> Sequence[Record]:
        """The records of one split, or of several joined by +, as training reads them."""
        return self._joined(split, self._records)

    def originals(self, split: str) -> Sequence[Record]:
        """Images and masks of a split at their own size."""
        return self._joined(split, self.source.originals)

    def _records(self, part: str) -> Sequence[Record]:
        records = self.source.records(part)
        records = self.drawn[part](records) if part in self.drawn else records
        return OnlyTags(records, self.hidden[part]) if part in self.hidden else records

    def _joined(self, split: str, open_part: Callable[[str], Sequence[Record]]) -> Sequence[Record]:
        if split not in self.info.splits:
            raise ValueError(f"{self.info.name} has no split {split!r}; it has: {', '.join(self.info.splits)}")
        sources = [open_part(part) for part in split.split("+")]
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


class Joined(Records):
    """Records of several sources, one after the other."""

    def __init__(self, sources: Sequence[Sequence[Record]]):
        self.sources = sources
        self.ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: Any) -> Any:
        source = bisect.bisect_right(self.ends, index)
        return self.sources[source][index - (self.ends[source - 1] if source else 0)]


class OnlyTags(Records):
    """Records of which some have no label but their tags."""

    def __init__(self, records: Sequence[Record], hidden: Sequence[bool]):
        self.records, self.hidden = records, hidden

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        record = self.records[index]
        if self.hidden[index]:
            rows = {field: record[field][:0] for field in ("points", "strokes", "partial", "boxes", "box_class")}
            record = {**record, **rows, "mask": b""}
        return record


class _Shapes(Shapes):
    """Procedural scenes of simple shapes with every kind of label; nothing to download."""

    def __init__(self, data: Data):
        if data.path or data.simulate:
            raise ValueError(
                "data.path and data.simulate belong to datasets of files; 'shapes' has every kind of label already"
            )
        super().__init__(data_dir=data.data_dir)


BUILDERS: Mapping[str, Callable[[Data], DataSet]] = {
    "shapes": _Shapes,
    "folder": Folder,
    "tfds:NAME": TfdsSet,
    "images": Images,
    "voc": Voc,
    "cityscapes": Cityscapes,
    "ade20k": Ade20k,
    "camvid": Camvid,
    "coco": Coco,
    "sift_flow": SiftFlow,
    "stanford_background": StanfordBackground,
    "weizmann_horse": WeizmannHorse,
}


def make_builder(data: Data) -> DataSet:
    """The builder that `config.data` names.

    One from outside is a function of `Data`, or a class made from it; its attribute `Options`, a frozen dataclass, says
    what `data.options` may hold.
    """
    if "+" in data.name:
        return JoinedSet(data, make_builder)
    known = {**BUILDERS, **{f"tfds:{name}": TfdsSet for name in KNOWN}}
    make = TfdsSet if data.name.startswith("tfds:") else find(data.name, known, "datasets")
    declared = getattr(make, "Options", None)
    if declared:
        data = dataclasses.replace(
            data, options=dataclasses.asdict(read(declared, data.options, "config.data.options"))
        )
    elif data.options:
        raise ValueError(f"config.data.options is {dict(data.options)} but dataset {data.name!r} has no options")
    builder = make(data)
    if not isinstance(builder, DataSet):
        raise ValueError(f"dataset {data.name!r} must make a semiseg_jax.data.records.DataSet, such as a RecordBuilder")
    return builder


def open_dataset(data: Data, *, planned: bool = False) -> Dataset:
    """Builds the dataset of `config.data` if need be, and opens it.

    With `planned`, whether the images can fill the quota is checked before anything is read, as far as that is known.
    """
    source = make_builder(data)
    if planned and not data.strong_classes and (outline := source.outline()):
        plan(data, outline)
    source.build()
    info = _with_joined_splits(source.dataset_info(), data)
    drawn: dict[str, AddDrawn] = {}
    if data.simulate and data.train_split in info.splits:
        info, drawn = draw_labels(data, source, info)
    info, hidden = _hide(info, data) if data.strong_classes else (info, {})
    return Dataset(source, _with_joined_splits(info, data), drawn, hidden)


def plan(data: Data, outline: DatasetInfo) -> None:
    """Raises if the images cannot fill the quota, going by their ids and kinds."""
    info = _with_joined_splits(outline, data)
    drawable = {int(Supervision.parse(kind)) for kind in data.simulate}
    rows = [
        {**row, "kinds": sorted({*row["kinds"], *drawable})} if Supervision.DENSE in row["kinds"] else row
        for row in info.splits.get(data.train_split, ())
    ]
    splits = {**info.splits, data.train_split: rows} if data.train_split in info.splits else info.splits
    check_pools(dataclasses.replace(data, strong_classes=()), dataclasses.replace(info, splits=splits))


def check_pools(data: Data, info: DatasetInfo) -> None:
    """Raises if the images of an open set cannot fill the quota."""
    quota = parse_quota(data.quota)
    pools = make_pools(info, data.train_split, quota, data.assign, data.seed, data.strong_classes)
    make_streams(data.quota, pools, info.splits[data.train_split])


def _hide(info: DatasetInfo, data: Data) -> tuple[DatasetInfo, dict[str, list[bool]]]:
    """`data.strong_classes`: training images that may show other classes keep their tags alone, in any set.

    -> (info without their other labels, which images these are by split)
    """
    parts = [part for part in data.train_split.split("+") if part in info.splits]
    hidden = {part: weak_rows(info, info.splits[part], data.strong_classes) for part in parts}
    nothing = dict.fromkeys(("points", "strokes", "partial", "boxes"), 0)
    splits = dict(info.splits)
    for part, weak in hidden.items():
        splits[part] = [
            {**row, **nothing, "kinds": [kind for kind in row["kinds"] if kind in ONLY_TAGS]} if is_weak else row
            for row, is_weak in zip(info.splits[part], weak, strict=True)
        ]
    return dataclasses.replace(info, splits=splits), hidden


def _with_joined_splits(info: DatasetInfo, data: Data) -> DatasetInfo:
    """Splits that are asked for as "train+extra" are splits, too."""
    splits = dict(info.splits)
    for split in (data.train_split, data.eval_split):
        parts = split.split("+")
        if len(parts) > 1 and all(part in splits for part in parts):
            splits[split] = [row for part in parts for row in splits[part]]
    return dataclasses.replace(info, splits=splits)
