"""Miniature trees of published datasets, exactly as their authors lay them out; each maker gives {ID: mask}."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from semiseg_jax.data.datasets import make_builder
from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layouts import sift_flow
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.types import IGNORE

SIZE = (12, 16)
ADE_ROWS = 150


def opened(name, root, built, **options):
    """A builder of the layout below `root`, with these `data.options`."""
    return make_builder(Data(name=name, path=str(root), data_dir=str(built), options=options))


def built_masks(builder):
    """Builds -> {ID: mask} of all splits, having checked that sizes agree."""
    builder.build()
    masks = {}
    for split in builder.dataset_info().splits:
        for record in builder.records(split):
            mask = decode_mask(record["mask"], (0, 0))
            assert decode_image(record["image"]).shape[:2] == mask.shape
            masks[record["id"].decode()] = mask
    return masks


def assert_masks(found, expected):
    assert sorted(found) == sorted(expected)
    for id, mask in expected.items():
        np.testing.assert_array_equal(found[id], mask, err_msg=id)


def split_ids(builder):
    builder.build()
    return {split: [row["id"] for row in rows] for split, rows in builder.dataset_info().splits.items()}


def problems(name, root, built, **options):
    """What the layout says of a tree that is not whole."""
    with pytest.raises(FolderError) as error:
        opened(name, root, built, **options)
    assert not Path(built).exists()
    return str(error.value)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = {"quality": 95} if path.suffix == ".jpg" else {}
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **quality)


def save_image(path, size=SIZE):
    save(path, np.random.default_rng(len(path.name)).integers(0, 255, (*size, 3)))


def random_mask(seed, classes, size=SIZE):
    """Classes with some pixels of none."""
    mask = np.random.default_rng(seed).integers(0, classes, size).astype(np.uint8)
    mask[0, :5] = IGNORE
    return mask


def camvid(root):
    ids = {"train": ("0001TP_006690", "0016E5_08640"), "val": ("0016E5_07959",), "test": ("Seq05VD_f00000",)}
    masks = {}
    for split, id in ((split, id) for split, names in ids.items() for id in names):
        masks[id] = random_mask(len(masks), 11)
        save_image(root / split / f"{id}.png")
        save(root / f"{split}annot" / f"{id}.png", np.where(masks[id] == IGNORE, 11, masks[id]))
    return masks


def camvid_original(root, table):
    """`table`: (colour, class) of every colour."""
    masks = {}
    for id in ("0001TP_006690", "0016E5_08159", "0001TP_008550", "Seq05VD_f05100"):
        picks = np.random.default_rng(len(masks)).integers(0, len(table), SIZE)
        masks[id] = np.array([klass for _, klass in table], np.uint8)[picks]
        save_image(root / "701_StillsRaw_full" / f"{id}.png")
        save(root / "LabeledApproved_full" / f"{id}_L.png", np.array([color for color, _ in table])[picks])
    return masks


def weizmann(root, images="rgb", stretch=1, count=8):
    """Flat figures, which JPEG keeps; photographs `stretch` times as large as the masks."""
    masks = {}
    for number in range(1, count + 1):
        id = f"horse{number:03d}"
        mask = np.zeros((16, 24), np.uint8)
        mask[:, 8 : 8 + number] = 1
        masks[id] = mask
        save_image(root / images / f"{id}.jpg", (16 * stretch, 24 * stretch))
        save(root / "figure_ground" / f"{id}.jpg", mask * 255)
    return masks


def stanford(root, count=10):
    masks = {}
    for number in range(count):
        id = f"{number:07d}"
        masks[id] = random_mask(number, 8)
        save_image(root / "images" / f"{id}.jpg")
        rows = [" ".join(str(-1 if v == IGNORE else v) for v in row) for row in masks[id].tolist()]
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{id}.regions.txt").write_text("\n".join(rows) + "\n")
        (root / "labels" / f"{id}.layers.txt").write_text("0\n")
    (root / "horizons.txt").write_text("0000000 16 12 5\n")
    return masks


def sift(root):
    masks = {}
    for id in ("coast_natu975", "street_par151", "tallbuilding_art1004", "forest_for10"):
        masks[id] = random_mask(len(masks), 33)
        save_image(root / "Images" / sift_flow.SCENES / f"{id}.jpg")
        path = root / "SemanticLabels" / sift_flow.SCENES / f"{id}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = np.where(masks[id] == IGNORE, 0, masks[id] + 1).astype(np.uint8)
        names = np.array([[name] for name in sift_flow.CLASSES], object)
        scipy.io.savemat(path, {"S": labels, "names": names}, do_compression=True)
    (root / "TestSet1.txt").write_bytes(f"{sift_flow.SCENES}\\street_par151.jpg\r\n".encode())
    return masks


def ade(root):
    root = root / "ADEChallengeData2016"
    masks = {}
    for split, short, count in (("training", "train", 2), ("validation", "val", 1)):
        for number in range(1, count + 1):
            id = f"ADE_{short}_{number:08d}"
            masks[id] = random_mask(len(masks), ADE_ROWS)
            save_image(root / "images" / split / f"{id}.jpg")
            save(root / "annotations" / split / f"{id}.png", np.where(masks[id] == IGNORE, 0, masks[id] + 1))
    return masks


# Categories as COCO numbers them, with gaps: things, and stuff of the panoptic files.
COCO_THINGS = {1: "person", 17: "cat", 90: "toothbrush"}
COCO_STUFF = {92: "banner", 200: "rug-merged"}
COCO_IDS = {"train2017": ("000000000009", "000000000025", "000000000030"), "val2017": ("000000000139",)}


def coco_images(root):
    for year, ids in COCO_IDS.items():
        for id in ids:
            save_image(root / year / f"{id}.jpg")


def coco_segments(seed):
    """A map of numbers of segments as large as COCO's, and its segments: a crowd, a thing, stuff; 0 = none."""
    numbers = np.zeros(SIZE, np.int64)
    numbers[2:6, 3:9], numbers[7:11, 1:5], numbers[:, 12:] = 3937500 + seed, 70000, 255
    found = [(3937500 + seed, 17, 0, [3, 2, 6, 4]), (70000, 1, 1, [1, 7, 4, 4]), (255, 200, 0, [12, 0, 4, 12])]
    return numbers, [
        {"id": id, "category_id": category, "iscrowd": crowd, "bbox": box, "area": box[2] * box[3]}
        for id, category, crowd, box in found
    ]


