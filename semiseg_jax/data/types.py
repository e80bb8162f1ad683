"""What the data room hands to the rest: supervision kinds, `Example` and `Batch`."""

import enum
from typing import TypedDict, TypeVar

import jax
import numpy as np

IGNORE = 255  # the label of pixels without a label
MOST_CLASSES = 254
STROKE_PIECE = 16  # pixels; strokes are stored in pieces no longer than this, so that drawing has a fixed cost


class Supervision(enum.IntEnum):
    """How a row was sampled, weakest first."""

    UNLABELED = 0
    TAGS = 1
    POINTS = 2
    SCRIBBLE = 3
    BOX = 4
    PARTIAL = 5
    DENSE = 6

    @classmethod
    def parse(cls, name: str) -> "Supervision":
        try:
            return cls[name.upper()]
        except KeyError:
            known = ", ".join(kind.name.lower() for kind in cls)
            meant = {"masks": "dense", "mask": "dense", "clicks": "points", "scribbles": "scribble", "boxes": "box"}
            hint = f" (did you mean {meant[name.lower()]}?)" if name.lower() in meant else ""
            raise ValueError(f"unknown supervision kind {name!r}{hint}; known kinds: {known}") from None


# Kinds without labels of single pixels, which labels that a program made may stand in for.
MADE_FOR = (Supervision.UNLABELED, Supervision.TAGS, Supervision.BOX)

Rows = TypeVar("Rows")


class Example(TypedDict):
    """A host batch: geometry is still geometry. P, S and M are capacities; unused rows are padding."""

    image: np.ndarray  # [B,Hc,Wc,3] uint8, placed at the top left of the canvas
    mask: np.ndarray  # [B,Hc,Wc] uint8, 255 = no label
    points: np.ndarray  # [B,P,3] float32 y, x, class; class -1 = padding
    strokes: np.ndarray  # [B,S,5] float32 y0, x0, y1, x1, class; class -1 = padding
    boxes: np.ndarray  # [B,M,4] float32 y0, x0, y1, x1
    box_class: np.ndarray  # [B,M] int32, -1 = padding, 255 = ignore region
    tags: np.ndarray  # [B,K] int8
    size: np.ndarray  # [B,2] int32 height and width of the image inside the canvas
    seed: np.ndarray  # [B] uint32, drives the augmentation of this row
    kind: np.ndarray  # [B] int32
    id: np.ndarray  # [B,2] int32 source (index of the quota entry) and record index


class Batch(TypedDict):
    """A device batch with the same keys whatever the supervision, so that one compiled step serves any mixture.

    Rows of a micro-batch on each device are ordered by kind, strongest first, so that rows with a mask come first.
    The quota says how many there are of each kind.
    """

    image: jax.Array  # [B,H,W,3] RGB, uint8 or float32 in [0,1]
    label: jax.Array  # [B,H,W] int32; 255 = no label here
    valid: jax.Array  # [B,H,W] bool; false on padding
    boxes: jax.Array  # [B,M,4] float32 y0, x0, y1, x1 in pixels
    box_class: jax.Array  # [B,M] int32; -1 = padding, 255 = ignore region
    tags: jax.Array  # [B,K] int8; 1 present, 0 absent, -1 unknown (of the whole image, also after a crop)
    kind: jax.Array  # [B] int32, `Supervision`
    id: jax.Array  # [B,2] int32 source and index
    seed: jax.Array  # [B] uint32, of further randomness in this row: the same on any number of devices


def split_rows(arrays: Rows, first: int) -> tuple[Rows, Rows]:
    """The first rows and the others of a batch, or of any other arrays that begin with the axis of rows."""
    return jax.tree.map(lambda array: array[:first], arrays), jax.tree.map(lambda array: array[first:], arrays)
