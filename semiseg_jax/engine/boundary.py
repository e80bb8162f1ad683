"""How well the boundaries of classes are found, on the host: one score an image and class."""

import itertools
import math
from typing import Any

import cv2
import flax
import numpy as np
from clu import metrics as clu_metrics

from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.metrics import nanmean
from semiseg_jax.engine.parallel import sum_over_processes

TOLERANCE = 0.0075  # of the image's diagonal
LEAST_SEEN = 0.25  # share of the outlines in the truth that must lie between classes and not at void
_NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))  # and their opposites
_PLANE = 8  # classes that share a byte
_CELL = 64  # side of the parts in which lines of void are closed


@flax.struct.dataclass
class BoundaryF(clu_metrics.Metric):
    """F-score of class boundaries within a tolerance of 0.75 % of the image diagonal (Csurka et al. 2013).

    One score an image and class that has a boundary in truth or prediction; mean over images, then over classes. Where
    classes mostly border on void and not on each other, there is little to be compared with, and the score is NaN.
    """

    scores: np.ndarray  # [K] sum over images
    images: np.ndarray  # [K]
    outlines: np.ndarray  # [2] pixels of the truth that touch another class, and that touch void alone

    @classmethod
    def empty(cls, num_classes: int = 0) -> "BoundaryF":
        return cls(np.zeros(num_classes), np.zeros(num_classes, np.int64), np.zeros(2, np.int64))

    @classmethod
    def from_model_output(cls, truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> "BoundaryF":
        """truth, prediction: one image [H,W]. Pixels with 255 in the truth belong to no class.

        Masks such as Pascal VOC's draw boundaries as lines of void; the boundary is then the middle of the line.
        """
        out = cls.empty(num_classes)
        reach = max(1, round(TOLERANCE * float(np.hypot(*truth.shape))))
        truth = _close_lines(truth, reach)
        counted = truth != IGNORE
        labels = (truth, prediction.astype(np.uint8))
        edges = [_edges(of, counted) for of in labels]
        out.outlines[:] = edges[0].sum(), (_touching(~counted) & counted & ~edges[0]).sum()
        lengths = [np.bincount(of[edge], minlength=num_classes) for of, edge in zip(labels, edges, strict=True)]
        near = _near_counts(labels, edges, reach, num_classes)
        present = (lengths[0] + lengths[1]) > 0
        recall, precision = (hits / np.maximum(length, 1) for hits, length in zip(near, lengths, strict=True))
        out.scores[present] = (2 * precision * recall / np.maximum(precision + recall, 1e-9))[present]
        out.images[present] = 1
        return out

    def merge(self, other: "BoundaryF") -> "BoundaryF":
        return type(self)(self.scores + other.scores, self.images + other.images, self.outlines + other.outlines)

    def over_processes(self) -> "BoundaryF":
        return type(self)(*map(sum_over_processes, (self.scores, self.images, self.outlines)))

    def compute(self) -> dict[str, Any]:
        """The scores, and the share of the outlines in the truth that lie between classes."""
        total = self.outlines.sum()
        share = float(self.outlines[0] / total) if total else float("nan")
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = self.scores / self.images
        if share < LEAST_SEEN:
            scores = np.full_like(scores, np.nan)
        return {"boundary_f": nanmean(scores), "class_boundary_f": scores, "boundary_share": share}


def boundary_note(results: dict[str, Any]) -> str:
    """Why there is no boundary F, as a sentence; "" where there is one, or was none to be measured."""
    share = results.get("boundary_share", float("nan"))
    if not share < LEAST_SEEN:
        return ""
    return (
        f"boundary F cannot be measured: {1 - share:.0%} of the outlines of classes in the masks lie at void pixels "
        "and not at another class"
    )


def _edges(labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Counted pixels that touch a counted pixel of another class."""
    out = np.zeros(labels.shape, bool)
    height, width = labels.shape
    for dy, dx in _NEIGHBOURS:
        left, right = max(0, -dx), max(0, dx)
        here = (slice(0, height - dy), slice(left, width - right))
        there = (slice(dy, height), slice(left + dx, width - right + dx))
        differs = labels[here] != labels[there]
        differs &= counted[here]
        differs &= counted[there]
        out[here] |= differs
        out[there] |= differs
    return out


def _touching(region: np.ndarray) -> np.ndarray:
    """The region, and every pixel that touches it."""
    return cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _near_counts(
    labels: tuple[np.ndarray, np.ndarray], edges: list[np.ndarray], reach: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """[K] edge pixels of the first with an edge of the same class in the second within `reach`, and the other way.

    Eight classes at a time: each has a bit in a byte, and the bytes of edges spread over a disc.
    """
    counts = np.zeros((2, num_classes), np.int64)
    places = [np.nonzero(edge) for edge in edges]
    classes = [of[place].astype(np.intp) for of, place in zip(labels, places, strict=True)]
    shared = np.intersect1d(classes[0], classes[1])
    for start in range(0, len(shared), _PLANE):
        plane = shared[start : start + _PLANE]
        bits = np.zeros(256, np.uint8)
        bits[plane] = 1 << np.arange(len(plane))
        drawn = []
        for place, of in zip(places, classes, strict=True):
            drawn.append(np.zeros(edges[0].shape, np.uint8))
            drawn[-1][place] = bits[of]
        for side in (0, 1):
            hit = _spread(drawn[1 - side], reach)[places[side]] & bits[classes[side]]
            counts[side] += np.bincount(classes[side][hit > 0], minlength=num_classes)
    return counts[0], counts[1]


def _spread(bits: np.ndarray, reach: int) -> np.ndarray:
    """[H,W] the bits that are set within `reach` of each pixel: a disc is a stack of horizontal lines."""
    height, width = bits.shape
    padded = np.pad(bits, reach)
    lines = padded[:, reach : reach + width].copy()  # bits within `half` to the left or right
    out = np.zeros_like(bits)
    half = 0
    for dy in range(reach, -1, -1):
        while half < math.isqrt(reach**2 - dy**2):
            half += 1
            lines |= padded[:, reach - half : reach - half + width]
            lines |= padded[:, reach + half : reach + half + width]
        out |= lines[reach - dy : reach - dy + height]
        out |= lines[reach + dy : reach + dy + height]
    return out


def _close_lines(truth: np.ndarray, reach: int) -> np.ndarray:
    """Gives void pixels between two classes, within `reach` of the nearer and twice that of both, to the nearer.

    Cell by cell: few classes are near to a cell, and most cells hold no void.
    """
    out, margin = truth.copy(), 2 * reach + 1
    for top, left in itertools.product(*(range(0, side, _CELL) for side in truth.shape)):
        rows, columns = np.nonzero(truth[top : top + _CELL, left : left + _CELL] == IGNORE)
        if len(rows):
            up, before = max(0, top - margin), max(0, left - margin)
            around = truth[up : top + _CELL + margin, before : left + _CELL + margin]
            rows, columns = rows + top, columns + left
            out[rows, columns] = _closed(around, (rows - up, columns - before), reach)
    return out


def _closed(truth: np.ndarray, at: tuple[np.ndarray, np.ndarray], reach: int) -> np.ndarray:
    """The class that each of these void pixels is given, or 255."""
    classes = np.flatnonzero(np.bincount(truth.ravel(), minlength=IGNORE + 1)[:IGNORE])
    owner = np.full(len(at[0]), IGNORE, np.uint8)
    if len(classes) < 2:
        return owner
    away = np.stack([cv2.distanceTransform((truth != klass).astype(np.uint8), cv2.DIST_L2, 5)[at] for klass in classes])
    between = (away.min(axis=0) <= reach) & ((away <= 2 * reach).sum(axis=0) > 1)
    return np.where(between, classes[away.argmin(axis=0)], owner).astype(np.uint8)
