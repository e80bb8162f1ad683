"""Rows of an `Example` made by hand, and what augmentation makes of them."""

import jax
import numpy as np

from semiseg_jax.data.augment import Augment
from semiseg_jax.data.records import split_strokes
from semiseg_jax.data.types import IGNORE, Supervision

COLORS = np.array([[20, 20, 20], [240, 40, 40], [40, 240, 40]], np.uint8)
POINTS, STROKES, BOXES, K = 4, 40, 3, 3


def pad(rows, capacity, columns, fill=-1.0):
    out = np.full((capacity, columns), fill, np.float32)
    rows = np.asarray(rows, np.float32).reshape(-1, columns)
    out[: len(rows)] = rows
    return out


def make_row(mask, *, canvas=(64, 64), dense=True, points=(), strokes=(), boxes=(), seed=0, kind=Supervision.DENSE):
    """A row whose colours say the class of each pixel; unlabelled pixels have the colour of class 0."""
    mask = np.asarray(mask, np.uint8)
    height, width = mask.shape
    image = np.full((*canvas, 3), 124, np.uint8)
    image[:height, :width] = COLORS[np.where(mask == IGNORE, 0, mask)]
    label = np.full(canvas, IGNORE, np.uint8)
    if dense:
        label[:height, :width] = mask
    return {
        "image": image,
        "mask": label,
        "points": pad(points, POINTS, 3),
        "strokes": pad(split_strokes(np.asarray(strokes, np.float32).reshape(-1, 5)), STROKES, 5),
        "boxes": pad(boxes, BOXES, 4, 0.0),
        "box_class": pad(np.ones(len(boxes)), BOXES, 1)[:, 0].astype(np.int32),
        "tags": np.array([1, 0, -1], np.int8),
        "size": np.array([height, width], np.int32),
        "seed": np.uint32(seed),
        "kind": np.int32(kind),
        "id": np.array([0, seed], np.int32),
    }


def stack(rows):
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


run = jax.jit(Augment.__call__, static_argnums=0)  # tests with the same options share one compilation


def augment(rows, **options):
    """Rows -> batch as numpy, jitted."""
    return jax.tree.map(np.asarray, run(Augment.plain(**{"random_crop": True} | options), stack(rows)))
