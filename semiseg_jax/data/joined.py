"""Several sets as one: `data.name = "voc+coco"`, with a path for each, `data.path = "VOCdevkit+COCO"`.

Classes are joined by their names. Those of the first set come first, then those that only later sets have; a class of
another name is renamed with `data.class_map`, {"coco": {"airplane": "aeroplane"}}, where the name "ignore" leaves its
pixels out. The split `train` is that of all sets. Any other name without a set's is a split of the first set that has
it, and "coco:val" one of the set `coco`, so that splits, shares and evaluation can name a set. Ids of later sets begin
with the set's name: "coco-000000000139".
"""

import dataclasses
import difflib
import hashlib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.records import DataSet, DatasetInfo, Record, Records, View, decode_mask
from semiseg_jax.data.types import IGNORE, MOST_CLASSES

logger = logging.getLogger("semiseg_jax")

LEFT_OUT = "ignore"


class JoinedSet(DataSet):
    """Images of several sets, whose classes are joined by name."""

    def __init__(self, data: Data, make: Callable[[Data], DataSet]):
        parts = parts_of(data)
        strangers = sorted(set(data.class_map) - set(parts))
        if strangers:
            raise ValueError(f"data.class_map names {strangers[0]!r}, but the sets are {', '.join(parts)}")
        plain: dict[str, DataSet] = {}
        self.members: dict[str, Member] = {}
        for name, part in parts.items():
            if part.name == "images" and not part.options:  # it has no classes of its own
                if not self.members:
                    raise ValueError(f"data.name is {data.name!r}: images come after the set whose classes they have")
                part = parts[name] = dataclasses.replace(part, options={"classes": self._joined_classes()})
            plain[name] = make(dataclasses.replace(part, strong_classes=()))
            self.members[name] = Member(name, tuple(plain[name].class_names), data.class_map.get(name, {}))
        self._classes = self._joined_classes()
        if len(self._classes) > MOST_CLASSES:
            raise ValueError(
                f"{data.name} has {len(self._classes)} classes together, but a mask can hold {MOST_CLASSES}; join or "
                f"leave out some with data.class_map"
            )
        self._warn_of_new_classes()
        self.name = data.name
        self.groups = self._groups()
        self.sets = plain
        if data.strong_classes:
            strong = set(expand(data.strong_classes, self.groups))
            self.sets = {
                name: make(dataclasses.replace(part, strong_classes=self.members[name].own_names(strong)))
                for name, part in parts.items()
            }
        homes = [str(part.home) for part in self.sets.values()] + [repr(sorted(data.class_map.items()))]
        digest = hashlib.sha256("\n".join(homes).encode()).hexdigest()[:12]
        self.home = next(iter(self.sets.values())).home / f"joined-{digest}"

    def _warn_of_new_classes(self) -> None:
        """A new name that nearly is one of another class is most often a slip."""
        own = {klass for member in self.members.values() for klass in member.classes}
        for member in self.members.values():
            for klass, name in member.renamed.items():
                near = difflib.get_close_matches(name, own - {klass}, n=1, cutoff=0.85)
                if name not in own and name != LEFT_OUT and near:
                    logger.warning(
                        "data.class_map calls %r of %s %r, which makes a new class: no set has it. Is %r meant?",
                        klass, member.name, name, near[0],
                    )  # fmt: skip

    @property
    def state(self) -> str:
        return "+".join(part.state for part in self.sets.values())

    @property
    def class_names(self) -> Sequence[str]:
        return self._classes

    def _joined_classes(self) -> tuple[str, ...]:
        targets = itertools.chain.from_iterable(member.targets for member in self.members.values())
        return tuple(name for name in dict.fromkeys(targets) if name != LEFT_OUT)

    def _groups(self) -> Mapping[str, tuple[str, ...]]:
        """By set, the classes that no other set has."""
        held = Counter(name for member in self.members.values() for name in set(member.targets))
        return {
            name: tuple(klass for klass in dict.fromkeys(member.targets) if held[klass] == 1 and klass != LEFT_OUT)
            for name, member in self.members.items()
        }

    @property
    def places(self) -> Sequence[Path]:
        return [place for part in self.sets.values() for place in part.places]

    def leftovers(self) -> Sequence[Path]:
        """Those of each set, but for what another one of them reads, as two of one folder may."""
        used = {place for own in self.places for place in (own, *own.parents)}
        found = dict.fromkeys(folder for part in self.sets.values() for folder in part.leftovers())
        return [folder for folder in found if folder not in used]

    def build(self) -> None:
        for part in self.sets.values():
            part.build()

    def outline(self) -> DatasetInfo | None:
        outlines = {name: info for name, part in self.sets.items() if (info := part.outline())}
        return self._joined(outlines) if len(outlines) == len(self.sets) else None

    def dataset_info(self) -> DatasetInfo:
        return self._joined({name: part.dataset_info() for name, part in self.sets.items()})

    def _joined(self, infos: Mapping[str, DatasetInfo]) -> DatasetInfo:
        colors: dict[str, tuple[int, int, int]] = {}
        backgrounds, splits = [], {}
        for name, info in infos.items():
            member = self.members[name]
            for klass, color in zip(member.targets, info.colors, strict=True):
                colors.setdefault(klass, color)
            if info.background is not None and member.targets[info.background] != LEFT_OUT:
                backgrounds.append(member.targets[info.background])
            for split, rows in info.splits.items():
                splits[f"{name}:{split}"] = [self._row(name, row) for row in rows]
        for name, info in infos.items():
            for split in info.splits:
                splits.setdefault(split, splits[f"{name}:{split}"])
        splits["train"] = [row for name in infos for row in splits.get(f"{name}:train", ())]
        background = self._classes.index(backgrounds[0]) if backgrounds else None
        shown = tuple(colors[name] for name in self._classes)
        return DatasetInfo(self.name, self._classes, shown, background, splits, self.groups)

    def _prefix(self, name: str) -> str:
        """Of the ids of a set's images, which are names of files, too."""
        return "" if name == next(iter(self.sets)) else re.sub(r"[^\w.-]", "_", name) + "-"

    def _row(self, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        table = self._table(name)
        out = {**row, "set": name, "id": self._prefix(name) + row["id"]}
        for field in ("tags", "classes"):
            if field in row:
                out[field] = sorted({int(table[klass]) for klass in row[field]} - {IGNORE})
        return out

    def _table(self, name: str) -> np.ndarray:
        """[256] from the classes of a set to those of all."""
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        for klass, target in enumerate(self.members[name].targets):
            if target != LEFT_OUT:
                table[klass] = self._classes.index(target)
        return table

    def records(self, split: str) -> Sequence[Record]:
        return self._opened(split, lambda part, own: part.records(own))

    def originals(self, split: str) -> Sequence[Record]:
        return self._opened(split, lambda part, own: part.originals(own))

    def _opened(self, split: str, read: Callable[[DataSet, str], Sequence[Record]]) -> Sequence[Record]:
        if split == "train":
            parts = [name for name, part in self.sets.items() if "train" in part.dataset_info().splits]
            opened = {name: self._translated(name, "train", read) for name in parts}
            return View(opened, [(name, index) for name in parts for index in range(len(opened[name]))])
        prefixed = [name for name in self.sets if split.startswith(f"{name}:")]
        if prefixed:
            owner = max(prefixed, key=len)
            return self._translated(owner, split.removeprefix(f"{owner}:"), read)
        owner = next(name for name, part in self.sets.items() if split in part.dataset_info().splits)
        return self._translated(owner, split, read)

    def _translated(self, name: str, split: str, read: Callable[[DataSet, str], Sequence[Record]]) -> Sequence[Record]:
        records = read(self.sets[name], split)
        return Translated(records, self._table(name), self._prefix(name), len(self._classes))


@dataclasses.dataclass(frozen=True)
class Member:
    """The classes of one set, and what each is called among all."""

    name: str
    classes: Sequence[str]
    renamed: Mapping[str, str]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.renamed) - set(self.classes))
        if unknown:
            raise ValueError(
                f"data.class_map: {self.name} has no class {unknown[0]!r}; it has {', '.join(self.classes)}"
            )

    @property
    def targets(self) -> Sequence[str]:
        return [self.renamed.get(name, name) for name in self.classes]

    def own_names(self, joined: set[str]) -> tuple[str, ...]:
        """Which of its classes are meant by names of all, or left out; never none, as that would mean all."""
        meant = {*joined, LEFT_OUT}
        return tuple(own for own, name in zip(self.classes, self.targets, strict=True) if name in meant) or (LEFT_OUT,)


