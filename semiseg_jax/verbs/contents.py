"""What a dataset holds, for people: images and pixels of each class by kind of label, sizes, and a picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from tqdm.auto import tqdm

from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.likeness import alike, looks
from semiseg_jax.data.records import Record, decode_image, decode_mask, given_labels, label_counts
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.engine import pictures

MOST = 2000  # images that are looked into
_DRAWN = (Supervision.SCRIBBLE, Supervision.POINTS, Supervision.PARTIAL)
_COUNTED = (Supervision.DENSE, *_DRAWN)  # kinds that name pixels
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Contents:
    """Counts over the images that were looked into."""

    classes: Sequence[str]
    kinds: Sequence[Supervision]
    images: Mapping[Supervision, np.ndarray]  # [K] images that show each class, as labels of a kind say
    pixels: Mapping[Supervision, np.ndarray]  # [K] pixels that labels of a kind name
    sizes: Sequence[tuple[int, int]]  # of all images
    looked_into: int
    twins: Sequence[tuple[str, str]] = ()  # images for training and for evaluation that look the same

    def lines(self) -> list[str]:
        width = max(5, *map(len, self.classes))
        head = "".join(f"{kind.name.lower():>10}" + " " * 8 * (kind in self.pixels) for kind in self.kinds)
        out = [self._sizes()]
        if self.looked_into < len(self.sizes):
            out.append(f"of {len(self.sizes)} images {self.looked_into} were looked into:")
        if self.kinds:
            out += [
                "images with each class, and its share of the pixels that labels name:",
                f"  {'class':{width}}{head}",
            ]
            out += [f"  {name:{width}}{self._cells(klass)}" for klass, name in enumerate(self.classes)]
        if Supervision.DENSE in self.kinds:
            counts = self.images[Supervision.DENSE]
            unseen = [name for name, count in zip(self.classes, counts, strict=True) if not count]
            out += [f"no mask shows: {', '.join(unseen)}"] if unseen else []
        if self.twins:
            shown = ", ".join(f"{one} and {other}" for one, other in self.twins[:5])
            out.append(f"{len(self.twins)} pairs of images for training and for evaluation look the same: {shown}")
        return out

    def _cells(self, klass: int) -> str:
        text = ""
        for kind in self.kinds:
            text += f"{self.images[kind][klass]:>10}"
            if kind in self.pixels:
                text += f"{self.pixels[kind][klass] / max(1, self.pixels[kind].sum()):>8.2%}"
        return text

    def _sizes(self) -> str:
        by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        smallest, middle, largest = (f"{w}x{h}" for h, w in (by_area[0], by_area[len(by_area) // 2], by_area[-1]))
        if smallest == largest:
            return f"all images are {smallest}"
        return f"images from {smallest} to {largest}, in the middle {middle}"


def contents_of(dataset: Dataset) -> Contents | None:
    """Looks into the images of all splits, or evenly into `MOST` of them; None where there are none."""
    places = _places(dataset)
    if not places:
        return None
    rows = [dataset.info.splits[split][index] for split, index in places]
    kinds = [kind for kind in sorted(Supervision, reverse=True) if kind and any(kind in row["kinds"] for row in rows)]
    counts = {kind: np.zeros(dataset.info.num_classes, np.int64) for kind in kinds}
    pixels = {kind: np.zeros(dataset.info.num_classes) for kind in kinds if kind in _COUNTED}
    chosen = _evenly(places, MOST)
    records = {split: dataset.records(split) for split in {split for split, _ in chosen}}

    def look(place: tuple[str, int]) -> tuple[dict[Supervision, np.ndarray], np.ndarray]:
        split, index = place
        row, record = dataset.info.splits[split][index], records[split][index]
        named = [kind for kind in kinds if kind in row["kinds"]]
        return _amounts(record, row, named, dataset.info.num_classes), looks(decode_image(record["image"], 8.0))

    bar = tqdm(chosen, desc="looking into", unit="image", leave=False, disable=None)
    seen: list[np.ndarray] = []
    for amounts, look_of in in_order(look, bar):
        seen.append(look_of)
        for kind, amount in amounts.items():
            counts[kind] += amount > 0
            if kind in pixels:
                pixels[kind] += amount
    sizes = [tuple(row.get("full", row["size"])) for row in rows]
    twins = _twins(dataset, chosen, seen)
    return Contents(dataset.info.classes, kinds, counts, pixels, sizes, len(chosen), twins)


def _twins(dataset: Dataset, chosen: Sequence[tuple[str, int]], seen: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of an image for training and one for evaluation that look the same."""
    sides: dict[bool, list[int]] = {True: [], False: []}
    for number, (split, _) in enumerate(chosen):
        sides[split in ("val", "validation", "test")].append(number)
    ids = [str(dataset.info.splits[split][index]["id"]) for split, index in chosen]
    pairs = alike([seen[number] for number in sides[False]], [seen[number] for number in sides[True]])
    return [(ids[sides[False][a]], ids[sides[True][b]]) for a, b in pairs]


