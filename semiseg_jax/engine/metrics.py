"""Segmentation metrics over a whole dataset, as `clu.metrics`. Counts live on the host in int64."""

from collections.abc import Sequence
from typing import Any

import cv2
import flax
import numpy as np
from clu import metrics as clu_metrics

from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.parallel import sum_over_processes


@flax.struct.dataclass
class ConfusionMatrix(clu_metrics.Metric):
    """Pixels counted by [truth, prediction]."""

    counts: np.ndarray

    @classmethod
    def empty(cls, num_classes: int = 0) -> "ConfusionMatrix":
        return cls(np.zeros((num_classes, num_classes), np.int64))

    @classmethod
    def from_model_output(cls, truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> "ConfusionMatrix":
        """truth, prediction: integer arrays of the same shape; 255 in the truth does not count."""
        counts = truth != IGNORE
        pairs = truth[counts].astype(np.int64) * num_classes + prediction[counts].astype(np.int64)
        return cls(np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes))

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        return type(self)(self.counts + other.counts)

    def over_processes(self) -> "ConfusionMatrix":
        """The sum over processes."""
        return type(self)(sum_over_processes(self.counts))

    def compute(self) -> dict[str, Any]:
        """A class that is neither in the truth nor predicted has no IoU (NaN) and does not enter the mean."""
        counts = self.counts.astype(np.float64)
        hits, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        union = truth + predicted - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = hits / union
            accuracy = hits / truth
        total = max(counts.sum(), 1.0)
        return {
            "miou": _nanmean(iou),
            "pixel_accuracy": float(hits.sum() / total),
            "mean_accuracy": _nanmean(accuracy),
            "fw_iou": float(np.nansum(iou * truth) / total),
            "iou": iou,
            "class_accuracy": accuracy,
            "confusion": self.counts,
        }


@flax.struct.dataclass
class BoundaryF(clu_metrics.Metric):
    """F-score of class boundaries within a tolerance of 0.75 % of the image diagonal (Csurka et al. 2013).

    One score an image and class that has a boundary in truth or prediction; mean over images, then over classes.
    """

    scores: np.ndarray  # [K] sum over images
    images: np.ndarray  # [K]

    @classmethod
    def empty(cls, num_classes: int = 0) -> "BoundaryF":
        return cls(np.zeros(num_classes), np.zeros(num_classes, np.int64))

    @classmethod
    def from_model_output(cls, truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> "BoundaryF":
        """truth, prediction: one image [H,W]. Pixels with 255 in the truth belong to no class.

        Masks such as Pascal VOC's draw boundaries as lines of void; the boundary is then the middle of the line.
        """
        out = cls.empty(num_classes)
        reach = max(1, round(0.0075 * float(np.hypot(*truth.shape))))
        truth = _close_lines(truth, reach)
        counts = truth != IGNORE
        for klass in np.union1d(np.unique(truth[counts]), np.unique(prediction[counts])).astype(int):
            regions = np.stack([(labels == klass) & counts for labels in (truth, prediction)])
            window = _bounding_box(np.logical_or(*regions), margin=reach + 1)
            edges = [_boundary(region[window], counts[window]) for region in regions]
            sums = [int(edge.sum()) for edge in edges]
            if not sum(sums):
                continue
            near = [cv2.distanceTransform(1 - edge, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach for edge in edges]
            recall = (edges[0] & near[1]).sum() / max(sums[0], 1) if sums[1] else 0.0
            precision = (edges[1] & near[0]).sum() / max(sums[1], 1) if sums[0] else 0.0
            out.scores[klass] += 2 * precision * recall / max(precision + recall, 1e-9)
            out.images[klass] += 1
        return out

    def merge(self, other: "BoundaryF") -> "BoundaryF":
        return type(self)(self.scores + other.scores, self.images + other.images)

    def over_processes(self) -> "BoundaryF":
        return type(self)(sum_over_processes(self.scores), sum_over_processes(self.images))

    def compute(self) -> dict[str, Any]:
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = self.scores / self.images
        return {"boundary_f": _nanmean(scores), "class_boundary_f": scores}


def _close_lines(truth: np.ndarray, reach: int) -> np.ndarray:
    """Gives void pixels between two classes, within `reach` of the nearer and twice that of both, to the nearer."""
    void = truth == IGNORE
    if not void.any() or void.all():
        return truth
    classes = np.unique(truth[~void])
    away = np.stack([cv2.distanceTransform((truth != c).astype(np.uint8), cv2.DIST_L2, 5) for c in classes])
    between = void & (away.min(axis=0) <= reach) & ((away <= 2 * reach).sum(axis=0) > 1)
    return np.where(between, classes[away.argmin(axis=0)], truth)


def _bounding_box(region: np.ndarray, margin: int) -> tuple[slice, slice]:
    ys, xs = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return slice(max(0, ys[0] - margin), ys[-1] + margin + 1), slice(max(0, xs[0] - margin), xs[-1] + margin + 1)


def _boundary(region: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pixels of the region that touch a counted pixel outside it, as uint8."""
    outside = (~region & counts).astype(np.uint8)
    return (region & (cv2.dilate(outside, np.ones((3, 3), np.uint8)) > 0)).astype(np.uint8)


def _nanmean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def format_table(results: dict[str, Any], classes: Sequence[str]) -> str:
    """Per-class rows and the means, as text."""

    def cell(value: float) -> str:
        return f"{value:8.4f}" if np.isfinite(value) else "       -"

    width = max(12, *(len(name) for name in classes))
    lines = [f"{'class':<{width}}      IoU accuracy boundary"]
    for number, name in enumerate(classes):
        values = (
            results["iou"][number],
            results["class_accuracy"][number],
            results["class_boundary_f"][number],
        )
        lines.append(f"{name:<{width}} " + " ".join(cell(value) for value in values))
    lines.append("-" * len(lines[0]))
    lines.append(f"{'mean':<{width}} " + " ".join(cell(results[k]) for k in ("miou", "mean_accuracy", "boundary_f")))
    lines.append(
        f"mIoU {results['miou']:.4f}   pixel accuracy {results['pixel_accuracy']:.4f}   "
        f"frequency-weighted IoU {results['fw_iou']:.4f}   boundary F {results['boundary_f']:.4f}"
    )
    return "\n".join(lines)