class Translated(Records):
    """Records of one set with the classes of all."""

    def __init__(self, records: Sequence[Record], table: np.ndarray, prefix: str, num_classes: int):
        self.records, self.table, self.prefix, self.num_classes = records, table, prefix, num_classes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        record, table = dict(self.records[index]), self.table
        mask = record["mask"]
        if mask:
            record["mask"] = lambda: table[decode_mask(mask, (0, 0))]
        for field in ("points", "strokes", "partial"):
            rows = record[field].copy()
            rows[:, -1] = table[rows[:, -1].astype(int)]
            record[field] = rows[rows[:, -1] != IGNORE]
        record["box_class"] = table[record["box_class"]].astype(np.int32)
        # Of several classes with one name a present one counts, then one of which nothing is known.
        tags, own, target = np.full(self.num_classes, -1, np.int8), record["tags"], table[: len(record["tags"])]
        for value in (0, -1, 1):
            tags[target[(own == value) & (target != IGNORE)]] = value
        record["tags"] = tags
        record["id"] = self.prefix.encode() + record["id"]
        return record


def parts_of(data: Data) -> dict[str, Data]:
    """The sets of "voc+coco" by name; one that comes twice is "folder" and "folder2"."""
    names, seen = [], Counter[str]()
    layouts = data.name.split("+")
    for layout in layouts:
        seen[layout] += 1
        names.append(layout if seen[layout] == 1 else f"{layout}{seen[layout]}")
    paths = data.path.split("+")
    if len(paths) != len(layouts):
        raise ValueError(
            f"data.name joins {len(layouts)} sets, {data.name}: data.path must name as many folders joined by +, "
            f"but it is {data.path!r}"
        )

    def own(name: str, split: str) -> str:
        """What a split is called in one set; "" = it is of another."""
        owner = next((other for other in names if split.startswith(f"{other}:")), "")
        owned = owner == name if owner else split == "train" or name == names[0]
        return split.removeprefix(f"{name}:") if owned else ""

    def joined(name: str, splits: str) -> str:
        return "+".join(dict.fromkeys(filter(None, (own(name, split) for split in splits.split("+")))))

    return {
        name: dataclasses.replace(
            data,
            name=layout,
            path=path,
            train_split=joined(name, data.train_split) or "train",
            eval_split=joined(name, data.eval_split),
            assign={kind: split for kind, amount in data.assign.items() if (split := own(name, str(amount)))},
            options=data.options.get(name, {}),
            class_map={},
            simulate={},
            # Rows that name no set may come from any: no set has to have labels of their kind.
            quota={
                kind.removeprefix(f"{name}:"): rows for kind, rows in data.quota.items() if kind.startswith(f"{name}:")
            },
        )
        for name, layout, path in zip(names, layouts, paths, strict=True)
    }


def expand(strong_classes: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of classes, where "coco:*" stands for all that only the set `coco` has."""
    out: list[str] = []
    for name in strong_classes:
        group, _, rest = name.rpartition(":")
        out += groups[group] if rest == "*" and group in groups else [name]
    return out
