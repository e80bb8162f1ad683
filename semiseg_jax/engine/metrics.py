"""Segmentation metrics over a whole dataset, as `clu.metrics`. Counts live on the host in int64."""

from collections.abc import Sequence
from typing import Any

import flax
import numpy as np
from clu import metrics as clu_metrics

from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.parallel import sum_over_processes

BINS = 15  # of the calibration error


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
        """A class that is neither in the truth nor predicted has no IoU (NaN) and does not enter the mean.

        Recall is the share of a class's pixels that are found, precision that of its predicted pixels that are right.
        """
        counts = self.counts.astype(np.float64)
        hits, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        union = truth + predicted - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = hits / union
            recall = hits / truth
            precision = hits / predicted
        total = max(counts.sum(), 1.0)
        return {
            "miou": nanmean(iou),
            "pixel_accuracy": float(hits.sum() / total),
            "mean_accuracy": nanmean(recall),
            "fw_iou": float(np.nansum(iou * truth) / total),
            "iou": iou,
            "class_recall": recall,
            "class_precision": precision,
            "confusion": self.counts,
        }


@flax.struct.dataclass
class Calibration(clu_metrics.Metric):
    """Whether probabilities mean what they say: pixels by the largest probability, in even bins."""

    bins: np.ndarray  # [3,BINS] number of pixels, sum of their largest probability, number of hits

    @classmethod
    def empty(cls) -> "Calibration":
        return cls(np.zeros((3, BINS)))

    @classmethod
    def from_model_output(cls, truth: np.ndarray, prediction: np.ndarray, top: np.ndarray) -> "Calibration":
        """truth, prediction: integer arrays; top: the largest probability. 255 in the truth does not count."""
        counts = truth != IGNORE
        top, hits = top[counts], truth[counts] == prediction[counts]
        at = np.clip((top * BINS).astype(int), 0, BINS - 1)
        return cls(np.stack([np.bincount(at, weights, minlength=BINS) for weights in (None, top, hits)]))

    def merge(self, other: "Calibration") -> "Calibration":
        return type(self)(self.bins + other.bins)

    def over_processes(self) -> "Calibration":
        """The sum over processes."""
        return type(self)(sum_over_processes(self.bins))

    def compute(self) -> dict[str, Any]:
        """The expected calibration error: the mean over pixels of |share of hits - mean probability| of their bin."""
        pixels, probability, hits = self.bins
        total = pixels.sum()
        return {"ece": float(np.abs(hits - probability).sum() / total) if total else float("nan")}


def nanmean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


_COLUMNS = (  # title, vector, mean
    ("IoU", "iou", "miou"),
    ("recall", "class_recall", "mean_accuracy"),
    ("precision", "class_precision", ""),
    ("boundary", "class_boundary_f", "boundary_f"),
)


def format_table(results: dict[str, Any], classes: Sequence[str]) -> str:
    """Per-class rows and the means, as text, of what was measured."""
    columns = [column for column in _COLUMNS if column[1] in results]
    width = max(12, *(len(name) for name in classes))

    def row(name: str, values: Sequence[float]) -> str:
        cells = (f"{value:9.4f}" if np.isfinite(value) else f"{'-':>9}" for value in values)
        return f"{name:<{width}} " + " ".join(cells)

    lines = [f"{'class':<{width}} " + " ".join(f"{title:>9}" for title, _, _ in columns)]
    lines += [row(name, [results[vector][k] for _, vector, _ in columns]) for k, name in enumerate(classes)]
    means = [results[mean] if mean else nanmean(results[vector]) for _, vector, mean in columns]
    lines += ["-" * len(lines[0]), row("mean", means)]
    numbers = {
        "mIoU": "miou",
        "pixel accuracy": "pixel_accuracy",
        "frequency-weighted IoU": "fw_iou",
        "boundary F": "boundary_f",
        "calibration error": "ece",
    }
    measured = {title: results[name] for title, name in numbers.items() if name in results}
    return "\n".join([*lines, "   ".join(f"{title} {value:.4f}" for title, value in measured.items())])
