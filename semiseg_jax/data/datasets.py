"""Datasets by name: builds on first use, then opens."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from semiseg_jax.data.folder import Folder
from semiseg_jax.data.records import DatasetInfo, Record, RecordBuilder
from semiseg_jax.data.shapes import Shapes
from semiseg_jax.data.types import MADE_FOR, Supervision
from semiseg_jax.options import OptionError, Options, option, read
from semiseg_jax.registry import find


@dataclasses.dataclass(frozen=True)
class Data(Options):
    """Which images, with which labels, and how they are read."""

    name: str = option("shapes", "shapes, folder, or a dataset of an installed package or your own")
    path: str = option("", "of the dataset's source, where it has one")
    data_dir: str = option("", "where built datasets are kept; empty = TFDS_DATA_DIR or ~/tensorflow_datasets")
    options: Mapping[str, Any] = option({}, "further options that the dataset declares")
    train_split: str = option("train", 'or several: "train+extra"')
    eval_split: str = option("", "empty = val, validation or test, whichever exists first")
    quota: Mapping[str, int] = option({"dense": 8}, "rows of each kind in a micro-batch of one device", low=0)
    assign: Mapping[str, int | float | str] = option(
        {}, "kind: share (0.1), number (50) or split of the images that get it; empty = whatever labels they have"
    )
    simulate: Mapping[str, Mapping[str, Any]] = option(
        {}, 'weak labels to draw from masks, kind: options, such as {"scribble": {}}'
    )
    seed: int = option(0, "of simulated labels and of `assign`")
    strong_classes: tuple[str, ...] = option(
        (), "names; images with any other class but background then serve as tags only"
    )
    balance_images: bool = option(
        False, "draw rows with masks so that each class is the rarest of its image equally often"
    )
    made_labels: str = option("", "folder of label maps ID.png that a program made, for rows of the kinds `made_for`")
    made_for: tuple[str, ...] = option(
        tuple(kind.name.lower() for kind in MADE_FOR), "kinds of rows that learn from `made_labels`"
    )
    canvas: tuple[int, int] = option((0, 0), "images are shrunk to fit; (0, 0) = the largest image, at most 512", low=0)
    threads: int = option(4, "that read and decode images", low=1)
    skip_bad: bool = option(False, "leave unreadable or inconsistent images out instead of stopping")

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(self.canvas) and not all(self.canvas):
            raise OptionError("canvas", f"is {self.canvas}; give both sides, or (0, 0)")


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


def _shapes(data: Data) -> RecordBuilder:
    """Procedural scenes of simple shapes with every kind of label; nothing to download."""
    if data.path or data.simulate:
        raise ValueError(
            "data.path and data.simulate belong to dataset 'folder'; 'shapes' has every kind of label already"
        )
    return Shapes(data_dir=data.data_dir)


def _folder(data: Data) -> RecordBuilder:
    """A folder of images with whichever labels exist, at `data.path`."""
    if not data.path:
        raise ValueError("dataset 'folder' needs the folder's path: --config.data.path=DIR")
    return Folder(
        data.path,
        data_dir=data.data_dir,
        simulate=data.simulate,
        seed=data.seed,
        skip_bad=data.skip_bad,
        strong_classes=data.strong_classes,
        train_split=data.train_split,
    )


BUILDERS: Mapping[str, Callable[[Data], RecordBuilder]] = {"shapes": _shapes, "folder": _folder}


def make_builder(data: Data) -> RecordBuilder:
    """The builder that `config.data` names.

    One from outside is a function of `Data`, or a class made from it; its attribute `Options`, a frozen dataclass, says
    what `data.options` may hold.
    """
    make = find(data.name, BUILDERS, "datasets")
    declared = getattr(make, "Options", None)
    if declared:
        data = dataclasses.replace(
            data, options=dataclasses.asdict(read(declared, data.options, "config.data.options"))
        )
    elif data.options:
        raise ValueError(f"config.data.options is {dict(data.options)} but dataset {data.name!r} has no options")
    builder = make(data)
    if not isinstance(builder, RecordBuilder):
        raise ValueError(f"dataset {data.name!r} must make a semiseg_jax.data.records.RecordBuilder")
    return builder


def open_dataset(data: Data) -> Dataset:
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
