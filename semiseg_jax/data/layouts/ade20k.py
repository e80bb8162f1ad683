"""`ade20k`: ADE20K as the scene parsing challenge of 2016 has it, 150 classes.

    images/training/ID.jpg, images/validation/ID.jpg
    annotations/training/ID.png, annotations/validation/ID.png      class from 1; 0 = other, not counted
    objectInfo150.txt                                               names of the classes, if it is there

`data.path` is ADEChallengeData2016, or the folder that holds it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size
from semiseg_jax.data.layouts.pairs import Pair, put
from semiseg_jax.data.types import IGNORE

NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, "
    "apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, "
    "conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, "
    "cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, "
    "blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, "
    "bulletin board, shower, radiator, glass, clock, flag"
)
CLASSES = tuple(NAMES.split(", "))
FOLDERS = {"train": "training", "val": "validation"}
INFO = "objectInfo150.txt"
_TABLE = np.array([IGNORE, *range(len(CLASSES))], np.uint8)


class Ade20k(Layout):
    """ADE20K, scene parsing challenge: 22,210 scenes in 150 classes."""

    name = "ade20k"
    card = Card(
        classes="150, wall to flag; 0 (other) is not counted",
        splits="train 20210, val 2000",
        licence="annotations BSD 3-clause, images for research, not commercial; see the site",
        source="ADEChallengeData2016.zip, http://sceneparsing.csail.mit.edu",
        tree="images/training/ID.jpg, annotations/training/ID.png, the same for validation, objectInfo150.txt",
    )

    def __init__(self, data: Data):
        inner = "ADEChallengeData2016/" if (Path(data.path).expanduser() / "ADEChallengeData2016").is_dir() else ""
        self.info = inner + INFO
        self.pairs = {
            split: Pair(f"{inner}images/{folder}", f"{inner}annotations/{folder}") for split, folder in FOLDERS.items()
        }
        super().__init__(data)

    def missing(self) -> Sequence[str]:
        return super().missing() or [problem for pair in self.pairs.values() for problem in pair.problems(self.root)]

    def watched(self) -> Sequence[Path]:
        folders = [folder for pair in self.pairs.values() for folder in (pair.images, pair.labels)]
        return [self.root / name for name in (*folders, self.info)]

    def scan(self) -> Listing:
        items: dict[str, Item] = {}
        splits: dict[str, list[str]] = {}
        for split, pair in self.pairs.items():
            found = pair.items(self.root, _read)
            splits[split] = list(found)
            put(items, found)
        return Listing(self._classes(), None, items, splits)

    def _classes(self) -> Sequence[str]:
        path = self.root / self.info
        if not path.is_file():
            return CLASSES
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
        if len(names) != len(CLASSES):
            raise FolderError(f"{path}: names {len(names)} classes below its first line, not {len(CLASSES)}")
        return names


def _read(path: Path, size: Size) -> np.ndarray:
    return read_index_map(path, size, len(CLASSES), table=_TABLE)
