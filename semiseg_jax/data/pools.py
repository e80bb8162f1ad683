"""Which records each kind of supervision draws from, and how many rows of each kind a batch has."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semiseg_jax.data import published
from semiseg_jax.data.joined import expand
from semiseg_jax.data.records import DatasetInfo, Record, label_counts
from semiseg_jax.data.types import IGNORE, Supervision

Quota = Mapping[Supervision, int]
ONLY_TAGS = {int(Supervision.TAGS), int(Supervision.UNLABELED)}


def parse_quota(quota: Mapping[str, int]) -> dict[Supervision, int]:
    """Kinds by name -> rows per kind, strongest kind first, which is the order of rows in a batch.

    Where sets are joined, "coco:dense" are rows of one set; `make_streams` keeps them apart.
    """
    parsed: dict[Supervision, int] = {}
    for name, rows in quota.items():
        kind = Supervision.parse(name.rpartition(":")[2])
        parsed[kind] = parsed.get(kind, 0) + int(rows)
    if any(rows < 0 for rows in quota.values()) or not any(parsed.values()):
        raise ValueError(f"data.quota is {dict(quota)} but must give a positive number of rows to some kind")
    return {kind: parsed[kind] for kind in sorted(parsed, reverse=True) if parsed[kind]}


def make_pools(
    info: DatasetInfo,
    split: str,
    quota: Quota,
    assign: Mapping[str, float | int | str],
    seed: int,
    strong_classes: Sequence[str] = (),
) -> dict[Supervision, np.ndarray]:
    """Which records each kind draws from -> record indices by kind.

    Without `assign`, an image serves every kind of the quota that it has labels for; unlabelled rows come from the
    images that have none of these. With `assign`, each image gets one kind: a float is a share of the split, an int a
    number of images (both drawn at random with `seed`), a string the name of another split that lists them, or of a
    published list. An image that two lists name gets the stronger kind.

    With `strong_classes`, images that show any other class but background serve as tags only, whatever they have.
    """
    rows = _split(info, split)
    kinds = [set(row["kinds"]) for row in rows]
    if strong_classes:
        if assign:
            raise ValueError("data.strong_classes and data.assign exclude each other")
        kinds = _by_strong_classes(info, rows, kinds, strong_classes, Supervision.DENSE in quota)
    pools: dict[Supervision, np.ndarray] = {}
    if assign:
        wanted = {Supervision.parse(name): amount for name, amount in assign.items()}
        missing = [kind.name.lower() for kind in quota if kind not in wanted]
        if missing:
            raise ValueError(f"data.assign says nothing of {', '.join(missing)}, which data.quota asks for")
        pools = _assign(info, split, kinds, wanted, seed)
    else:
        labeled = set(quota) - {Supervision.UNLABELED}
        for kind in quota:
            if kind == Supervision.UNLABELED:
                members = [i for i, has in enumerate(kinds) if not has & labeled]
            else:
                members = [i for i, has in enumerate(kinds) if kind in has]
            pools[kind] = np.asarray(members, np.int64)
    for kind in quota:
        if not len(pools[kind]):
            raise ValueError(_no_images(info, split, kind, bool(assign)))
    return {kind: pools[kind] for kind in quota}


@dataclasses.dataclass(frozen=True)
class Stream:
    """Rows of a batch that are drawn from one pool, or from the images of one set in it."""

    kind: Supervision
    rows: int
    places: np.ndarray  # in the pool of its kind
    name: str


def make_streams(
    quota: Mapping[str, int], pools: Mapping[Supervision, np.ndarray], index: Sequence[Mapping[str, Any]]
) -> list[Stream]:
    """One stream for each entry of `data.quota`, strongest kind first."""
    streams = []
    for name, rows in quota.items():
        owner, _, kind_name = name.rpartition(":")
        kind = Supervision.parse(kind_name)
        if not rows:
            continue
        pool = pools[kind]
        places = np.arange(len(pool))
        if owner:
            places = np.array([place for place, i in enumerate(pool) if index[i].get("set") == owner], np.int64)
            if not len(places):
                sets = sorted({row["set"] for row in index if "set" in row})
                raise ValueError(
                    f"data.quota asks for {name}, but no such image of set {owner!r} is there; the sets: "
                    f"{', '.join(sets) or 'none, as no sets are joined'}"
                )
        streams.append(Stream(kind, int(rows), places, f"{owner}:{kind.name}" if owner else kind.name))
    return sorted(streams, key=lambda stream: -stream.kind)


def evenly_shown(info: DatasetInfo, split: str, pool: np.ndarray) -> np.ndarray:
    """The pool with images repeated, so that each class is the rarest of its image equally often."""
    rows = [_split(info, split)[index] for index in pool]
    shown = [set(row["tags"] or row.get("classes", ())) - {info.background, IGNORE} for row in rows]
    if not any(shown):
        raise ValueError("data.balance_images finds no class in any mask; leave it out")
    counts = collections.Counter(klass for classes in shown for klass in classes)
    groups: dict[int | None, list[int]] = {}
    for index, classes in zip(pool, shown, strict=True):
        rarest = min(classes, key=lambda klass: (counts[klass], klass), default=None)
        groups.setdefault(rarest, []).append(int(index))
    longest = max(len(members) for members in groups.values())
    return np.concatenate([np.resize(members, longest) for members in groups.values()])


def _by_strong_classes(
    info: DatasetInfo,
    rows: Sequence[Mapping[str, Any]],
    kinds: Sequence[set[int]],
    strong_classes: Sequence[str],
    uses_masks: bool,
) -> list[set[int]]:
    """Kinds that each image may serve. Where masks are used, one of strong classes alone is not drawn for its tags."""
    strong_classes = expand(strong_classes, info.groups)
    unknown = [name for name in strong_classes if name not in info.classes]
    if unknown:
        raise ValueError(
            f"data.strong_classes: {info.name} has no class {unknown[0]!r}; it has {', '.join(info.classes)}"
        )
    untagged = [row["id"] for row, has in zip(rows, kinds, strict=True) if Supervision.TAGS not in has]
    if untagged:
        raise ValueError(f"data.strong_classes needs tags of every image, but {untagged[0]!r} has none")
    weak = weak_rows(info, rows, strong_classes)
    return [
        has & ONLY_TAGS if is_weak else has - {Supervision.TAGS} if uses_masks else has
        for has, is_weak in zip(kinds, weak, strict=True)
    ]


def weak_rows(info: DatasetInfo, rows: Sequence[Mapping[str, Any]], strong_classes: Sequence[str]) -> list[bool]:
    """Which images may show a class that is neither strong nor background: all but their tags is not to be used."""
    names = expand(strong_classes, info.groups)
    strong = {info.classes.index(name) for name in names if name in info.classes} | {info.background}
    return [Supervision.TAGS not in row["kinds"] or not set(row["tags"]) <= strong for row in rows]


def _split(info: DatasetInfo, split: str) -> Sequence[Mapping[str, Any]]:
    if split not in info.splits:
        others = [name for name, rows in info.splits.items() if rows and name not in ("val", "validation", "test")]
        hint = f"; to train on another: --config.data.train_split={others[0]}" if split == "train" and others else ""
        raise ValueError(f"{info.name} has no split {split!r}; it has: {', '.join(info.splits)}{hint}")
    if not info.splits[split]:
        raise ValueError(f"split {split!r} of {info.name} is empty")
    return info.splits[split]


def _assign(
    info: DatasetInfo,
    split: str,
    kinds: Sequence[set[int]],
    wanted: Mapping[Supervision, float | int | str],
    seed: int,
) -> dict[Supervision, np.ndarray]:
    rows = _split(info, split)
    position = {row["id"]: i for i, row in enumerate(rows)}
    left = [int(i) for i in np.random.default_rng(seed).permutation(len(rows))]
    pools: dict[Supervision, np.ndarray] = {}
    named = sorted(wanted, key=lambda kind: (not isinstance(wanted[kind], str), -kind))
    exact_shares = sum(a for a in wanted.values() if isinstance(a, float))
    for kind in named:
        amount = wanted[kind]
        if isinstance(amount, str):
            free = set(left)
            members = [position[id] for id in _listed(info, amount, position, split) if position[id] in free]
            unable = sum(kind not in kinds[i] for i in members)
            if unable:
                what = "list" if published.is_published(amount) else "split"
                raise ValueError(
                    f"data.assign gives {what} {amount!r} to {kind.name.lower()} but {unable} of its {len(members)} "
                    f"images have no {kind.name.lower()} labels"
                )
        else:
            able = [i for i in left if kind in kinds[i]]
            count = round(amount * len(rows)) if isinstance(amount, float) else amount
            is_last_share = kind == named[-1] and isinstance(amount, float) and abs(exact_shares - 1) < 1e-6
            members = able if is_last_share else able[:count]
            if len(members) < count and not is_last_share:
                raise ValueError(
                    f"data.assign wants {count} images for {kind.name.lower()} but only {len(able)} are left that can "
                    "(argument labelled or masks of a config)"
                )
        pools[kind] = np.asarray(sorted(members), np.int64)
        taken = set(members)
        left = [i for i in left if i not in taken]
    return pools


def _listed(info: DatasetInfo, name: str, known: Mapping[str, int], train_split: str) -> Sequence[str]:
    """The images of a published list or of a split, all of which must be `known`: those of the training split."""
    if published.is_published(name) and name not in info.splits:  # joined sets have splits such as "voc:train"
        entry = published.find_list(name)
        own = f"{entry.dataset}-"  # begins the ids of a set that is joined to another one
        here = {id.removeprefix(own): id for id in known}
        published.check_fit(entry, here, train_split.replace(f"{entry.dataset}:", ""))
        return [here[id] for id in entry.ids]
    listed = [str(row["id"]) for row in _split(info, name)]
    strangers = [id for id in listed if id not in known]
    if strangers:
        raise ValueError(
            f"data.assign: {len(strangers)} images of split {name!r} are not in the training split, "
            f"the first is {strangers[0]!r}"
        )
    return listed


def _no_images(info: DatasetInfo, split: str, kind: Supervision, assigned: bool) -> str:
    name = kind.name.lower()
    if assigned:
        return f"data.assign leaves no image of split {split!r} for {name}, which data.quota asks for"
    if kind == Supervision.UNLABELED:
        return (
            f"data.quota asks for unlabeled rows but every image of split {split!r} of {info.name} has labels of the "
            "other kinds; give some images away with data.assign (labelled=0.125 of a config), or leave unlabeled out"
        )
    there = sorted({kind for row in info.splits[split] for kind in row["kinds"]}, reverse=True)
    if Supervision.DENSE in there:
        hint = f"; draw them from masks with --config.data.simulate='{{\"{name}\": {{}}}}'"
    else:
        hint = (
            f"; ask for others, as --config.data.quota='{{\"{Supervision(there[0]).name.lower()}\": 8}}'"
            if there
            else ""
        )
    return f"data.quota asks for {name} rows but no image of split {split!r} of {info.name} has {name} labels{hint}"


def class_shares(
    records: Sequence[Record], pools: Mapping[Supervision, np.ndarray], quota: Quota, num_classes: int
) -> np.ndarray:
    """[K] the share of each class among the labelled pixels of a batch, from up to 1,000 images of each kind."""
    total = np.zeros(num_classes)
    for kind, rows in quota.items():
        looked_at = pools[kind][:: -(-len(pools[kind]) // 1000)]
        counts = sum(label_counts(records[int(index)], kind, num_classes) for index in looked_at)
        total += rows * counts / len(looked_at)
    return total / max(total.sum(), 1e-6)