def _places(dataset: Dataset) -> list[tuple[str, int]]:
    """(split, index) of every image once, whichever splits list it."""
    by_id: dict[str, tuple[str, int]] = {}
    for split, rows in dataset.info.splits.items():
        for index, row in enumerate(rows):
            by_id.setdefault(row["id"], (split, index))
    return list(by_id.values())


def _evenly(places: Sequence[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    count = min(most, len(places))
    return [places[number * len(places) // count] for number in range(count)]


def _amounts(
    record: Record, row: Mapping[str, Any], kinds: Sequence[Supervision], num_classes: int
) -> dict[Supervision, np.ndarray]:
    """[K] of each kind: pixels, boxes or tags."""
    amounts: dict[Supervision, np.ndarray] = {}
    for kind in kinds:
        if kind == Supervision.DENSE:
            amounts[kind] = label_counts(record, kind, num_classes)
        elif kind in _DRAWN:
            named = given_labels(record, [kind], (row["size"][0], row["size"][1]))
            amounts[kind] = np.bincount(named.ravel(), minlength=num_classes)[:num_classes]
        else:
            named = np.asarray(record["box_class"] if kind == Supervision.BOX else row["tags"], np.int64)
            amounts[kind] = np.bincount(named[(named >= 0) & (named < num_classes)], minlength=num_classes)
    return amounts


def contact_sheet(dataset: Dataset) -> np.ndarray:
    """Images of the set, a row each, beside what is labelled in them."""
    info, rows, captions = dataset.info, [], []
    chosen = _evenly(_places(dataset), _SHOWN)
    kinds = {kind for split, index in chosen for kind in info.splits[split][index]["kinds"]}
    titles = ["image"] + ["mask"] * (Supervision.DENSE in kinds) + ["drawn"] * bool(kinds & {*_DRAWN})
    titles += ["boxes"] * (Supervision.BOX in kinds)
    for split, index in chosen:
        row, record = info.splits[split][index], dataset.records(split)[index]
        image = decode_image(record["image"])
        size = (image.shape[0], image.shape[1])
        cells: dict[str, np.ndarray | None] = dict.fromkeys(titles)
        cells["image"] = image
        if Supervision.DENSE in row["kinds"]:
            cells["mask"] = pictures.draw_labels(image, decode_mask(record["mask"], size), info.colors)
        own = [kind for kind in _DRAWN if kind in row["kinds"]]
        if own:
            cells["drawn"] = pictures.draw_labels(image, _visible(record, own, size), info.colors)
        if Supervision.BOX in row["kinds"]:
            cells["boxes"] = pictures.draw_boxes(image, record["boxes"], record["box_class"], info.colors)
        rows.append([cells[title] for title in titles])
        tags = [info.classes[klass] for klass in row["tags"]][:5]
        height, width = row.get("full", row["size"])
        captions.append("\n".join([row["id"][-14:], split, f"{width}x{height}", *tags]))
    return pictures.grid(rows, titles, captions, legend=(info.classes, info.colors), absent="none")


def _visible(record: Record, kinds: Sequence[Supervision], size: tuple[int, int]) -> np.ndarray:
    """What is drawn [H,W], where a click is a disc that can be seen in a small picture."""
    drawn = given_labels(record, kinds, size)
    if Supervision.POINTS in kinds:
        clicks = given_labels(record, [Supervision.POINTS], size)
        for y, x in np.argwhere(clicks != IGNORE):
            cv2.circle(drawn, (int(x), int(y)), 1 + max(size) // 60, int(clicks[y, x]), cv2.FILLED)
    return drawn
