"""Masks and records of the small dataset folder that `make_folder` writes."""

from pathlib import Path

import numpy as np
from PIL import Image

from semiseg_jax.data.types import Supervision

SIZE = (40, 48)
EVERYTHING = {"scribbles": True, "points": True, "boxes": True, "tags": True}


def save_mask(path: Path, mask, palette=None):
    file = Image.fromarray(np.asarray(mask, np.uint8))
    if palette:
        file = file.convert("P")
        file.putdata(np.asarray(mask).ravel().tolist())
        file.putpalette(palette)
    file.save(path)


def square_mask(i=0):
    mask = np.zeros(SIZE, np.uint8)
    mask[10 + i : 26 + i, 12:30] = 1
    return mask


def names(kinds):
    return {Supervision(kind).name for kind in kinds}


def records(builder, split="train"):
    builder.build()
    return {record["id"].decode(): record for record in builder.records(split)}


def mask_values(root):
    save_mask(root / "masks" / "im1.png", np.where(square_mask() == 1, 7, 0))
