"""Miniature trees in exactly the layout of Pascal VOC 2012 (with SBD, ScribbleSup and clicks) and of Cityscapes."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
from PIL import Image

from semiseg_jax.data.layouts.voc import CLASSES, palette

SIZE = (48, 64)
TRAIN = ("2007_000032", "2007_000039", "2007_000063", "2007_000068", "2007_000121", "2007_000170")
VAL = ("2007_000033", "2007_000042")
SBD = ("2008_000008", "2008_000015", "2008_000019")  # images without a mask of VOC
# What each image shows: (class, y0, x0, y1, x1) of the pixels of each object.
CAT, DOG, PERSON = (CLASSES.index(name) for name in ("cat", "dog", "person"))
LEFT, RIGHT = (6, 4, 40, 28), (10, 34, 44, 60)
SHOWN = {
    "2007_000032": [(DOG, *LEFT)], "2007_000039": [(CAT, *LEFT)], "2007_000063": [(DOG, *LEFT), (PERSON, *RIGHT)],
    "2007_000068": [(PERSON, *RIGHT)], "2007_000121": [(CAT, *RIGHT)], "2007_000170": [(DOG, *RIGHT)],
    "2007_000033": [(DOG, *LEFT)], "2007_000042": [(CAT, *LEFT), (PERSON, *RIGHT)],
    "2008_000008": [(CAT, *RIGHT)], "2008_000015": [(DOG, *LEFT)], "2008_000019": [(PERSON, *LEFT)],
}  # fmt: skip


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save(path: Path, array: np.ndarray, colors: list[list[int]] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if colors:
        image = Image.fromarray(array, "P")
        image.putpalette(np.array(colors, np.uint8).tobytes())
    image.save(path)


def voc_mask(id: str, border: bool = True) -> np.ndarray:
    """Objects with a border of void, as VOC has them; SBD has none."""
    mask = np.zeros(SIZE, np.uint8)
    for klass, y0, x0, y1, x1 in SHOWN[id]:
        mask[y0:y1, x0:x1] = 255 if border else klass
        mask[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = klass
    return mask


def picture(mask: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(int(mask.sum()))
    colors = 40 + np.array(palette(256), np.int64)[mask] * 3 // 4
    return (colors + rng.integers(0, 15, colors.shape)).astype(np.uint8)


def voc_tree(devkit: Path, *, sbd: str = "png", listed: bool = True, more: bool = True) -> Path:
    """A VOCdevkit; `sbd` is png, mat or "", `listed` writes train_aug.txt, `more` boxes, scribbles and clicks."""
    root = devkit / "VOC2012"
    ids = [*TRAIN, *VAL, *SBD]
    for id in ids:
        save(root / "JPEGImages" / f"{id}.jpg", picture(voc_mask(id)))
        if more:
            write(root / "Annotations" / f"{id}.xml", voc_xml(id))
            write(devkit / "scribble_annotation" / "pascal_2012" / f"{id}.xml", scribble_xml(id))
    for id in [*TRAIN, *VAL]:
        save(root / "SegmentationClass" / f"{id}.png", voc_mask(id), palette(256))
    lists = {"train": TRAIN, "val": VAL} | ({"train_aug": [*TRAIN, *SBD]} if listed else {})
    for split, names in lists.items():
        write(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{id}\n" for id in names))
    if sbd == "png":
        for id in ids:
            save(devkit / "SegmentationClassAug" / f"{id}.png", voc_mask(id, border=False))
    if sbd == "mat":
        for id in [TRAIN[0], VAL[0], *SBD]:  # SBD has images of both, too
            save_mat(devkit / "benchmark_RELEASE" / "dataset" / "cls" / f"{id}.mat", voc_mask(id, border=False))
    if more:
        write_clicks(root / "points", ids)
    return devkit


def save_mat(path: Path, mask: np.ndarray) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Boundaries": np.zeros(1), "Segmentation": mask, "CategoriesPresent": np.unique(mask)}})


def voc_xml(id: str, difficult: int = 0) -> str:
    """Corners are counted from 1 and belong to the box; persons have a part with a box of its own."""

    def corners(y0: int, x0: int, y1: int, x1: int) -> str:
        return f"<bndbox><xmax>{x1}</xmax><xmin>{x0 + 1}</xmin><ymax>{y1}</ymax><ymin>{y0 + 1}</ymin></bndbox>"

    objects = ""
    for klass, *box in SHOWN[id]:
        part = f"<part><name>head</name>{corners(11, 40, 15, 46)}</part>" if klass == PERSON else ""
        objects += (
            f"<object><name>{CLASSES[klass]}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{difficult}</difficult>{corners(*box)}{part}</object>"
        )
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2012</folder><filename>{id}.jpg</filename>{size}{objects}</annotation>"


def scribble_xml(id: str) -> str:
    """A line through the middle of each object, one below all, a dot, and a line that leaves the image."""
    lines = [
        (CLASSES[klass], [((y0 + y1) // 2, x0 + 3), ((y0 + y1) // 2, x1 - 4)]) for klass, y0, x0, y1, x1 in SHOWN[id]
    ]
    lines += [("background", [(46, 2), (46, 30), (45, 50)]), ("background", [(2, 2)])]
    lines += [("background", [(3, 50), (3, 400)])]
    polygons = "".join(
        f"<polygon><tag>{tag}</tag>" + "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for y, x in line) + "</polygon>"
        for tag, line in lines
    )
    return f"<annotation><filename>{id}.jpg</filename><size><width>128</width></size>{polygons}</annotation>"


def write_clicks(folder: Path, ids: list[str]) -> None:
    """One in the middle of each object, one on background, and one far outside."""
    middles = {
        id: [{"y": (y0 + y1) / 2 + 0.25, "x": (x0 + x1) / 2, "rank": 1, "cls": k} for k, y0, x0, y1, x1 in SHOWN[id]]
        for id in ids
    }
    folder.mkdir(parents=True)
    (folder / "voc_whats_the_point.json.gz").write_bytes(gzip.compress(json.dumps(middles).encode()))
    ground = {id: [{"x": 2.5, "y": 1.0, "cls": 0}, {"x": 300.0, "y": 1.0, "cls": 0}] for id in ids}
    write(folder / "voc_whats_the_point_bg_from_scribbles.json", json.dumps(ground))


@dataclasses.dataclass(frozen=True)
class Street:
    """An image of Cityscapes: (name, id, number or -1, y0, x0, y1, x1) of each thing, later ones in front."""

    split: str
    id: str
    things: tuple[tuple[str, int, int, int, int, int, int], ...]

    def draw(self, instances: bool) -> np.ndarray:
        out = np.full(STREET, 7, np.int32)
        out[:8] = 23
        out[-3:] = 1  # the car that drives
        for _, id, number, y0, x0, y1, x1 in self.things:
            out[y0:y1, x0:x1] = 1000 * id + number if instances and number >= 0 else id
        return out

    @property
    def file(self) -> str:
        return f"{self.split}/{self.id.partition('_')[0]}/{self.id}"


STREET = (64, 128)
CAR, RIDER, BIKE = ("car", 26, 0, 20, 10, 50, 50), ("rider", 25, 0, 20, 60, 40, 72), ("bicycle", 33, 0, 36, 56, 52, 78)
TINY, CROWD = ("person", 24, 1, 22, 100, 28, 103), ("persongroup", 24, -1, 20, 108, 36, 120)
WALKER, CARAVAN = ("person", 24, 0, 16, 40, 56, 58), ("caravan", 29, 0, 12, 80, 40, 98)
STREETS = [
    Street("train", "aachen_000000_000019", (CAR, WALKER)),
    Street("train", "aachen_000001_000019", (RIDER, BIKE, TINY, CROWD)),
    Street("train", "bochum_000000_000313", (CAR, CARAVAN)),
    Street("train", "bochum_000000_000600", (WALKER,)),
    Street("train", "bochum_000000_000885", (CAR,)),
    Street("train", "bochum_000000_001097", (RIDER, BIKE)),
    Street("val", "frankfurt_000000_000294", (CAR, WALKER)),
    Street("val", "lindau_000000_000019", (RIDER, BIKE)),
    Street("test", "berlin_000000_000019", (CAR,)),
    Street("train_extra", "augsburg_000000_000000", (CAR,)),
]


def cityscapes_tree(root: Path, *, train_ids: bool = False) -> Path:
    """`train_ids`: labelTrainIds.png and nothing else of the labels."""
    for street in STREETS:
        labels = street.draw(instances=False).astype(np.uint8)
        save(root / "leftImg8bit" / f"{street.file}_leftImg8bit.png", picture(labels))
        if street.split in ("train", "val"):
            fine = root / "gtFine" / street.file
            if train_ids:
                table = np.full(256, 255, np.uint8)
                table[[7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]] = range(19)
                save(fine.with_name(f"{street.id}_gtFine_labelTrainIds.png"), table[labels])
                continue
            save(fine.with_name(f"{street.id}_gtFine_labelIds.png"), labels)
            save(fine.with_name(f"{street.id}_gtFine_color.png"), picture(labels))
            save(fine.with_name(f"{street.id}_gtFine_instanceIds.png"), street.draw(instances=True).astype(np.uint16))
            objects = [{"label": name, "polygon": [[0, 0], [9, 0], [9, 9]]} for name in ("road", "sky", "ego vehicle")]
            objects += [
                {"label": name, "polygon": [[x0, y0], [x1, y1]]} for name, _, _, y0, x0, y1, x1 in street.things
            ]
            write(
                fine.with_name(f"{street.id}_gtFine_polygons.json"),
                json.dumps({"imgHeight": STREET[0], "imgWidth": STREET[1], "objects": objects}),
            )
        if street.split != "test":
            coarse = np.where(np.arange(STREET[0])[:, None] % 8 == 0, 0, labels).astype(np.uint8)
            save(root / "gtCoarse" / f"{street.file}_gtCoarse_labelIds.png", coarse)
    return root