def coco_listing(ids, annotations, categories):
    images = [
        {"id": int(id), "file_name": f"{id}.jpg", "height": SIZE[0], "width": SIZE[1], "license": 1} for id in ids
    ]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_panoptic(root):
    """Images with panoptic maps -> {ID: map of category ids, 0 = none}."""
    coco_images(root)
    named = {**COCO_THINGS, **COCO_STUFF}
    categories = [
        {"id": id, "name": name, "isthing": int(id in COCO_THINGS), "supercategory": "any", "color": [0, 0, 0]}
        for id, name in sorted(named.items(), reverse=True)
    ]
    maps = {}
    for year, ids in COCO_IDS.items():
        annotations = []
        for seed, id in enumerate(ids):
            numbers, segments = coco_segments(seed)
            colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1)
            save(root / "annotations" / f"panoptic_{year}" / f"{id}.png", colors)
            annotations.append({"image_id": int(id), "file_name": f"{id}.png", "segments_info": segments})
            maps[id] = np.zeros(SIZE, np.int64)
            for segment in segments:
                maps[id][numbers == segment["id"]] = segment["category_id"]
        write_json(root / "annotations" / f"panoptic_{year}.json", coco_listing(ids, annotations, categories))
    return maps


def coco_instances(root):
    """Images with a polygon, a crowd of plain run lengths and one of compressed ones -> {ID: map of category ids}."""
    coco_images(root)
    maps, number = {}, itertools.count(1)
    categories = [{"id": id, "name": name, "supercategory": "any"} for id, name in COCO_THINGS.items()]
    for year, ids in COCO_IDS.items():
        annotations = []
        for seed, id in enumerate(ids[:2]):  # others have no instance
            crowd, packed = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
            crowd[0:3, 0:2], packed[5:11, 9:15] = True, True
            packed[6, 10 + seed] = False
            shapes = (
                (17, 0, [[2, 5, 7, 5, 7, 10, 2, 10]], [2, 5, 5, 5]),
                (1, 1, {"counts": run_lengths(crowd), "size": list(SIZE)}, [0, 0, 2, 3]),
                (90, 0, {"counts": compressed(run_lengths(packed)), "size": list(SIZE)}, [9, 5, 6, 6]),
            )
            annotations += [
                {"id": next(number), "image_id": int(id), "category_id": category, "iscrowd": crowd_flag,
                 "segmentation": shape, "bbox": box, "area": box[2] * box[3]}
                for category, crowd_flag, shape, box in shapes
            ]  # fmt: skip
            maps[id] = np.where(packed, 90, np.where(crowd, 1, 0))
            maps[id][5:10, 2:7] = 17
        maps |= {id: np.zeros(SIZE, np.int64) for id in ids[2:]}
        write_json(root / "annotations" / f"instances_{year}.json", coco_listing(ids, annotations, categories))
    return maps


def coco_pixelmaps(root):
    """Images with maps of COCO-Stuff -> {ID: map of category ids, 0 = unlabelled}."""
    coco_images(root)
    maps = {}
    for year, ids in COCO_IDS.items():
        for id in ids:
            maps[id] = np.random.default_rng(len(maps)).choice([0, 1, 90, 92, 182], SIZE)
            save(root / "stuffthingmaps" / year / f"{id}.png", np.where(maps[id] == 0, IGNORE, maps[id] - 1))
    return maps


def run_lengths(mask):
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    ends = [0, *np.flatnonzero(flat[1:] != flat[:-1]), mask.size]
    lengths = np.diff(ends).tolist()
    return lengths if lengths[-1] else lengths[:-1]


def compressed(lengths):
    """Run lengths as COCO's text, written from its description."""
    text = ""
    for place, length in enumerate(lengths):
        value = length - (lengths[place - 2] if place > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            last = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if last else 32))
            if last:
                break
    return text
