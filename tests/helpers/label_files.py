"""Makes images and imports labels of them in tests of `semiseg_jax.exchange`."""

import json

import numpy as np
from PIL import Image

from semiseg_jax import import_labels

SIZE = (10, 14)


def make_images(root, *names, size=SIZE):
    """Grey images of these paths below a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(path)
    return root


def canvas(fill=0, **squares):
    """[H,W] uint8 with rectangles painted on, each given as class_NAME=(y0, x0, y1, x1)."""
    mask = np.full(SIZE, fill, np.uint8)
    for name, (y0, x0, y1, x1) in squares.items():
        mask[y0:y1, x0:x1] = int(name.split("_")[1])
    return mask


def imported(format, source, tmp_path, **options):
    """Imports into tmp_path/out -> the report and a function that gives what is in a file there."""
    report = import_labels(format, source, tmp_path / "out", **options)

    def load(name):
        path = tmp_path / "out" / name
        return np.asarray(Image.open(path)) if path.suffix == ".png" else json.loads(path.read_text())

    return report, load


def boxes_by_id(content):
    """{ID: [(bbox, class, ignored)]} of boxes.json."""
    names = {row["id"]: row["file_name"].removesuffix(".png") for row in content["images"]}
    found = {name: [] for name in names.values()}
    for row in content["annotations"]:
        found[names[row["image_id"]]].append((row["bbox"], row["category_id"], row["iscrowd"]))
    return found
