"""Published splits: which images papers take as labelled, and which classes as those that have masks.

`splits/SET.txt` has an image of the set on each line, with the letters of the lists that name it. `splits/SET.json`
has the lists: the letter, the training splits of the set that hold all of its images, the SHA-256 of the sorted ids
with one on each line, and where it was published, first the file that it was read from: repository, commit and path.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "splits"
SETS = ("voc", "cityscapes")
# Names of the classes of Pascal VOC in its own spelling and order.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# The classes with masks: either half, and all but those of a fold of PASCAL-5i.
CLASS_GROUPS: Mapping[str, tuple[str, ...]] = {
    "voc:first10": VOC_CLASSES[:10],
    "voc:last10": VOC_CLASSES[10:],
    **{f"voc:fold{fold}": VOC_CLASSES[: 5 * fold] + VOC_CLASSES[5 * fold + 5 :] for fold in range(4)},
}


@dataclasses.dataclass(frozen=True)
class PublishedList:
    """A list of images that a paper's code came with."""

    name: str  # such as "voc:u2pl:1/8"
    letter: str
    train_splits: tuple[str, ...]
    sha256: str
    sources: tuple[str, ...]

    @property
    def dataset(self) -> str:
        return self.name.partition(":")[0]

    @property
    def family(self) -> str:
        """Lists of one family belong together; the official splits of a set have none, "" ."""
        parts = self.name.split(":")
        return parts[1] if len(parts) > 2 else ""

    @property
    def about(self) -> str:
        """The set that it is of, in words."""
        return str(_lists_file(self.dataset)["about"])

    @property
    def ids(self) -> tuple[str, ...]:
        """The images that it names, sorted."""
        return _checked_ids(self)


def is_published(name: str) -> bool:
    """Whether a text names a published list, and not a split of a dataset."""
    return name.partition(":")[0] in SETS and ":" in name


@functools.cache
def published_lists() -> dict[str, PublishedList]:
    """All lists by name."""
    found = {}
    for dataset in SETS:
        for name, entry in _lists_file(dataset)["lists"].items():
            full = f"{dataset}:{name}"
            splits, sources = tuple(entry["train_splits"]), tuple(entry["sources"])
            found[full] = PublishedList(full, entry["letter"], splits, entry["sha256"], sources)
    return found


def find_list(name: str) -> PublishedList:
    """The published list of this name."""
    lists = published_lists()
    if name not in lists:
        raise ValueError(_unknown("published list", name, lists))
    return lists[name]


def check_lists(names: Iterable[str]) -> None:
    """Raises if a list is unknown, or if two are of different families of one set."""
    families: dict[str, PublishedList] = {}
    for entry in map(find_list, filter(is_published, names)):
        other = families.setdefault(entry.dataset, entry) if entry.family else entry
        if other.family != entry.family:
            about = _lists_file(entry.dataset)["families"]
            raise ValueError(
                f"the lists {other.name!r} and {entry.name!r} are of two families, whose images were chosen in "
                f"different ways, so that no published number compares with the result. Use lists of one family: "
                + "; ".join(f"{family} {about[family]}" for family in (other.family, entry.family))
            )


def check_fit(entry: PublishedList, ids: Collection[str], split: str) -> None:
    """Raises if a list is of another training split: `ids` lack some of its images, or all others are left out."""
    missing = [id for id in entry.ids if id not in ids]
    if not missing and (split in entry.train_splits or split != "train"):
        return
    either = " or ".join(entry.train_splits)
    if not missing:
        raise ValueError(
            f"data.assign: {entry.name!r} leaves the other images of a larger training split unlabelled, of which "
            f"{split!r} has few: --config.data.train_split={either}"
        )
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    if not entry.train_splits:
        remedy = "they are for validation, not for training"
    elif split in entry.train_splits and len(missing) == len(entry.ids):
        remedy = f"is this set {entry.about}, with the ids that it came with?"
    elif split in entry.train_splits:
        remedy = f"that split of {entry.about} has them, so this copy of it is not complete"
    else:
        remedy = f"they are in another split of {entry.about}: --config.data.train_split={either}"
    raise ValueError(
        f"data.assign: {len(missing)} of the {len(entry.ids)} images of {entry.name!r} are not in the training split "
        f"{split!r} ({shown}); {remedy}"
    )


def strong_classes(text: str) -> tuple[str, ...]:
    """Names of classes joined by +, or a published group of them, such as "voc:first10"."""
    if not is_published(text):
        return tuple(filter(None, text.split("+")))
    if text not in CLASS_GROUPS:
        raise ValueError(_unknown("group of classes", text, CLASS_GROUPS))
    return CLASS_GROUPS[text]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"no {what} is called {name!r}{hint} `semiseg list splits` lists all"


@functools.cache
def _lists_file(dataset: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{dataset}.json").read_text(encoding="utf-8")))


@functools.cache
def _table(dataset: str) -> list[tuple[str, str]]:
    """(id, letters of its lists) of every image that some list names."""
    lines = (FOLDER / f"{dataset}.txt").read_text(encoding="utf-8").splitlines()
    return [(id, letters) for id, _, letters in (line.partition(" ") for line in lines)]


@functools.cache
def _checked_ids(entry: PublishedList) -> tuple[str, ...]:
    ids = tuple(id for id, letters in _table(entry.dataset) if entry.letter in letters)
    if hashlib.sha256("".join(f"{id}\n" for id in ids).encode()).hexdigest() != entry.sha256:
        raise ValueError(f"{FOLDER / entry.dataset}.txt was changed: {entry.name!r} is not the list that was published")
    return ids
